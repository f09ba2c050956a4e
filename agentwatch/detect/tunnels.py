"""Reverse tunnels over SSH: by argv, by configuration, and by what the process does."""

from __future__ import annotations

from collections.abc import Sequence

from agentwatch.detect.finding import Finding
from agentwatch.detect.handler import NOTHING, Handler
from agentwatch.detect.remote_forward import RemoteForward
from agentwatch.detect.request import Requests
from agentwatch.enrich.bounded import put
from agentwatch.enrich.facts import flow_sighting, unix_path
from agentwatch.enrich.flows import Flow
from agentwatch.enrich.processes import Key, Process
from agentwatch.enrich.sighting import Sighting
from agentwatch.enrich.state import Change, State
from agentwatch.schema.events import SOCKET_BLOCK, PayloadFlag, Type

SESSIONS_KEPT = 4096
GENERATIONS = 3  # between a client and what its ProxyCommand runs
_STREAM = 1  # SOCK_STREAM
_INCOMING = int(PayloadFlag.IN)
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
        self.handlers: dict[int, Handler] = {
            int(Type.EXEC): self._exec,
            int(Type.PROCESS): self._exec,
            int(Type.FORK): self._fork,
            int(Type.FILE): self._file,
            int(Type.CONNECT): self._connect,
            int(Type.PAYLOAD): self._payload,
            int(Type.CLOSE): self._close,
            int(Type.EXIT): self._exit,
            int(Type.UNIX_CONNECT): self._unix,
        }

    def _tell(self, change: Change, findings: list[Finding]) -> Sequence[Sighting]:
        """The events of what was found, and of what the banner in this change says."""
        if self._banners:
            findings, self._banners = self._banners + findings, []
        if not findings:
            return NOTHING
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
        """An SSH banner was recognised in this change; told before this detector's turn."""
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

    def _exec(self, change: Change) -> Sequence[Sighting]:
        process = change.process
        findings = self._forwards.exec(process.key, process.argv, change.time)
        self._want_config(change)
        return self._tell(change, findings) if findings else NOTHING

    def _fork(self, change: Change) -> Sequence[Sighting]:
        process = change.process
        if process.parent is not None:
            self._forwards.fork(process.parent, process.key)
        return NOTHING

    def _file(self, change: Change) -> Sequence[Sighting]:
        _, content, _ = change.fields
        # A session that was open before its configuration could be read is what this is about.
        change.flow = self._state.flows.known(self._sessions.get(change.process.key, 0))
        findings = self._forwards.config(change.process.key, content.decode("utf-8", "replace"))
        return self._tell(change, findings)

    def _connect(self, change: Change) -> Sequence[Sighting]:
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
        if self._early and (software := self._early.pop(flow.cookie, None)) is not None:
            self._speaks(change, flow, software)
        return self._tell(change, findings)

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

    def _unix(self, change: Change) -> Sequence[Sighting]:
        return self._tell(change, self._forwards.connect_unix(change.process.key, unix_path(change.data)))

    def _proxy_payload(self, change: Change, key: Key, cookie: int) -> list[Finding]:
        """Bytes of a session that runs over a child's connection."""
        length, message, _ = change.fields[_PACKET_LENGTH:]
        incoming = change.payload_flags & _INCOMING != 0
        findings = []
        if incoming and key not in self._sessions:
            findings = self._forwards.proxied(key, cookie)
            put(self._sessions, key, cookie, SESSIONS_KEPT)
            self._requests.follow(cookie)
        more = self._forwards.session_data(key, cookie, incoming, length, change.time, message)
        return findings + more

    def _payload(self, change: Change) -> Sequence[Sighting]:
        flow = change.flow
        assert flow is not None
        if not self._proxied and not self._forwards.speaking:
            return NOTHING
        key, cookie = change.process.key, flow.cookie
        if cookie in self._proxied:
            return self._tell(change, self._proxy_payload(change, self._proxied[cookie], cookie))
        forwards, incoming = self._forwards, change.payload_flags & _INCOMING != 0
        if forwards.is_session(key, cookie):
            length, message, _ = change.fields[_PACKET_LENGTH:]
            findings = forwards.session_data(key, cookie, incoming, length, change.time, message)
        else:
            findings = forwards.payload(key, cookie, incoming, change.data, change.time)
        return self._tell(change, findings)

    def _close(self, change: Change) -> Sequence[Sighting]:
        if change.flow is not None:
            cookie = change.flow.cookie
            self._forwards.close(change.process.key, cookie)
            if self._early:
                self._early.pop(cookie, None)
            if self._proxied:
                self._proxied.pop(cookie, None)
        return NOTHING

    def _exit(self, change: Change) -> Sequence[Sighting]:
        self._forwards.exit(change.process.key)
        if self._sessions:
            self._sessions.pop(change.process.key, None)
        return NOTHING
