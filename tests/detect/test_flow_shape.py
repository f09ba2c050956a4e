"""The shape of mining, and of what lives as long and says as little, from a simple model of each."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentwatch.detect import flow_shape
from agentwatch.detect.finding import IN, OUT
from agentwatch.detect.flow_shape import Totals, score
from tests.detect.hellos import alpn, client_hello, records
from tests.detect.test_chain import CLIENT, Fold, payload
from tests.schema.records import raw

RECORD = 22  # bytes that a record of TLS 1.3 adds: header, type, tag
MINUTES = 15
Segment = tuple[float, int, int]  # seconds since the last one, direction, bytes


class Kernel:
    """Counts segments as probes/payload.c does."""

    def __init__(self) -> None:
        self.bytes, self.squares, self.segments = [0, 0], [0, 0], [0, 0]
        self.starts = self.pushes = 0
        self._last = -1

    def segment(self, gap: float, direction: int, size: int) -> None:
        self.bytes[direction] += size
        self.squares[direction] += size * size
        self.segments[direction] += 1
        self.starts += gap > 1 and direction == OUT
        self.pushes += gap > 1 and direction == IN and self._last == IN
        self._last = direction

    def totals(self) -> Totals:
        return Totals._make([*self.bytes, *self.squares, *self.segments, self.starts, self.pushes])


def grade(model: Iterator[Segment], *, named: bool, alpn: bool, minutes: float = MINUTES) -> int:
    """The highest score in so many minutes."""
    kernel, time, told, best = Kernel(), 0.0, 0.0, 0
    first: Totals | None = None
    for gap, direction, size in model:
        time += gap
        kernel.segment(gap, direction, size)
        if time - told > 15:
            told = time
            first = first or kernel.totals()
            best = max(best, score(kernel.totals().since(first), time, named=named, alpn=alpn))
        if time > minutes * 60:
            break
    return best


def pool(
    dice: random.Random, job: int, share: int, answer: int, jobs: float, shares: float
) -> Iterator[Segment]:
    """A pool and its miner: jobs and shares each so many seconds on average."""
    now, next_job, next_share = 0.0, 1.0, dice.expovariate(1 / shares)
    while True:
        if next_job < next_share:
            yield next_job - now, IN, job + dice.randint(-6, 6) + RECORD
            now = next_job
            next_job += jobs * dice.uniform(0.5, 1.5)
        else:
            yield next_share - now, OUT, share + dice.randint(-2, 2) + RECORD
            yield 0.05, IN, answer + RECORD
            now = next_share + 0.05
            next_job = max(next_job, now + 0.001)
            next_share = now + dice.expovariate(1 / shares)


def xmrig(dice: random.Random) -> Iterator[Segment]:
    return pool(dice, job=370, share=225, answer=63, jobs=45, shares=20)


def xmrig_slow(dice: random.Random) -> Iterator[Segment]:
    return pool(dice, job=370, share=225, answer=63, jobs=60, shares=60)


def bitcoin(dice: random.Random) -> Iterator[Segment]:
    return pool(dice, job=1050, share=120, answer=40, jobs=30, shares=8)


def ethereum_like(dice: random.Random) -> Iterator[Segment]:
    return pool(dice, job=250, share=210, answer=40, jobs=13, shares=25)


@pytest.mark.parametrize(
    "model", [xmrig, xmrig_slow, bitcoin, ethereum_like], ids=lambda model: model.__name__
)
def test_miners_over_tls(model: Callable[[random.Random], Iterator[Segment]]) -> None:
    scores = [grade(model(random.Random(seed)), named=False, alpn=False) for seed in range(20)]
    assert min(scores) >= 65


def test_a_miner_is_told_within_five_minutes() -> None:
    scores = [grade(xmrig(random.Random(seed)), named=False, alpn=False, minutes=5) for seed in range(20)]
    assert sorted(scores)[2] >= 60


def test_a_name_and_alpn_take_twenty_points_at_most() -> None:
    assert grade(xmrig(random.Random(1)), named=True, alpn=True) >= 50


def terminal(dice: random.Random) -> Iterator[Segment]:
    """Keys and what they echo, screens of output, pauses."""
    while True:
        for _ in range(dice.randint(3, 30)):
            yield dice.uniform(0.08, 0.4), OUT, 36
            yield 0.02, IN, 36
        for _ in range(dice.randint(1, 12)):
            yield 0.05, IN, dice.randint(80, 1400)
        yield dice.expovariate(1 / 15), OUT, 36


def web_socket_keepalive(dice: random.Random) -> Iterator[Segment]:
    while True:
        yield 20, IN, 2 + RECORD
        yield 0.01, OUT, 6 + RECORD


def jupyter(dice: random.Random) -> Iterator[Segment]:
    """Cells are run; status, output and results come back; pings between."""
    while True:
        yield dice.expovariate(1 / 40), OUT, dice.randint(400, 2500)
        for _ in range(dice.randint(3, 40)):
            yield dice.expovariate(1 / 0.5), IN, dice.randint(300, 4000)


def wandb(dice: random.Random) -> Iterator[Segment]:
    """Steps are logged, each answered."""
    while True:
        yield 15, OUT, dice.randint(300, 6000)
        yield 0.1, IN, dice.randint(90, 400)


def heartbeat(dice: random.Random) -> Iterator[Segment]:
    """The same sizes for ever, but asked for: Ray, etcd leases, comet."""
    while True:
        yield 5, OUT, 160 + RECORD
        yield 0.02, IN, 120 + RECORD


def long_poll(dice: random.Random) -> Iterator[Segment]:
    """A Kafka consumer, a job queue: the answer comes late, but it was owed."""
    while True:
        yield 0.01, OUT, 180 + RECORD
        yield dice.uniform(1, 30), IN, 130 + RECORD


def model_api(dice: random.Random) -> Iterator[Segment]:
    """Completions are streamed, with a ping where the model thinks."""
    while True:
        yield dice.expovariate(1 / 20), OUT, dice.randint(2000, 60000)
        for _ in range(dice.randint(0, 2)):
            yield 15, IN, 40 + RECORD
        for _ in range(dice.randint(20, 400)):
            yield dice.uniform(0.01, 0.2), IN, dice.randint(120, 320) + RECORD


def grpc_keepalive(dice: random.Random) -> Iterator[Segment]:
    while True:
        yield 30, OUT, 17 + RECORD
        yield 0.01, IN, 17 + RECORD


def prometheus(dice: random.Random) -> Iterator[Segment]:
    while True:
        yield 15, OUT, 220 + RECORD
        for _ in range(20):
            yield 0.001, IN, 1400


def mqtt(dice: random.Random) -> Iterator[Segment]:
    """Readings go out, acknowledged; commands come in now and then."""
    while True:
        yield 10, OUT, 140 + RECORD
        yield 0.03, IN, 4 + RECORD
        if dice.random() < 0.2:
            yield 3, IN, dice.randint(60, 300) + RECORD


def subscription(dice: random.Random) -> Iterator[Segment]:
    """Redis, NATS: messages of many sizes come; pings go out."""
    while True:
        yield dice.expovariate(1 / 6), IN, dice.randint(60, 3000) + RECORD
        if dice.random() < 0.1:
            yield 2, OUT, 14 + RECORD
            yield 0.01, IN, 7 + RECORD


def watch(dice: random.Random) -> Iterator[Segment]:
    """Kubernetes: objects that changed; a window update now and then."""
    while True:
        yield dice.expovariate(1 / 8), IN, dice.randint(1500, 9000)
        if dice.random() < 0.3:
            yield 0.01, OUT, 13 + RECORD


def chat_gateway(dice: random.Random) -> Iterator[Segment]:
    """Discord, Slack: events of many sizes; a heartbeat each 41 s."""
    beat = 0.0
    while True:
        gap = dice.expovariate(1 / 5)
        beat += gap
        yield gap, IN, dice.randint(150, 4000) + RECORD
        if beat > 41:
            beat = 0
            yield 1.5, OUT, 32 + RECORD
            yield 0.05, IN, 18 + RECORD


def remote_editor(dice: random.Random) -> Iterator[Segment]:
    while True:
        for _ in range(dice.randint(1, 40)):
            yield dice.uniform(0.01, 0.3), dice.choice((IN, OUT)), dice.randint(40, 1400)
        yield dice.expovariate(1 / 5), dice.choice((IN, OUT)), dice.randint(40, 300)


def time_queries(dice: random.Random) -> Iterator[Segment]:
    while True:
        yield 64, OUT, 48
        yield 0.03, IN, 48


HONEST = [
    terminal, web_socket_keepalive, jupyter, wandb, heartbeat, long_poll, model_api, grpc_keepalive,
    prometheus, mqtt, subscription, watch, chat_gateway, remote_editor, time_queries,
]  # fmt: skip


@pytest.mark.parametrize("model", HONEST, ids=lambda model: model.__name__)
def test_honest_flows_stay_low_even_without_name(model: Callable[[random.Random], Iterator[Segment]]) -> None:
    scores = [grade(model(random.Random(seed)), named=False, alpn=False) for seed in range(20)]
    assert max(scores) < 30


def _records(time: int, kernel: Kernel, **more: Any) -> bytes:
    (out, back), (squares_out, squares_in) = kernel.bytes, kernel.squares
    return raw(
        "flow_progress", time=time, **(CLIENT | more), bytes_out=out, bytes_in=back, squares_out=squares_out,
        squares_in=squares_in, segments_out=kernel.segments[OUT], segments_in=kernel.segments[IN],
        starts=kernel.starts, pushes=kernel.pushes,
    )  # fmt: skip


def mining_progress(seconds: float, **more: Any) -> Iterator[bytes]:
    """What the kernel tells of a miner's flow in so many seconds."""
    kernel, time, told = Kernel(), 0.0, 0.0
    for gap, direction, size in xmrig(random.Random(1)):
        time += gap
        kernel.segment(gap, direction, size)
        if time - told > 15:
            told = time
            yield _records(int(time * 1e9), kernel, **more)
        if time > seconds:
            return


