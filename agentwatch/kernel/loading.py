"""Loads the probes on a thread: verifying them is the kernel's time, which others can use."""

from __future__ import annotations

import threading
from types import TracebackType
from typing import TYPE_CHECKING

from agentwatch.kernel.errors import KernelError

if TYPE_CHECKING:
    from agentwatch.kernel.probes import Probes


class ProbeError(KernelError):
    """A probe without which nothing can be watched is refused by this kernel."""


class ProbeLoading:
    """Probes that are being loaded. Closing waits for them and closes them."""

    def __init__(self) -> None:
        self._probes: Probes | None = None
        self._error: Exception | None = None
        self._thread = threading.Thread(target=self._load, name="load-probes")
        self._thread.start()

    def _load(self) -> None:
        try:
            from agentwatch.kernel.probes import Probes  # noqa: PLC0415 (the thread loads this, too)

            self._probes = Probes()
        except Exception as error:  # raised again where the probes are asked for
            self._error = error

    def probes(self) -> Probes:
        """The probes, waited for. Raises what loading them raised."""
        self._thread.join()
        if self._error is not None:
            raise self._error
        assert self._probes is not None
        return self._probes

    def __enter__(self) -> ProbeLoading:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._thread.join()
        if self._probes is not None:
            self._probes.close()
