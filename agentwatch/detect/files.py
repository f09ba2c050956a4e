"""Uses of watched files as events; among them those that are aimed at the watch itself."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Final

from agentwatch.detect.handler import Handler
from agentwatch.enrich.facts import sighting
from agentwatch.enrich.files import FileUse
from agentwatch.enrich.sighting import Sighting
from agentwatch.enrich.state import Agent, Change, State
from agentwatch.event import Value
from agentwatch.schema.events import Access, Type

CATEGORIES: Final = frozenset(("file_access", "file_event", "tampering"))
_NAMES: Final = {
    Access.READ: "read",
    Access.WRITE: "write",
    Access.CREATE: "create",
    Access.DELETE: "delete",
    Access.RENAME: "rename",
    Access.LINK: "link",
}
_ACTING: Final = ("cgroup.freeze", "cgroup.kill")
_MOVING: Final = ("cgroup.procs", "cgroup.threads")


class Files:
    """Events of the categories in `wanted` for uses of files."""

    def __init__(self, state: State, wanted: Collection[str]) -> None:
        self._state = state
        self._wanted = wanted
        self.handlers: dict[int, Handler] = {int(Type.FILE_ACCESS): self.of}

    def of(self, change: Change) -> Sequence[Sighting]:
        """The use of a file, and what it means to the watch."""
        (use,) = change.fields
        events = []
        category = "file_access" if use.access == Access.READ else "file_event"
        if category in self._wanted:
            own: dict[str, Value] = {"Access": _NAMES[use.access], "FileKind": use.kind or None}
            events.append(self._sighting(category, change, use, own))
        if "tampering" in self._wanted and use.access != Access.READ:
            kind = _tampering(use, change.agent)
            if kind:
                own = {"Kind": kind, "Access": _NAMES[use.access]}
                events.append(self._sighting("tampering", change, use, own))
        return events

    def _sighting(self, category: str, change: Change, use: FileUse, own: dict[str, Value]) -> Sighting:
        fields = {"TargetFilename": use.path, "SourceFilename": use.source or None, **own}
        event = sighting(self._state, category, change, fields)
        event.truncated |= use.truncated
        return event


def _tampering(use: FileUse, agent: Agent) -> str:
    """Which kind of tampering this is, or an empty string."""
    if use.kind == "monitor":
        return "bpffs"
    if use.kind != "cgroup" or not agent.cgroup:
        return ""
    folder, _, name = use.path.rpartition("/")
    _, found, below = f"{folder}/".rpartition(f"/{agent.cgroup.strip('/')}/")
    if found and below:
        return ""  # a cgroup that the agent made below its own: there it may do as it likes
    if name in _ACTING or (name in _MOVING and found):
        return "freezer"
    return ""
