"""Reverse tunnels over SSH: by argv, by configuration, and by what the process does."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import ClassVar

from agentwatch.detect.finding import Finding
from agentwatch.detect.remote_forward import RemoteForward
from agentwatch.detect.sighting import Sighting
from agentwatch.enrich.facts import flow_sighting
from agentwatch.enrich.flows import Flow
from agentwatch.enrich.state import Change, State
from agentwatch.schema.events import Type

_STREAM = 1  # SOCK_STREAM


class Tunnels:
    """Events of category `flow` with Behaviour remote_forward, from changes and from SSH banners."""

    types: ClassVar = frozenset(
        map(int, (Type.EXEC, Type.PROCESS, Type.FILE, Type.CONNECT, Type.PAYLOAD, Type.EXIT))
    )

    def __init__(self, state: State, request: Callable[[str, Change], None]) -> None:
        self._state = state
        self._request = request
        self._forwards = RemoteForward()
        self._banners: list[Finding] = []
        self._handlers: dict[int, Callable[[Change], list[Finding]]] = {
            Type.EXEC: self._exec,
            Type.PROCESS: self._exec,
            Type.FILE: self._file,
            Type.CONNECT: self._connect,
            Type.PAYLOAD: self._payload,
            Type.EXIT: self._exit,
        }

    def of(self, change: Change) -> Iterable[Sighting]:
        """What this change says about remote forwards."""
        findings = self._handlers[change.type](change)
        if self._banners:
            findings, self._banners = self._banners + findings, []
        return [
            flow_sighting(self._state, change, {"Protocol": one.protocol, **one.attributes})
            for one in findings
        ]

    def banner(self, change: Change, flow: Flow, finding: Finding) -> None:
        """An SSH banner was recognised in this change; told before `of` is asked about it."""
        if finding.attributes.get("Role") == "client":
            self._banners = self._forwards.banner(change.process.key, flow.cookie, change.time)

    def _exec(self, change: Change) -> list[Finding]:
        key, argv = change.process.key, change.process.argv
        findings = self._forwards.exec(key, argv, change.time)
        path = self._forwards.wanted_config(key)
        if path is not None:
            self._request(path, change)
        return findings

    def _file(self, change: Change) -> list[Finding]:
        _, content, error = change.fields
        if error:
            return []
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
        return self._forwards.payload(
            change.process.key, flow.cookie, incoming=change.incoming, data=change.data, time=change.time
        )

    def _exit(self, change: Change) -> list[Finding]:
        self._forwards.exit(change.process.key)
        return []
