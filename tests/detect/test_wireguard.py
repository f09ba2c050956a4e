from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from agentwatch.detect.conversation import Conversation
from agentwatch.detect.finding import IN, OUT, Finding
from agentwatch.detect.wireguard import is_wireguard

RANDOM = bytes(number * 7 % 256 for number in range(124))
INITIATION = b"\1\0\0\0" + b"indx" + RANDOM + bytes(16)
RESPONSE = b"\2\0\0\0" + b"peer" + b"indx" + RANDOM[:64] + bytes(16)


def heard(*datagrams: tuple[int, bytes], initiated: bool | None = True) -> list[Finding]:
    conversation, found = Conversation(initiated, "udp"), []
    for number, (direction, data) in enumerate(datagrams):
        found += conversation.segment(direction, 0, data, len(data), number, 0)
    return found


def test_a_handshake() -> None:
    found = heard((OUT, INITIATION), (OUT, INITIATION), (IN, RESPONSE))
    assert [one.protocol for one in found] == ["wireguard", "wireguard"]
    assert [one.attributes["Stage"] for one in found] == ["asked", "answered"]
    assert found[0].attributes["Behaviour"] == "tunnel_tool"


def test_the_peer_may_begin() -> None:
    (found,) = heard((IN, INITIATION), initiated=None)
    assert found.attributes["Role"] == "server"


def test_an_answer_to_another_is_none() -> None:
    assert len(heard((OUT, INITIATION), (IN, RESPONSE.replace(b"indx", b"else")))) == 1
    assert len(heard((OUT, INITIATION), (OUT, RESPONSE))) == 1


def test_what_only_has_the_size() -> None:
    assert not is_wireguard(b"\1\0\0\0".ljust(148, b"\0"))
    assert not is_wireguard(INITIATION + b"x")


def test_tailscale_looks_for_its_peers() -> None:
    (found,) = heard((OUT, b"TS\xf0\x9f\x92\xac" + bytes(100)), (IN, b"x"))
    assert (found.protocol, found.attributes["Behaviour"]) == ("tailscale", "tunnel_tool")
    assert heard((OUT, b"TS")) == []


@given(st.lists(st.tuples(st.sampled_from([OUT, IN]), st.binary(max_size=148)), max_size=6))
def test_no_datagrams_raise(datagrams: list[tuple[int, bytes]]) -> None:
    heard((OUT, INITIATION), *datagrams)
