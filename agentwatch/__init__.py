"""agentwatch: watches AI agents from the kernel, recognises what they must not do, and stops them."""

__version__ = "0.1.0"

__all__ = ["watch"]


def __getattr__(name: str) -> object:
    """`watch` is loaded when it is asked for: the package itself costs nothing to import."""
    if name in __all__:
        from agentwatch import api  # noqa: PLC0415

        return getattr(api, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
