"""Events in Sigma's words for what a record says by itself: a process began, a socket connected, ...

Which fields each category has is declared in `agentwatch.schema.fields`.
"""

from __future__ import annotations

import socket
from collections.abc import Callable, Collection, Iterator, Mapping
from functools import lru_cache
from typing import Any

from agentwatch.enrich.bounded import put
from agentwatch.enrich.flows import Flow
from agentwatch.enrich.processes import Process
from agentwatch.enrich.sighting import Sighting
from agentwatch.enrich.state import Change, State
from agentwatch.event import Value
from agentwatch.schema.decode import DecodeError
from agentwatch.schema.events import Denial, ExecFlag, Operation, Type

ANCESTORS = 16  # whose programs are told
SOCKETS = 4096  # made and remembered, lest a sweep tell them again
_INTERNET = frozenset((socket.AF_INET, socket.AF_INET6))
_OF_PARENT = frozenset(("Image", "CommandLine"))  # fields of a process that its children's events have, too
_IMAGE_FLAGS = ((ExecFlag.MEMFD, "memfd"), (ExecFlag.DELETED, "deleted"), (ExecFlag.WRITTEN, "written"))


def image_flags(process: Process) -> tuple[str, ...]:
    """What stands out about a program's file: memfd, deleted, written, loader (run through ld.so)."""
    return _image_flags(process.exe, process.flags)


@lru_cache(maxsize=1024)
def _image_flags(exe: str, of_exec: int) -> tuple[str, ...]:
    flags = [name for flag, name in _IMAGE_FLAGS if of_exec & flag]
    base = exe.rpartition("/")[2]
    if base.startswith(("ld-linux", "ld-musl", "ld.so", "ld-2.")):
        flags.append("loader")
    return tuple(flags)


def marker_list(state: State, process: Process) -> tuple[str, ...]:
    """The markers on what a process does, as NAME=VALUE."""
    if not process.markers and ((agent := state.agents.get(process.agent)) is None or not agent.markers):
        return ()
    return tuple([f"{name}={value}" for name, value in sorted(state.markers(process).items())])


_OF_PROCESS: dict[str, Callable[[State, Process, Process | None], Value]] = {
    "Image": lambda state, process, parent: process.exe,
    "CommandLine": lambda state, process, parent: process.command_line,
    "Argv": lambda state, process, parent: process.argv,
    "CurrentDirectory": lambda state, process, parent: process.cwd,
    "User": lambda state, process, parent: state.user_name(process.uid),
    "UserId": lambda state, process, parent: process.uid,
    "ProcessId": lambda state, process, parent: process.pid,
    "ParentProcessId": lambda state, process, parent: process.parent[0] if process.parent else None,
    "ParentImage": lambda state, process, parent: parent.exe if parent else None,
    "ParentCommandLine": lambda state, process, parent: parent.command_line if parent else None,
    "AncestorImages": lambda state, process, parent: tuple(
        [one.exe for one in state.processes.above(process, ANCESTORS)]
    ),
    "ImageFlags": lambda state, process, parent: image_flags(process),
    "Markers": lambda state, process, parent: marker_list(state, process),
}


class ProcessFields(Mapping[str, Value]):
    """The fields that say who did it, for every category, each made when it is asked for; and others.

    Who keeps an event beyond its record takes a copy: what the process is changes.
    """

    __slots__ = ("_made", "_parent", "_process", "_state")

    def __init__(
        self, state: State, process: Process, parent: Process | None, others: Mapping[str, Value]
    ) -> None:
        self._state, self._process, self._parent = state, process, parent
        self._made = dict(others)

    def get(self, name: str, default: Any = None) -> Any:
        made = self._made
        if name in made:
            return made[name]
        make = _OF_PROCESS.get(name)
        if make is None:
            return default
        value = made[name] = make(self._state, self._process, self._parent)
        return value

    def __getitem__(self, name: str) -> Value:
        if name not in self._made and name not in _OF_PROCESS:
            raise KeyError(name)
        value: Value = self.get(name)
        return value

    def __iter__(self) -> Iterator[str]:
        yield from _OF_PROCESS
        yield from (name for name in self._made if name not in _OF_PROCESS)

    def __len__(self) -> int:
        return len(_OF_PROCESS.keys() | self._made.keys())


def sighting(state: State, category: str, change: Change, fields: Mapping[str, Value]) -> Sighting:
    """An event of this category, about what the change is about: `fields`, and those of its process."""
    process = change.process
    parent = state.processes.parent(process)
    return Sighting(
        category,
        change.time,
        change.seq,
        ProcessFields(state, process, parent, fields),
        _truncated(process, parent),
        change.agent,
        process,
        change.flow,
    )


def _truncated(process: Process, parent: Process | None) -> frozenset[str]:
    """Fields of a process and its parent whose values were cut."""
    if parent is None or not parent.truncated:
        return process.truncated
    return process.truncated | {f"Parent{name}" for name in parent.truncated & _OF_PARENT}


