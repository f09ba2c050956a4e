"""The seeker: a process beside the core that finds agents by the selectors of the configuration.

It may wait, for /proc and for cgroupfs, which the core may not. Cgroups are told by inotify,
programs by the process connector; where one is missing or has lost notices, everything is looked at
again. What it finds it makes ready, a matched process in a cgroup of its own, and tells the core,
which watches. It also writes limits, which can take the kernel long.

python -m agentwatch.daemon.discover FD speaks over a socket pair (see `agentwatch.daemon.link`):
core: ["settings", {"tables": [TABLE, ...], "agents": {CGROUP: {FILE: VALUE}}}]
seeker: ["found", CGROUP, ID OF THE TABLE, NAME, WHY], ["failed", TEXT]
"""

from __future__ import annotations

import os
import select
import socket
import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

from agentwatch.config.model import AgentTable, Selector
from agentwatch.daemon.link import Link, LinkError
from agentwatch.daemon.matching import Process, agent_name, selects, selects_cgroup, takes_cgroups
from agentwatch.daemon.proc_events import ProcEvents
from agentwatch.kernel import inotify
from agentwatch.kernel.cgroup import PARENT, find_mount, remove_tree
from agentwatch.kernel.inotify import Inotify

SUFFIX: Final = ".agentwatch"  # of a cgroup that was made for an agent
_TICK_MS: Final = 1000
_RESCAN: Final = 30.0  # seconds between looks at everything, for what notices do not tell
_RESCAN_UNTOLD: Final = 0.5  # the same where the kernel tells of no programs
_YOUNG: Final = 60.0  # seconds
_DEPTH: Final = 24  # of cgroups looked at
_PASSES: Final = 200  # over a tree that forks while it is moved


class Cgroups:
    """The cgroups that selectors look for."""

    def __init__(self, mount: Path) -> None:
        self.mount = mount
        self._inotify = Inotify()

    def fileno(self) -> int:
        return self._inotify.fileno()

    def populated(self, path: Path) -> bool:
        with suppress(OSError):
            return "populated 1" in (path / "cgroup.events").read_text(encoding="ascii")
        return False

    def below(self, top: Path, settled: set[Path]) -> Iterator[Path]:
        """A directory and all below it, parents first, watched for what is made in them. What lies
        below a settled one is not looked at."""
        pending = [top]
        while pending:
            here = pending.pop()
            if here in settled or len(here.parts) - len(self.mount.parts) > _DEPTH:
                continue
            self._inotify.watch(here, inotify.CREATE)  # before its children are read
            yield here
            with suppress(OSError), os.scandir(here) as entries:
                if here not in settled:
                    pending += [Path(one.path) for one in entries if one.is_dir(follow_symlinks=False)]

    def await_first(self, path: Path) -> None:
        """Be told when somebody lives in an empty one."""
        self._inotify.watch(path / "cgroup.events", inotify.MODIFY)

    def news(self) -> Iterator[Path]:
        """Directories that are new or have changed; the mount where some may have been missed."""
        for notice in self._inotify.read():
            if notice.mask & inotify.OVERFLOW:
                yield self.mount
            elif notice.mask & inotify.IS_DIRECTORY:
                yield notice.path
            elif notice.mask & inotify.MODIFY:
                yield notice.path.parent


