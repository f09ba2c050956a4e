"""Reverse tunnels over SSH: by argv, by configuration, and by what the process does."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import ClassVar

from agentwatch.detect.finding import Finding
from agentwatch.detect.remote_forward import RemoteForward
from agentwatch.detect.request import Requests
from agentwatch.enrich.bounded import put
from agentwatch.enrich.facts import flow_sighting, unix_path
from agentwatch.enrich.flows import Flow
from agentwatch.enrich.processes import Key, Process
from agentwatch.enrich.sighting import Sighting
from agentwatch.enrich.state import Change, State
from agentwatch.schema.events import SOCKET_BLOCK, Type

SESSIONS_KEPT = 4096
GENERATIONS = 3  # between a client and what its ProxyCommand runs
_STREAM = 1  # SOCK_STREAM
_PACKET_LENGTH = len(SOCKET_BLOCK) + 1


class Tunnels:
    """Events of category `flow` with Behaviour remote_forward, from changes and from SSH banners."""

    def __init__(self, state: State, requests: Requests) -> None:
        self._state = state
        self._requests = requests
        self._forwards = RemoteForward()
        self._banners: list[Finding] = []
        self._early: dict[int, str] = {}  # what a flow said of itself before it was known who connected
        self._sessions: dict[Key, int] = {}  # the flow of each process's latest SSH session
        self._proxied: dict[int, Key] = {}  # flows that a child connected for a client

    types: ClassVar = frozenset(
        int(one)
        for one in (
            Type.EXEC, Type.PROCESS, Type.FORK, Type.FILE, Type.CONNECT, Type.PAYLOAD, Type.CLOSE, Type.EXIT,
            Type.UNIX_CONNECT
        )
    )  # fmt: skip

    def of(self, change: Change) -> Iterable[Sighting]:
        """What this change says about remote forwards."""
        findings = _HANDLERS[change.type](self, change)
        if self._banners:
            findings, self._banners = self._banners + findings, []
        if not findings:
            return ()
        change = self._of_client(change)
        return [
            flow_sighting(self._state, change, {"Protocol": one.protocol, **one.attributes})
            for one in findings
        ]

    def _of_client(self, change: Change) -> Change:
        """What comes over a ProxyCommand's connection is about the client."""
        key = self._proxied.get(change.flow.cookie) if change.flow is not None else None
        client = self._state.processes.known(key) if key is not None else None
        return change if client is None else change.about(client, change.flow)

    def banner(self, change: Change, flow: Flow, finding: Finding) -> None:
        """An SSH banner was recognised in this change; told before `of` is asked about it."""
        said = finding.attributes
        ours = said.get("Software")
        if flow.initiated is None and isinstance(ours, str):
            # The rings are read one after the other: its connect may be in a later round.
            put(self._early, flow.cookie, ours, SESSIONS_KEPT)
        software = said.get("Client")
        if said.get("Role") == "client" and isinstance(software, str):
            self._speaks(change, flow, software)

    def _speaks(self, change: Change, flow: Flow, software: str) -> None:
        """The process is an SSH client on this flow."""
        key = change.process.key
        self._banners = self._forwards.banner(key, flow.cookie, change.time, software)
        put(self._sessions, key, flow.cookie, SESSIONS_KEPT)
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
        if flow.socktype == _STREAM:
            self._connect_for_client(flow.cookie, change.process)
        findings = self._forwards.connect(
            change.process.key,
            flow.cookie,
            stream=flow.socktype == _STREAM,
            address=flow.remote,
            port=flow.remote_port,
            time=change.time,
        )
        if (software := self._early.pop(flow.cookie, None)) is not None:
            self._speaks(change, flow, software)
        return findings

    def _connect_for_client(self, cookie: int, process: Process) -> None:
        """A ProxyCommand's connection is the client's that runs it."""
        for _ in range(GENERATIONS):
            if process.parent is None:
                return
            if self._forwards.waits_for_proxy(process.parent):
                put(self._proxied, cookie, process.parent, SESSIONS_KEPT)
                return
            above = self._state.processes.known(process.parent)
            if above is None:
                return
            process = above

    def _unix(self, change: Change) -> list[Finding]:
        return self._forwards.connect_unix(change.process.key, unix_path(change.data))

    def _proxy_payload(self, change: Change, key: Key, cookie: int) -> list[Finding]:
        """Bytes of a session that runs over a child's connection."""
        length, message, _ = change.fields[_PACKET_LENGTH:]
        findings = []
        if change.incoming and key not in self._sessions:
            findings = self._forwards.proxied(key, cookie)
            put(self._sessions, key, cookie, SESSIONS_KEPT)
            self._requests.follow(cookie)
        more = self._forwards.session_data(key, cookie, change.incoming, length, change.time, message)
        return findings + more

    def _payload(self, change: Change) -> list[Finding]:
        flow = change.flow
        assert flow is not None
        key, cookie = change.process.key, flow.cookie
        if cookie in self._proxied:
            return self._proxy_payload(change, self._proxied[cookie], cookie)
        if self._forwards.is_session(key, cookie):
            length, message, _ = change.fields[_PACKET_LENGTH:]
            return self._forwards.session_data(key, cookie, change.incoming, length, change.time, message)
        return self._forwards.payload(key, cookie, change.incoming, change.data, change.time)

    def _close(self, change: Change) -> list[Finding]:
        if change.flow is not None:
            self._forwards.close(change.process.key, change.flow.cookie)
            self._early.pop(change.flow.cookie, None)
            self._proxied.pop(change.flow.cookie, None)
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
    Type.UNIX_CONNECT: Tunnels._unix,
}