def _play(fold: Fold, seconds: float) -> list[dict[str, Any]]:
    return [dict(event.fields) for record in mining_progress(seconds) for event in fold(record)]


def test_scores_are_told_as_they_rise() -> None:
    fold = Fold(wanted=("network_behaviour",))
    fold(raw("connect", **CLIENT))
    events = _play(fold, 900)
    tens = [event["Score"] // 10 for event in events]
    assert tens == sorted(set(tens))
    assert tens[0] >= 5
    assert events[0]["Kind"] == "mining_shape"


def test_what_is_known_to_be_something_else_is_not_graded() -> None:
    fold = Fold(wanted=("network_behaviour",))
    fold(raw("connect", **CLIENT), payload(b"SSH-2.0-OpenSSH_9.6\r\n"))
    assert _play(fold, 900) == []


def test_a_client_that_names_protocols_inside_tls_scores_less() -> None:
    plain, named = Fold(wanted=("network_behaviour",)), Fold(wanted=("network_behaviour",))
    for fold, extensions in ((plain, []), (named, [alpn(b"h2")])):
        fold(raw("connect", **CLIENT), payload(records(client_hello((0x1301,), extensions))))
    assert _play(plain, 900)[-1]["Score"] - _play(named, 900)[-1]["Score"] == 10


def test_what_was_accepted_is_not_graded() -> None:
    fold = Fold(wanted=("network_behaviour",))
    fold(raw("accept", **CLIENT))
    assert _play(fold, 900) == []


@given(st.builds(Totals, *[st.integers(-(2**63), 2**64)] * 8), st.floats(0, 1e9), st.booleans())
def test_any_totals_have_a_score(totals: Totals, seconds: float, named: bool) -> None:
    assert 0 <= score(totals, seconds, named=named, alpn=named) <= 100


def test_tables_are_bounded() -> None:
    fold = Fold(wanted=("network_behaviour",))
    for cookie in range(flow_shape.FLOWS_KEPT + 20):
        fold(_records(1, Kernel(), cookie=cookie))
    (shapes,) = [
        one
        for of in fold.chain._by_type[23]
        if isinstance(one := getattr(of, "__self__", None), flow_shape.FlowShapes)
    ]
    assert len(shapes._begun) == flow_shape.FLOWS_KEPT
