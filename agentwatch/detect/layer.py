"""What the protocols of a conversation have in common.

A conversation is a chain of layers. A layer gets the bytes of both directions, reports findings
through its context, and hands the bytes it carries to a layer inside (a proxy's tunnel, an HTTP
body, the messages of a WebSocket), which is found by the same table as the outermost one.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, Protocol

from agentwatch.detect.finding import OUT, Finding
from agentwatch.event import Value

MAX_DEPTH: Final = 8
"""Layers within layers that are looked into."""


class Layer(Protocol):
    """One protocol, both directions. No method raises, on any bytes."""

    def feed(self, direction: int, data: bytes, gap: bool, start: bool) -> None:
        """Takes bytes in stream order.

        `gap`: bytes before these are missing (`data` may be empty: what came before was cut).
        `start`: a message starts here, so a layer that lost its place may find it again.
        """

    @property
    def finished(self) -> bool:
        """Whether no further bytes can yield a finding, in either direction."""


class Context:
    """Where a layer stands: what carries it, who is its client, whom to tell.

    `client` is the direction in which the bytes of this layer's client go (OUT when the watched
    process is the client), None where that is unknown. `outer` names the proxies passed through,
    `carrier` what carries the layer's bytes. `asked` are fields from outer layers that belong to
    all findings within (the destination asked of a proxy). `software` is what the client called
    itself in an outer layer.
    """

    __slots__ = ("asked", "carrier", "client", "depth", "outer", "recognise", "report", "software")

    def __init__(
        self,
        report: Callable[[Finding], None],
        recognise: Callable[[Context], Layer],
        carrier: str,
        client: int | None,
        outer: tuple[str, ...] = (),
        asked: tuple[tuple[str, Value], ...] = (),
        software: str = "",
        depth: int = 0,
    ) -> None:
        self.report = report
        self.recognise = recognise
        self.carrier = carrier
        self.client = client
        self.outer = outer
        self.asked = asked
        self.software = software
        self.depth = depth

    def open(self) -> Layer:
        """The layer of whatever lies here."""
        return self.recognise(self) if self.depth <= MAX_DEPTH else Unread()

    def emit(
        self, protocol: str, role: str = "", cut: frozenset[str] = frozenset(), /, **attributes: Value
    ) -> None:
        """Reports a finding; attributes that are None or empty are left out.

        `cut`: names of attributes whose values lie beyond what was recorded.
        """
        fields: dict[str, Value] = dict(self.asked)
        fields["Transport"] = ">".join((*self.outer, self.carrier)) if self.outer else self.carrier
        role = role or self.role
        if role:
            fields["Role"] = role
        for name, value in attributes.items():
            if value is not None and value != "":
                fields[name] = value
        self.report(Finding(protocol, fields, cut))

    @property
    def role(self) -> str:
        """`client` or `server`, as the watched process is; empty where unknown."""
        if self.client is None:
            return ""
        return "client" if self.client == OUT else "server"

    def sent_by(self, direction: int) -> Context:
        """The same place, knowing that the client's bytes go in `direction`."""
        if self.client == direction:
            return self
        context = self._copy()
        context.client = direction
        return context

    def named(self, software: str) -> Context:
        """The same place, knowing what the client calls itself."""
        context = self._copy()
        context.software = software
        return context

    def tunnel(self, proxy: str, host: str, port: int) -> Context:
        """The inside of a proxy's tunnel: raw bytes again, with a destination."""
        context = self._copy()
        context.outer = (*self.outer, proxy)
        context.asked = (("DestinationHostname", host), ("DestinationPort", port))
        context.software = ""
        context.depth += 1
        return context

    def inside(self, carrier: str, software: str = "") -> Context:
        """The payload of `carrier`."""
        context = self._copy()
        context.carrier = carrier
        context.software = software or self.software
        context.depth += 1
        return context

    def _copy(self) -> Context:
        return Context(
            self.report,
            self.recognise,
            self.carrier,
            self.client,
            self.outer,
            self.asked,
            self.software,
            self.depth,
        )


def starts_with(*openings: bytes) -> Callable[[bytes], bool | None]:
    """Whether a stream starts with one of these; the function says None if more bytes are needed to tell."""

    longest = max(map(len, openings))

    def recognise(head: bytes) -> bool | None:
        if head.startswith(openings):
            return True
        if len(head) >= longest:
            return False
        return None if any(opening.startswith(head) for opening in openings) else False

    return recognise


class Unread:
    """Bytes that are not looked at."""

    finished = True

    def feed(self, direction: int, data: bytes, gap: bool, start: bool) -> None:
        return None


class Opaque(Unread):
    """A protocol that is recognised and carries nothing we can read: named once, then skipped."""

    def __init__(self, context: Context, protocol: str) -> None:
        context.emit(protocol)
