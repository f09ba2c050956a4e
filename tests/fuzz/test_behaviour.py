"""Any order of things that processes and flows do: the detectors of behaviour never raise, and stay small."""

from __future__ import annotations

from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from agentwatch.detect.shells import SHELLS_KEPT
from agentwatch.schema.events import StreamKind
from tests.detect.world import World

PIDS, COOKIES = st.integers(1, 6), st.integers(1, 5)
STREAMS = st.tuples(st.sampled_from(StreamKind), st.integers(0, 6), st.integers(0, 2))
WORDS = st.lists(
    st.sampled_from(
        ["sh", "bash", "-i", "-c", "id", "curl", "ssh", "-R", "9:h:9", "nc", "4001", "-e", "\xff"]
    ),
    min_size=1,
    max_size=5,
)
BYTES = st.one_of(
    st.binary(max_size=600),
    st.sampled_from([b"id\n", b"SSH-2.0-x\r\n", b"GET / HTTP/1.1\r\n\r\n", b"\x16\x03\x01\0\x05\x01", b"# "]),
)
STEPS = st.one_of(
    st.tuples(st.just("fork"), PIDS, PIDS),
    st.tuples(st.just("exec"), PIDS, WORDS, PIDS, STREAMS, STREAMS),
    st.tuples(st.just("exit"), PIDS),
    st.tuples(
        st.just("connect"),
        PIDS,
        COOKIES,
        st.sampled_from(["127.0.0.1", "10.0.0.1", "192.0.2.7"]),
        st.booleans(),
    ),
    st.tuples(st.just("close"), COOKIES),
    st.tuples(st.just("hears"), COOKIES, BYTES),
    st.tuples(st.just("says"), COOKIES, BYTES),
    st.tuples(st.just("unix"), PIDS, st.sampled_from(["/run/docker.sock", "/dev/log", ""])),
)


def play(world: World, step: tuple[Any, ...]) -> None:
    kind, *rest = step
    if kind == "exec":
        pid, words, parent, stdin, stdout = rest
        world.exec(pid, *words, parent=parent, stdin=stdin, stdout=stdout)
    elif kind == "connect":
        pid, cookie, host, accepted = rest
        world.connect(pid, cookie, host, accepted=accepted)
    elif kind in ("close", "hears", "says"):
        if rest[0] in world.flows:
            getattr(world, kind)(*rest)
    else:
        getattr(world, kind)(*rest)


@given(st.lists(STEPS, max_size=60))
@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_any_behaviour(steps: list[tuple[Any, ...]]) -> None:
    world, again = World(), World()
    for step in steps:
        play(world, step)
        play(again, step)
    assert world.told == again.told
    shells = next(one for one in world.chain._joined if type(one).__name__ == "Shells")
    links = shells._links  # type: ignore[attr-defined]
    assert set(links) <= set(world.flows)
    assert all(len(link.shells) <= SHELLS_KEPT for link in links.values())
