"""agentwatch: watches AI agents from the kernel, recognises what they must not do, and stops them."""

__version__ = "0.1.0"
