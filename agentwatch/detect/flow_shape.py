"""Mining that cannot be read, graded by the shape of its flow.

What published work agrees on (XMR-Ray; MineShark, NDSS 2025; CryptoCatch, arXiv 2602.10573; DeCrypto):
a miner keeps one connection for hours and says little on it. The pool hands out jobs when it has
them, unasked; the miner submits shares when it finds them, at random intervals; each share is
answered. Shares are all alike in size but for a few digits, jobs nearly so: 100 to 400 bytes and
100 to 1200, the record of TLS included. xmrig over TLS gives no server name and no ALPN.

The kernel tells totals only (`flow_progress`): segments, their bytes and squares in each direction,
which gives mean and deviation, how often the watched side spoke after silence (`starts`), and how
often the other side did although nothing was owed (`pushes`). What request and response make, however
slow, has no pushes; keep-alives are smaller than any share; chats and terminals vary in size; bulk is
bulk. The first progress is where counting begins: a handshake is left out.

A score is no proof. It is graded so that rules may join it with a second sign, such as GPU load.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Final, NamedTuple

from agentwatch.detect.handler import NOTHING, Handler
from agentwatch.enrich.facts import behaviour_sighting
from agentwatch.enrich.sighting import Sighting
from agentwatch.enrich.state import Change, State
from agentwatch.event import Value
from agentwatch.schema.events import SOCKET_BLOCK, Type

FLOWS_KEPT: Final = 4096
"""Flows whose beginnings are remembered; the one silent for longest, closed or not, is let go first."""
TOLD_FROM: Final = 50
"""Scores are told from here on, at each further ten."""
COUNTED: Final = 0xFFFF
"""Segments that the kernel counts; a flow with more is no miner's, or was told long ago."""

_FIRST = len(SOCKET_BLOCK)
_OPAQUE: Final = frozenset(("", "tls", "quic"))
"""Protocols below which mining may lie unseen."""


class Totals(NamedTuple):
    """What a flow has carried: bytes, squares and segments out and in, starts and pushes (see the module)."""

    bytes_out: int
    bytes_in: int
    squares_out: int
    squares_in: int
    segments_out: int
    segments_in: int
    starts: int
    pushes: int

    def since(self, earlier: Totals) -> Totals:
        """What came after an earlier state."""
        return Totals(*(now - then for now, then in zip(self, earlier, strict=True)))


def score(totals: Totals, seconds: float, *, named: bool, alpn: bool) -> int:
    """0 to 100: how much this is like mining.

    `named` and `alpn`: whether the client named the server it wants, or the protocol inside.
    """
    if totals.segments_out < 3 or totals.segments_in < 4 or totals.pushes < 3 or totals.starts < 2:
        return 0
    mean_out, deviation_out = _spread(totals.bytes_out, totals.squares_out, totals.segments_out)
    mean_in, deviation_in = _spread(totals.bytes_in, totals.squares_in, totals.segments_in)
    unasked = totals.pushes / totals.segments_in
    answers = (totals.segments_in - totals.pushes) / totals.segments_out
    minute = (totals.segments_out + totals.segments_in) * 60 / max(seconds, 1)
    gates = (
        _between(mean_out, 70, 110, 420, 800)
        * _between(mean_in, 80, 120, 1200, 2000)
        * _between(minute, 0.3, 1, 40, 120)
        * _rising(unasked, 0.04, 0.12)
        * _rising(seconds, 60, 180)
        * (1 - _rising(deviation_out, 0.3, 0.9))
    )
    points = (
        20 * (1 - _rising(deviation_out, 0.1, 0.5))
        + 10 * (1 - _rising(deviation_in, 0.7, 1.3))
        + 20 * _rising(unasked, 0.08, 0.25)
        + 15 * _between(answers, 0.4, 0.8, 1.3, 2)
        + 15 * _rising(seconds, 120, 900)
        + 10 * (not named)
        + 10 * (not alpn)
    )
    return int(gates * points)


def _spread(total: int, squares: int, count: int) -> tuple[float, float]:
    """Mean size, and its standard deviation as a share of the mean."""
    mean = total / count
    if mean <= 0:
        return 0.0, 0.0
    return mean, math.sqrt(max(0.0, squares / count - mean * mean)) / mean


def _rising(value: float, low: float, high: float) -> float:
    """0 up to `low`, 1 from `high` on, a straight line between."""
    return min(1.0, max(0.0, (value - low) / (high - low)))


def _between(value: float, low: float, full: float, full_end: float, end: float) -> float:
    """0 outside `low` and `end`, 1 inside the `full` ones, straight lines between."""
    return _rising(value, low, full) * (1 - _rising(value, full_end, end))


class FlowShapes:
    """Events of category `network_behaviour` with Kind mining_shape, for flows that hide what they carry."""

    def __init__(self, state: State) -> None:
        self._state = state
        self._begun: dict[int, tuple[int, Totals, int]] = {}  # by cookie: time, totals, score told
        self.handlers: dict[int, Handler] = {int(Type.FLOW_PROGRESS): self._progress}

    def _progress(self, change: Change) -> Sequence[Sighting]:
        """The score of a flow, where it reaches a further ten."""
        flow = change.flow
        if flow is None:
            return NOTHING
        totals = Totals(*change.fields[_FIRST:])
        begun = self._begun.pop(flow.cookie, None)
        if flow.initiated is False or flow.application not in _OPAQUE or _is_bulk(totals):
            return NOTHING
        time, first, told = begun or (change.time, totals, 0)
        seconds = max(0, change.time - time) / 1e9
        since = totals.since(first)
        points = score(since, seconds, named=bool(flow.domain), alpn="Alpn" in flow.attributes)
        is_further = points >= TOLD_FROM and points // 10 > told // 10
        self._begun[flow.cookie] = (time, first, points if is_further else told)
        if len(self._begun) > FLOWS_KEPT:
            del self._begun[next(iter(self._begun))]
        if not is_further:
            return NOTHING
        flow.attributes["mining_shape"] = points  # for whoever knows a second sign
        found: dict[str, Value] = {
            "Kind": "mining_shape",
            "Score": points,
            "Span": int(seconds),
            "Pushes": since.pushes,
            "BytesOut": since.bytes_out,
            "BytesIn": since.bytes_in,
            "Protocol": flow.application or flow.transport,
        }
        return (behaviour_sighting(self._state, "network_behaviour", change, found),)


def _is_bulk(totals: Totals) -> bool:
    return totals.segments_out >= COUNTED or totals.segments_in >= COUNTED
