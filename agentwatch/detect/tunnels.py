"""Reverse tunnels over SSH: by argv, by configuration, and by what the process does."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import ClassVar

from agentwatch.detect.finding import Finding
from agentwatch.detect.remote_forward import RemoteForward
from agentwatch.detect.request import Requests
from agentwatch.enrich.facts import flow_sighting
from agentwatch.enrich.flows import Flow
from agentwatch.enrich.processes import Key
from agentwatch.enrich.sighting import Sighting
from agentwatch.enrich.state import Change, State
from agentwatch.schema.events import SOCKET_BLOCK, Type

SESSIONS_KEPT = 4096
_STREAM = 1  # SOCK_STREAM
_PACKET_LENGTH = len(SOCKET_BLOCK) + 1


class Tunnels:
    """Events of category `flow` with Behaviour remote_forward, from changes and from SSH banners."""

    def __init__(self, state: State, requests: Requests) -> None:
        self._state = state
        self._requests = requests
        self._forwards = RemoteForward()
        self._banners: list[Finding] = []
        self._sessions: dict[Key, int] = {}  # the flow of each process's latest SSH session

    types: ClassVar = frozenset(
        int(one)
        for one in (
            Type.EXEC, Type.PROCESS, Type.FORK, Type.FILE, Type.CONNECT, Type.PAYLOAD, Type.CLOSE, Type.EXIT
        )
    )  # fmt: skip

    def of(self, change: Change) -> Iterable[Sighting]:
        """What this change says about remote forwards."""
        findings = _HANDLERS[change.type](self, change)
        if self._banners:
            findings, self._banners = self._banners + findings, []
        if not findings:
            return ()
        return [
            flow_sighting(self._state, change, {"Protocol": one.protocol, **one.attributes})
            for one in findings
        ]

    def banner(self, change: Change, flow: Flow, finding: Finding) -> None:
        """An SSH banner was recognised in this change; told before `of` is asked about it."""
        software = finding.attributes.get("Client")
        if finding.attributes.get("Role") != "client" or not isinstance(software, str):
            return
        key = change.process.key
        self._banners = self._forwards.banner(key, flow.cookie, change.time, software)
        self._sessions.pop(key, None)
        self._sessions[key] = flow.cookie
        if len(self._sessions) > SESSIONS_KEPT:
            del self._sessions[next(iter(self._sessions))]
        # From now on it matters when bytes come in on this flow, however many came before.
        self._requests.follow(flow.cookie)
        self._want_config(change)

    def _want_config(self, change: Change) -> None:
        path = self._forwards.wanted_config(change.process.key)
        if path is not None:
            self._requests.read_file(path, change)

    def _exec(self, change: Change) -> list[Finding]:
        findings = self._forwards.exec(change.process.key, change.process.argv, change.time)
        self._want_config(change)
        return findings

    def _fork(self, change: Change) -> list[Finding]:
        if change.process.parent is not None:
            self._forwards.fork(change.process.parent, change.process.key)
        return []

    def _file(self, change: Change) -> list[Finding]:
        _, content, _ = change.fields
        # A session that was open before its configuration could be read is what this is about.
        change.flow = self._state.flows.known(self._sessions.get(change.process.key, 0))
        return self._forwards.config(change.process.key, content.decode("utf-8", "replace"))

    def _connect(self, change: Change) -> list[Finding]:
        flow = change.flow
        assert flow is not None
        return self._forwards.connect(
            change.process.key,
            flow.cookie,
            stream=flow.socktype == _STREAM,
            address=flow.remote,
            port=flow.remote_port,
            time=change.time,
        )

    def _payload(self, change: Change) -> list[Finding]:
        flow = change.flow
        assert flow is not None
        key, cookie = change.process.key, flow.cookie
        if flow.application == "ssh":
            length = change.fields[_PACKET_LENGTH]
            return self._forwards.session_data(key, cookie, change.incoming, length, change.time)
        return self._forwards.payload(key, cookie, change.incoming, change.data, change.time)

    def _close(self, change: Change) -> list[Finding]:
        if change.flow is not None:
            self._forwards.close(change.process.key, change.flow.cookie)
        return []

    def _exit(self, change: Change) -> list[Finding]:
        self._forwards.exit(change.process.key)
        self._sessions.pop(change.process.key, None)
        return []


_HANDLERS: dict[int, Callable[[Tunnels, Change], list[Finding]]] = {
    Type.EXEC: Tunnels._exec,
    Type.PROCESS: Tunnels._exec,
    Type.FORK: Tunnels._fork,
    Type.FILE: Tunnels._file,
    Type.CONNECT: Tunnels._connect,
    Type.PAYLOAD: Tunnels._payload,
    Type.CLOSE: Tunnels._close,
    Type.EXIT: Tunnels._exit,
}
