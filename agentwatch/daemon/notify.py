"""Messages to systemd: ready, alive, stopping (sd_notify(3)). Nothing without a service manager."""

from __future__ import annotations

import os
import socket
from contextlib import suppress

from agentwatch.clock import now


class Notifier:
    """Tells the service manager of `$NOTIFY_SOCKET`. With `$WATCHDOG_USEC` it is told that we live."""

    def __init__(self) -> None:
        address = os.environ.pop("NOTIFY_SOCKET", "")
        self._address = "\0" + address[1:] if address.startswith("@") else address
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)
        self._socket.setblocking(False)
        # Half of what is allowed, as sd_watchdog_enabled(3) asks; in ns.
        self._interval = int(os.environ.pop("WATCHDOG_USEC", "0")) * 500
        self._next = 0

    def say(self, *assignments: str) -> None:
        """Send `NAME=value` assignments. A manager that does not listen is no reason to stop."""
        if self._address:
            with suppress(OSError):
                self._socket.sendto("\n".join(assignments).encode(), self._address)

    def alive(self) -> None:
        """To be called in every turn of the loop: one that hangs is noticed by its silence."""
        if self._interval and now() >= self._next:
            self._next = now() + self._interval
            self.say("WATCHDOG=1")

    def close(self) -> None:
        self._socket.close()
