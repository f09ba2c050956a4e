"""What goes wrong between us and the kernel has one base, which costs nothing to import."""

from __future__ import annotations


class KernelError(Exception):
    """This kernel or this host cannot do what watching needs; the text says what."""


class ProbeError(KernelError):
    """A probe without which nothing can be watched is refused by this kernel."""