class Seeker:
    """Finds, once and again. `link` leads to the core."""

    def __init__(self, link: Link, mount: Path) -> None:
        self._link = link
        self._cgroups = Cgroups(mount)
        self._mount = mount
        self._tables: list[AgentTable] = []
        self._agents: set[Path] = set()
        self._limits: dict[str, dict[str, str]] = {}  # as they were written last
        self._settled: set[Path] = set()  # found, told, and not to be told again
        self._made: set[Path] = set()
        self._failed: set[tuple[int, str]] = set()
        self._core = os.getppid()
        # Not taken: what runs the daemon, and what the daemon runs.
        self._ours = {os.getpid(), *(one.pid for one in Process(os.getpid()).ancestors())}
        self._events: ProcEvents | None = None
        self._next_scan = 0.0
        self._made |= self._left_behind()

    def _left_behind(self) -> set[Path]:
        """Cgroups that an earlier seeker made, in which nobody lives. A young one may be another's."""
        found = set()
        for folder, names, _ in os.walk(self._mount):
            for name in names:
                path = Path(folder, name)
                if name.endswith(SUFFIX) and not self._cgroups.populated(path):
                    with suppress(OSError):
                        if time.time() - path.stat().st_ctime > _YOUNG:
                            found.add(path)
        return found

    def run(self) -> None:
        """Until the core is gone."""
        poll = select.poll()
        poll.register(self._link, select.POLLIN)
        poll.register(self._cgroups, select.POLLIN)
        try:
            self._events = ProcEvents()
            poll.register(self._events, select.POLLIN)
        except OSError as error:
            self._fail(f"new programs are looked for, not told by the kernel: {error.strerror}")
        while True:
            wait = _TICK_MS if self._events else int(_RESCAN_UNTOLD * 1000)
            poll.poll(wait)
            for message in self._link.receive():
                self._take(message)
            self._link.flush()
            self._look()

    def _take(self, message: list[Any]) -> None:
        match message:
            case ["settings", {"tables": plain, "agents": agents}]:
                self._agents = {Path(path) for path in agents}
                self._made |= {path for path in self._agents if path.name.endswith(SUFFIX)}
                self._write_limits(agents)
                tables = [_table(**table) for table in plain]
                if tables != self._tables:
                    self._tables = tables
                    self._failed.clear()
                    # Who was let go by hand is looked at again under another configuration.
                    self._settled.clear()
                    self._next_scan = 0.0
                self._settled |= self._agents

    def _look(self) -> None:
        self._clean()
        for path in self._cgroups.news():
            self._look_at_cgroups(path)
        if self._events is not None:
            pids, lost = self._events.read()
            if self._looks_at_processes():
                for pid in sorted(pids):
                    self._look_at(Process(pid))
            if lost:
                self._next_scan = 0.0
        if self._tables and time.monotonic() >= self._next_scan:
            self._next_scan = time.monotonic() + (_RESCAN if self._events else _RESCAN_UNTOLD)
            self._scan()

    def _clean(self) -> None:
        """Forget cgroups that have emptied, and remove those that were made here."""
        for path in self._settled - self._agents:
            if not self._cgroups.populated(path):
                self._settled.discard(path)
                if path.exists():
                    self._look_at_cgroups(path)
        for path in self._made - self._agents:
            if not self._cgroups.populated(path) and remove_tree(path):
                self._made.discard(path)

    def _scan(self) -> None:
        self._look_at_cgroups(self._mount)
        if self._looks_at_processes():
            running = [Process(int(pid)) for pid in filter(str.isdecimal, os.listdir("/proc"))]  # noqa: PTH208
            # The oldest first: parents are older than children, and the outermost is taken.
            for process in sorted(running, key=lambda one: (len(one.start), one.start)):
                self._consider(process)

    def _looks_at_processes(self) -> bool:
        return any(not takes_cgroups(table.select) for table in self._tables)

    # --- cgroups ---------------------------------------------------------------------------------

    def _look_at_cgroups(self, top: Path) -> None:
        wanted = [table for table in self._tables if takes_cgroups(table.select)]
        if not wanted or not self._settled.isdisjoint((top, *top.parents)):
            return
        for path in self._cgroups.below(top, self._settled):
            relative = str(path.relative_to(self._mount)) if path != self._mount else ""
            for table in wanted:
                if glob := selects_cgroup(table.select, relative):
                    self._found_cgroup(table, path, relative, glob)
                    break

    def _found_cgroup(self, table: AgentTable, path: Path, relative: str, glob: str) -> None:
        self._cgroups.await_first(path)
        if self._cgroups.populated(path):
            self._tell(table, path, agent_name(table, relative, None), f"cgroup {glob}")

    # --- processes -------------------------------------------------------------------------------

    def _look_at(self, process: Process) -> None:
        if not process.exe or process.pid in self._ours:
            return
        chain = [process, *process.ancestors()]
        # The outermost that matches: it may have begun before anybody looked.
        for one in reversed(chain):
            if self._consider(one):
                return

    def _consider(self, process: Process) -> bool:
        """Take a process that matches; whether it does."""
        if not process.exe or process.pid in self._ours or self._is_settled(process):
            return False
        for table in self._tables:
            if takes_cgroups(table.select) or not (why := selects(table.select, process)):
                continue
            if all(above.pid != self._core for above in process.ancestors()):
                self._found_process(table, process, why)
            return True
        return False

    def _is_settled(self, process: Process) -> bool:
        path = self._mount / process.cgroup
        # The trees of `agentwatch run` are watched by it.
        return (
            process.cgroup.startswith(f"{PARENT}/")
            or (process.pid, process.start) in self._failed
            or not self._settled.isdisjoint((path, *path.parents))
        )

    def _found_process(self, table: AgentTable, process: Process, why: str) -> None:
        name = agent_name(table, process.cgroup, process)
        try:
            path = self._own_cgroup(process, name)
        except OSError as error:
            self._failed.add((process.pid, process.start))
            self._fail(
                f"{name} ({why}, process {process.pid}) cannot be put into a cgroup of its own: {error}"
            )
            return
        self._tell(table, path, name, f"{why}, process {process.pid}")

    def _own_cgroup(self, process: Process, name: str) -> Path:
        """The process's cgroup, where nobody but its tree lives in it; else one made for it below that,
        so that the limits above still hold. Raises `OSError`."""
        present = self._mount / process.cgroup
        members = _members(present)  # read first: what is born meanwhile is of the tree
        tree = _tree(process.pid)
        if self._ours & tree:
            raise OSError("agentwatch itself is among its descendants")
        if present != self._mount and not any(Process(pid).exe for pid in members - tree):
            return present
        path = _make(present, name)
        self._made.add(path)
        self._settled.add(path)
        for _ in range(_PASSES):  # what is forked meanwhile is found by the next pass
            outside = [pid for pid in _tree(process.pid) if _lives_outside(pid, present, path, self._mount)]
            if not outside:
                return path
            for pid in outside:
                with suppress(ProcessLookupError):
                    (path / "cgroup.procs").write_text(str(pid), encoding="ascii")
        raise OSError("it forks faster than it can be moved")

    # --- the core --------------------------------------------------------------------------------

    def _tell(self, table: AgentTable, path: Path, name: str, why: str) -> None:
        self._settled.add(path)
        self._link.send(["found", str(path), table.id, name, why])

    def _write_limits(self, agents: dict[str, dict[str, str]]) -> None:
        """Write what has changed; what is no longer asked for stays."""
        for path, limits in agents.items():
            if limits != self._limits.get(path, {}):
                for name, value in limits.items():
                    self._limit(Path(path) / name, value)
        self._limits = agents

    def _limit(self, file: Path, value: str) -> None:
        try:
            fd = os.open(file, os.O_WRONLY | os.O_CLOEXEC)
            try:
                os.write(fd, value.encode())
            finally:
                os.close(fd)
        except FileNotFoundError:
            self._fail(f"no limit {file.name}={value} for {file.parent}: its controller is not enabled there")
        except OSError as error:
            self._fail(f"no limit {file.name}={value} for {file.parent}: {error.strerror}")

    def _fail(self, text: str) -> None:
        self._link.send(["failed", text])


