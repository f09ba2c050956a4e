"""Privileged operations as events; among them those that are aimed at the watch itself."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from typing import Final

from agentwatch.detect.handler import NOTHING, Handler
from agentwatch.enrich.facts import sighting
from agentwatch.enrich.sighting import Sighting
from agentwatch.enrich.state import Change, State
from agentwatch.event import Value
from agentwatch.schema.decode import DecodeError
from agentwatch.schema.events import BpfCommand, Denial, Namespace, Operation, PrivilegedFlag, Type

CATEGORIES: Final = frozenset(("privileged_operation", "tampering"))
_CATEGORY: Final = "privileged_operation"
_ANY_NAMESPACE: Final = int(sum(Namespace))

_Fields = dict[str, Value]


class Privileged:
    """Events of the categories in `wanted` for what takes privilege, or gives it."""

    def __init__(self, state: State, wanted: Collection[str]) -> None:
        self._state = state
        self._wanted = wanted
        self.handlers: dict[int, Handler] = {
            int(Type.FORK): self._fork,
            int(Type.EXEC): self._exec,
            int(Type.DENIED): self._denied,
            int(Type.PRIVILEGED): self._operation,
        }

    def _fork(self, change: Change) -> Sequence[Sighting]:
        flags = change.fields[1]
        return self._tell(change, _namespace("clone", flags)) if flags & _ANY_NAMESPACE else NOTHING

    def _exec(self, change: Change) -> Sequence[Sighting]:
        user = change.process.root_from
        if user is None:
            return NOTHING
        return self._tell(change, {"Kind": "credentials", "UserId": user, "NewUserId": 0})

    def _denied(self, change: Change) -> Sequence[Sighting]:
        """That it was tried says as much."""
        return self._tell(change, _module(change)) if change.fields[-1] == Denial.MODULE else NOTHING

    def _operation(self, change: Change) -> Sequence[Sighting]:
        """The operation, and what it means to the watch."""
        _, _, number, _, _, flags = change.fields
        try:
            operation = Operation(number)
        except ValueError:
            raise DecodeError(f"there is no privileged operation {number}") from None
        if operation is Operation.SOCKET:
            return NOTHING  # an event of another category, of `Facts`
        own = _DESCRIBE[operation](change)
        cut = flags & PrivilegedFlag.CUT
        if own["Kind"] == "ptrace":
            own |= self._target(change)
        events = self._tell(change, own)
        if cut:
            for event in events:
                event.truncated |= {name for name in ("Source", "Target", "FsType") if name in own}
        if flags & PrivilegedFlag.MONITOR and "tampering" in self._wanted:
            events = [*events, sighting(self._state, "tampering", change, own)]
        return events

    def _tell(self, change: Change, own: _Fields) -> Sequence[Sighting]:
        return [sighting(self._state, _CATEGORY, change, own)] if _CATEGORY in self._wanted else NOTHING

    def _target(self, change: Change) -> _Fields:
        start, _, _, pid, _, flags = change.fields
        target = self._state.processes.known((pid, start))
        return {
            "TargetProcessId": pid,
            "TargetImage": target.exe if target else None,
            "OfMonitor": _truth(flags & PrivilegedFlag.MONITOR),
        }


def _truth(flag: int) -> str:
    return "true" if flag else "false"


def _namespace(operation: str, flags: int) -> _Fields:
    kinds = tuple(kind.name.lower() for kind in Namespace if flags & kind)
    return {"Kind": "namespace", "Operation": operation, "Namespaces": kinds}


def _unshare(change: Change) -> _Fields:
    return _namespace("unshare", change.fields[1])


def _setns(change: Change) -> _Fields:
    fields = _namespace("setns", change.fields[1])
    return fields | {"OfInit": _truth(change.fields[-1] & PrivilegedFlag.INITIAL)}


def _texts(change: Change) -> list[str]:
    return change.data.decode("utf-8", "backslashreplace").split("\0")


def _mount(change: Change) -> _Fields:
    source, target, kind, *_ = (*_texts(change), "", "", "")
    return {"Kind": "mount", "Source": source or None, "Target": target or None, "FsType": kind or None}


def _root(kind: str) -> Callable[[Change], _Fields]:
    return lambda change: {"Kind": kind, "Target": _texts(change)[0] or None}


def _bpf(change: Change) -> _Fields:
    try:
        command = BpfCommand(change.fields[1]).name.lower()
    except ValueError:
        command = str(change.fields[1])
    return {"Kind": "bpf", "Operation": command}


def _module(change: Change) -> _Fields:
    return {"Kind": "module_load"}


def _ptrace(change: Change) -> _Fields:
    return {"Kind": "ptrace", "Operation": "attach"}


def _memory(change: Change) -> _Fields:
    return {"Kind": "ptrace", "Operation": "memory_write" if change.fields[1] else "memory_read"}


_DESCRIBE: Final[dict[Operation, Callable[[Change], _Fields]]] = {
    Operation.UNSHARE: _unshare,
    Operation.SETNS: _setns,
    Operation.MOUNT: _mount,
    Operation.MOVE_MOUNT: _mount,
    Operation.PIVOT_ROOT: _root("pivot_root"),
    Operation.CHROOT: _root("chroot"),
    Operation.BPF: _bpf,
    Operation.MODULE: _module,
    Operation.PTRACE: _ptrace,
    Operation.MEMORY: _memory,
}