def flow_fields(flow: Flow) -> dict[str, Value]:
    """Fields that say which connection it is about."""
    return {
        "SourceIp": flow.local or None,
        "SourcePort": flow.local_port or None,
        "DestinationIp": flow.remote or None,
        "DestinationPort": flow.remote_port or None,
        "DestinationHostname": flow.domain or None,
        "Initiated": None if flow.initiated is None else str(flow.initiated).lower(),
    }


def flow_sighting(state: State, change: Change, found: Mapping[str, Value]) -> Sighting:
    """An event of category `flow`: who, over which connection, and what was found."""
    return behaviour_sighting(state, "flow", change, found)


def behaviour_sighting(state: State, category: str, change: Change, found: Mapping[str, Value]) -> Sighting:
    """What was found of a process and, where one is concerned, of its connection."""
    if change.flow is not None:
        found = {**flow_fields(change.flow), **found}
    return sighting(state, category, change, found)


class Facts:
    """Makes the events of the categories in `wanted` and spares the rest."""

    def __init__(self, state: State, wanted: Collection[str]) -> None:
        self._state = state
        makers: dict[int, tuple[str, Callable[[Change], dict[str, Value] | None]]] = {
            Type.EXEC: ("process_creation", self._exec),
            Type.CONNECT: ("network_connection", self._connection),
            Type.SEND: ("network_connection", self._connection),
            Type.ACCEPT: ("network_connection", self._connection),
            Type.LISTEN: ("network_listen", self._connection),
            Type.SOCKET: ("socket_creation", self._socket),
            Type.SOCKET_SEEN: ("socket_creation", self._socket_seen),
            Type.PRIVILEGED: ("socket_creation", self._socket_made),
            Type.UNIX_CONNECT: ("unix_connection", self._unix),
            Type.CGROUP_MOVE: ("tampering", self._tampering),
            Type.SIGNAL: ("tampering", self._tampering),
            Type.DENIED: ("denial", self._denial),
            Type.LOSS: ("loss", self._loss),
        }
        self._made: dict[int, None] = {}  # inodes of sockets that were told as they were made
        self._makers = {number: maker for number, maker in makers.items() if maker[0] in wanted}
        self.types = frozenset(self._makers)  # of the records that it looks at

    def of(self, change: Change) -> Sighting | None:
        """The event of a change, or None."""
        found = self._makers.get(change.type)
        if found is None:
            return None
        category, maker = found
        own = maker(change)
        if own is None:
            return None
        return sighting(self._state, category, change, own)

    def _exec(self, change: Change) -> dict[str, Value]:
        return {"LoaderEnvironment": change.process.environment}

    def _connection(self, change: Change) -> dict[str, Value]:
        flow = change.flow
        assert flow is not None
        fields = flow_fields(flow)
        fields["Protocol"] = flow.transport
        return fields

    def _socket(self, change: Change) -> dict[str, Value]:
        family, socktype, protocol = change.fields[5:8]
        return {"Family": family, "SocketType": socktype, "Protocol": protocol}

    def _socket_made(self, change: Change) -> dict[str, Value] | None:
        inode, detail, operation, *_ = change.fields
        if operation != Operation.SOCKET:
            return None
        put(self._made, inode, None, SOCKETS)
        return {
            "Family": detail & 0xFFFF,
            "SocketType": detail >> 16 & 0xFFFF,
            "Protocol": detail >> 32 & 0xFFFF,
        }

    def _socket_seen(self, change: Change) -> dict[str, Value] | None:
        inode, family, socktype, protocol, *_ = change.fields
        if family not in _INTERNET and inode in self._made:
            return None  # the sweep finds what the system call told
        return {"Family": family, "SocketType": socktype, "Protocol": protocol}

    def _unix(self, change: Change) -> dict[str, Value]:
        return {"Path": unix_path(change.data)}

    def _tampering(self, change: Change) -> dict[str, Value] | None:
        if change.type == Type.SIGNAL:
            return {"Kind": "signal", "Signal": change.fields[0]}
        cgroup = change.data.decode("utf-8", "backslashreplace")
        own = change.agent.cgroup.strip("/")
        if own and f"{cgroup}/".startswith(f"/{own}/"):
            return None  # below its own it is frozen and killed with the rest
        mover = self._state.processes.living(change.fields[1])
        return {"Kind": "cgroup_move", "Cgroup": cgroup, "ByAgent": str(mover is not None).lower()}

    def _denial(self, change: Change) -> dict[str, Value]:
        argument, target, number = change.fields
        try:
            what = Denial(number)
        except ValueError:
            raise DecodeError(f"there is no denial {number}") from None
        signal = argument if what is Denial.SIGNAL else None
        return {"Kind": what.name.lower(), "TargetProcessId": target or None, "Signal": signal}

    def _loss(self, change: Change) -> dict[str, Value]:
        number, lost, reason = change.fields
        return {"EventType": number, "Lost": lost, "Reason": reason}


def unix_path(data: bytes) -> str:
    """A Unix address as text; names of the abstract namespace begin with @."""
    if data[:1] == b"\0":
        return "@" + data[1:].rstrip(b"\0").decode("utf-8", "backslashreplace")
    return data.split(b"\0")[0].decode("utf-8", "backslashreplace")