def _table(select: dict[str, Any], **values: Any) -> AgentTable:
    selector: dict[str, Any] = {
        key: tuple(value) if isinstance(value, list) else value for key, value in select.items()
    }
    return AgentTable(**values, select=Selector(**selector))


def plain_table(table: AgentTable) -> dict[str, Any]:
    """What the seeker must know of a table, as it travels."""
    select = {name: getattr(table.select, name) for name in Selector.__dataclass_fields__}
    return {"id": table.id, "name": table.name, "select": select}


def _make(present: Path, name: str) -> Path:
    """A directory for an agent. Raises `OSError`."""
    for number in range(1, 1000):
        path = present / f"{name}{f'-{number}' if number > 1 else ''}{SUFFIX}"
        with suppress(FileExistsError):
            path.mkdir(mode=0o755)
            return path
    raise OSError(f"{present} holds too many agents named {name}")


def _members(path: Path) -> set[int]:
    """Who lives in a cgroup and below."""
    found: set[int] = set()
    for folder, _, _ in os.walk(path):
        with suppress(OSError):
            found.update(map(int, Path(folder, "cgroup.procs").read_text(encoding="ascii").split()))
    return found


def _lives_outside(pid: int, present: Path, wanted: Path, mount: Path) -> bool:
    """Whether a process still lives where its tree did."""
    path = mount / Process(pid).cgroup
    return bool(Process(pid).exe) and path.is_relative_to(present) and not path.is_relative_to(wanted)


def _tree(pid: int) -> set[int]:
    """A process and its descendants."""
    children: dict[int, list[int]] = {}
    for child in filter(str.isdecimal, os.listdir("/proc")):  # noqa: PTH208 (names, not paths)
        children.setdefault(Process(int(child)).parent, []).append(int(child))
    tree: set[int] = set()
    pending: Iterable[int] = [pid]
    while pending:
        tree.update(pending)
        pending = [child for one in pending for child in children.get(one, ()) if child not in tree]
    return tree


def main() -> None:
    """Seek until the core is gone."""
    with suppress(LinkError, KeyboardInterrupt):
        Seeker(Link(socket.socket(fileno=int(sys.argv[1]))), find_mount()).run()


if __name__ == "__main__":
    main()
