"""Starts the agent's command: held back until it is watched, then run as if by a shell."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import TYPE_CHECKING

from agentwatch.kernel.cgroup import Cgroup

if TYPE_CHECKING:
    from agentwatch.kernel.probes import Probes

NOT_FOUND, NOT_RUN = 127, 126  # as a shell says it
_READ = 65536
_LINE = 4096  # bytes of a captured line that are kept, and of a reason


class Child:
    """A forked process that waits, then becomes the command.

    Forked before the session exists, so that no thread is running. With `capture` its output
    comes through `output()` line by line instead of reaching the terminal. `enter` is called in it
    before it becomes the command; raises `OSError` or `ValueError` where it must not.
    """

    def __init__(
        self,
        command: Sequence[str],
        *,
        capture: bool,
        stdout_to_stderr: bool,
        enter: Callable[[], None] = lambda: None,
    ) -> None:
        self.code: int | None = None
        self._gate_read, self._gate = os.pipe()
        self._error, error_write = os.pipe()
        self._output, output_write = os.pipe() if capture else (-1, -1)
        self._partial = b""
        self.pid = os.fork()
        if self.pid == 0:
            os.close(self._gate)
            os.close(self._error)
            _become(command, enter, self._gate_read, error_write, output_write, stdout_to_stderr)
        os.close(self._gate_read)
        os.close(error_write)
        if capture:
            os.close(output_write)
            os.set_blocking(self._output, False)

    def start(self, cgroup: Cgroup, probes: Probes, agent: int) -> None:
        """Put it under watch, then let it go."""
        cgroup.move(self.pid)
        probes.tag(self.pid, agent)
        self.release()

    def release(self) -> None:
        """Let it go."""
        os.write(self._gate, b"\1")
        os.close(self._gate)
        self._gate = -1

    def failure(self) -> str:
        """Why the command could not be run; empty where it could. Waits until that is known."""
        return os.read(self._error, _LINE).decode("utf-8", "replace")

    def output(self) -> list[str]:
        """Lines written since the last call. Bytes that are no UTF-8 are shown as such."""
        if self._output < 0:
            return []
        lines: list[bytes] = []
        try:
            while data := os.read(self._output, _READ):
                *whole, self._partial = (self._partial + data).split(b"\n")
                lines += whole
                self._partial = self._partial[:_LINE]
        except BlockingIOError:
            pass
        return [line[:_LINE].decode("utf-8", "backslashreplace") for line in lines]

    def reap(self) -> None:
        """Collect the exit code once it has ended."""
        if self.code is not None:
            return
        pid, status = os.waitpid(self.pid, os.WNOHANG)
        if pid:
            code = os.waitstatus_to_exitcode(status)
            self.code = 128 - code if code < 0 else code

    def wait(self) -> int:
        """Its exit code; 128 + signal where a signal ended it."""
        while self.code is None:
            _, status = os.waitpid(self.pid, 0)
            code = os.waitstatus_to_exitcode(status)
            self.code = 128 - code if code < 0 else code
        return self.code

    def __enter__(self) -> Child:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for fd in (self._gate, self._error, self._output):
            if fd >= 0:
                os.close(fd)  # a child that still waits ends when its gate closes


def _become(
    command: Sequence[str],
    enter: Callable[[], None],
    gate: int,
    error: int,
    output: int,
    stdout_to_stderr: bool,
) -> None:
    """In the child: wait for the gate, then run the command. Never returns."""
    try:
        # The interpreter ignores SIGPIPE and catches SIGINT; the command expects neither.
        for number in (signal.SIGPIPE, signal.SIGINT, signal.SIGXFSZ):
            signal.signal(number, signal.SIG_DFL)
        if os.read(gate, 1) != b"\1":
            os._exit(NOT_RUN)
        enter()
        if output >= 0:
            os.dup2(output, 1)
            os.dup2(output, 2)
        elif stdout_to_stderr:
            os.dup2(2, 1)
        os.execvp(command[0], list(command))
    except (OSError, ValueError) as failure:
        reason = getattr(failure, "strerror", None) or str(failure)
        os.write(error, reason.encode("utf-8", "backslashreplace")[:_LINE])
        os._exit(NOT_FOUND if isinstance(failure, FileNotFoundError) else NOT_RUN)
    finally:
        sys.stderr.flush()
        os._exit(NOT_RUN)
