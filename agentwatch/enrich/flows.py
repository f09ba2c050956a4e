"""The flows of agents: one socket's life each, keyed by the kernel's socket cookie."""

from __future__ import annotations

import socket
from collections import OrderedDict
from functools import lru_cache

from agentwatch.enrich.processes import Key

CLOSED_KEPT = 4096  # closed flows remembered
FLOWS_KEPT = 65536  # flows remembered in all: the ends of some may have been lost
HEADS_KEPT = 2048  # flows of which the first bytes are remembered
HEAD_BYTES = 1024  # remembered of what each side says first
ADDRESSES_KEPT = 4096  # addresses whose text is remembered
_TRANSPORTS = {6: "tcp", 17: "udp"}
IPV4_IN_IPV6 = b"\0" * 10 + b"\xff\xff"


class Flow:
    """One socket. `initiated` is None until it connects (True) or was accepted (False)."""

    __slots__ = (
        "agent", "application", "attributes", "bytes_in", "bytes_out", "closed", "cookie", "domain", "error",
        "family", "head_in", "head_out", "initiated", "local", "local_port", "opened", "owner", "protocol",
        "remote", "remote_port", "socktype",
    )  # fmt: skip

    def __init__(
        self, cookie: int, owner: Key, agent: int, family: int, socktype: int, protocol: int, opened: int
    ) -> None:
        self.cookie = cookie
        self.owner = owner
        self.agent = agent
        self.family = family
        self.socktype = socktype
        self.protocol = protocol
        self.local = ""
        self.local_port = 0
        self.remote = ""
        self.remote_port = 0
        self.initiated: bool | None = None
        self.opened = opened
        self.closed = 0
        self.error = 0
        self.bytes_out = 0
        self.bytes_in = 0
        self.application = ""  # protocol as recognised from the bytes
        self.domain = ""
        self.attributes: dict[str, object] = {}
        # What was captured first, as it came, for people to look at; None once it is forgotten.
        self.head_out: bytes | None = b""
        self.head_in: bytes | None = b""

    @property
    def transport(self) -> str:
        """`tcp`, `udp`, or the number of the IP protocol."""
        return _TRANSPORTS.get(self.protocol) or str(self.protocol)


@lru_cache(maxsize=ADDRESSES_KEPT)
def address_text(family: int, packed: bytes) -> str:
    """An address as text. IPv4 inside IPv6 is shown as what it is, IPv4."""
    if family == socket.AF_INET:
        return socket.inet_ntop(socket.AF_INET, packed[:4])
    if packed[:12] == IPV4_IN_IPV6:
        return socket.inet_ntop(socket.AF_INET, packed[12:16])
    return socket.inet_ntop(socket.AF_INET6, packed[:16])


class FlowTable:
    """All flows seen, by cookie. Closed ones are forgotten, oldest first, beyond CLOSED_KEPT."""

    def __init__(self) -> None:
        self._flows: OrderedDict[int, Flow] = OrderedDict()
        self._closed: OrderedDict[int, None] = OrderedDict()
        self._with_heads: OrderedDict[int, None] = OrderedDict()

    def known(self, cookie: int) -> Flow | None:
        return self._flows.get(cookie)

    def all(self) -> list[Flow]:
        """Every flow remembered, in the order of first sight."""
        return list(self._flows.values())

    def update(self, block: tuple[int, bytes, bytes, int, int, int, int, int, int], owner: Key, agent: int,
               time: int) -> Flow:  # fmt: skip
        """The flow of a socket block (see the schema), its addresses taken over where they are known."""
        cookie, local, remote, local_port, remote_port, family, socktype, protocol, _ = block
        flow = self._flows.get(cookie)
        if flow is None:
            flow = self._flows[cookie] = Flow(cookie, owner, agent, family, socktype, protocol, time)
            if len(self._flows) > FLOWS_KEPT:
                self._forget(next(iter(self._flows)))
        if owner[0]:  # a socket from before the watch has no owner in the kernel's storage
            flow.owner = owner
        if family and local_port:
            flow.local, flow.local_port = address_text(family, local), local_port
        if family and (remote_port or remote.strip(b"\0")):
            flow.remote, flow.remote_port = address_text(family, remote), remote_port
        return flow

    def keep_head(self, flow: Flow, data: bytes, incoming: bool) -> None:
        """Remember the first bytes of each side; those of the flow that spoke first are forgotten first."""
        if incoming:
            flow.head_in = ((flow.head_in or b"") + data)[:HEAD_BYTES]
        else:
            flow.head_out = ((flow.head_out or b"") + data)[:HEAD_BYTES]
        self._with_heads[flow.cookie] = None
        if len(self._with_heads) > HEADS_KEPT:
            self._forget_head(next(iter(self._with_heads)))

    def _forget_head(self, cookie: int) -> None:
        if cookie in self._with_heads:
            del self._with_heads[cookie]
            flow = self._flows[cookie]
            flow.head_out = flow.head_in = None

    def close(self, flow: Flow, bytes_out: int, bytes_in: int, time: int) -> None:
        """The socket is gone; the flow is remembered for a while."""
        flow.bytes_out, flow.bytes_in, flow.closed = bytes_out, bytes_in, time
        self._closed[flow.cookie] = None
        if len(self._closed) > CLOSED_KEPT:
            self._forget(next(iter(self._closed)))

    def _forget(self, cookie: int) -> None:
        self._forget_head(cookie)
        self._closed.pop(cookie, None)
        self._flows.pop(cookie, None)
