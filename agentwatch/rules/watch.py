"""Reloading rules when their files change or the operator asks, without holding up the daemon.

A thread waits for changes (inotify), lets a burst of them settle, and loads. What it loads is
handed over at `poll`, between two events: the engine in force is never touched. A set with
problems is reported and left; the one before stays in force.
"""

from __future__ import annotations

import ctypes
import os
import select
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

from agentwatch.rules.model import Problem, RuleError, RuleSet

# How long changes must have stopped, in milliseconds: an editor or a checkout makes many. In a
# folder that is never quiet, so many such spans are waited for at most.
SETTLE_MS = 200
SETTLE_SPANS = 25

_IN_NONBLOCK_CLOEXEC = os.O_NONBLOCK | os.O_CLOEXEC
# IN_ATTRIB, IN_CLOSE_WRITE, IN_MOVED_FROM, IN_MOVED_TO, IN_CREATE, IN_DELETE (inotify(7))
_CHANGES = 0x4 | 0x8 | 0x40 | 0x80 | 0x100 | 0x200


@dataclass(frozen=True, slots=True)
class Reload:
    """The outcome of a reload: a set that differs from the one before, or what is wrong."""

    rules: RuleSet | None
    problems: tuple[Problem, ...] = ()


class RuleWatcher:
    """Watches files and folders of rules. `fileno` is readable when `poll` has something to say."""

    def __init__(self, paths: Sequence[Path], load: Callable[[], RuleSet], current: RuleSet) -> None:
        """`load` loads the rules of `paths` anew; `current` is the set in force."""
        self._paths = tuple(paths)
        self._load = load
        self._digest = current.digest
        self._outcome: Reload | None = None
        self._lock = threading.Lock()
        self._stopping = False
        self._done = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._asked = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._inotify = _Inotify()
        self._inotify.watch(_folders(self._paths))
        self._thread = threading.Thread(target=self._run, name="rules", daemon=True)
        self._thread.start()

    def fileno(self) -> int:
        """For an event loop."""
        return self._done

    def request(self) -> None:
        """Asks for a reload now; safe in a signal handler (SIGHUP)."""
        os.eventfd_write(self._asked, 1)

    def use(self, paths: Sequence[Path]) -> None:
        """Watch other files and folders, and reload."""
        self._paths = tuple(paths)
        self.request()

    def poll(self) -> Reload | None:
        """The outcome of the latest reload, once, or None. Never waits for one."""
        with self._lock:
            outcome, self._outcome = self._outcome, None
            if outcome is not None:
                os.eventfd_read(self._done)
        return outcome

    def close(self) -> None:
        """Ends the thread; a reload under way is waited for."""
        self._stopping = True
        self.request()
        self._thread.join()
        for descriptor in (self._done, self._asked):
            os.close(descriptor)
        self._inotify.close()

    def __enter__(self) -> RuleWatcher:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _run(self) -> None:
        waiting = select.poll()
        waiting.register(self._asked, select.POLLIN)
        waiting.register(self._inotify.descriptor, select.POLLIN)
        while True:
            waiting.poll()
            for _ in range(SETTLE_SPANS):
                if self._take_requests() or self._stopping or not self._settling(waiting):
                    break
            if self._stopping:
                return
            # Folders that are new are watched before they are read, so that no change is missed.
            self._inotify.watch(_folders(self._paths))
            self._hand_over(self._try())

    def _settling(self, waiting: select.poll) -> bool:
        self._inotify.drain()
        return bool(waiting.poll(SETTLE_MS))

    def _take_requests(self) -> bool:
        try:
            return os.eventfd_read(self._asked) > 0
        except BlockingIOError:
            return False

    def _try(self) -> Reload | None:
        try:
            rules = self._load()
        except RuleError as error:
            self._digest = ""
            return Reload(None, error.problems)
        if rules.digest == self._digest:
            return None
        self._digest = rules.digest
        return Reload(rules)

    def _hand_over(self, outcome: Reload | None) -> None:
        if outcome is None:
            return
        with self._lock:
            if self._outcome is None:
                os.eventfd_write(self._done, 1)
            self._outcome = outcome


def _folders(paths: Sequence[Path]) -> Iterator[Path]:
    """Folders in which a change can change the rules; of a file, the one that it stands in."""
    for path in paths:
        if not path.is_dir():
            yield path.parent
            continue
        yield path
        for folder, names, _ in os.walk(path):
            names[:] = [name for name in names if not name.startswith(".")]
            yield from (Path(folder, name) for name in names)


class _Inotify:
    """The few calls of inotify(7) that are needed; Python has none."""

    def __init__(self) -> None:
        self._libc = ctypes.CDLL(None, use_errno=True)
        self.descriptor = self._libc.inotify_init1(_IN_NONBLOCK_CLOEXEC)
        if self.descriptor < 0:
            raise OSError(ctypes.get_errno(), "inotify_init1")

    def watch(self, folders: Iterator[Path]) -> None:
        """Watches the folders; those watched already are no matter, those gone are passed over."""
        for folder in folders:
            self._libc.inotify_add_watch(self.descriptor, os.fsencode(folder), _CHANGES)

    def drain(self) -> None:
        """Forgets what has been reported; an overflow of the queue is a report like any other."""
        try:
            while os.read(self.descriptor, 1 << 16):
                pass
        except BlockingIOError:
            pass

    def close(self) -> None:
        """Ends the watching."""
        os.close(self.descriptor)
