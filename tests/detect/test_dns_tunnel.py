"""Tunnels in DNS by what their queries carry, as the tools write them, and honest names that are many."""

from __future__ import annotations

import base64
import random
from collections.abc import Callable, Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentwatch.detect import dns_tunnel
from agentwatch.detect.dns import DnsMessage, Question
from agentwatch.detect.dns_tunnel import DnsTunnels
from agentwatch.event import Value

SECOND = 1_000_000_000
Query = tuple[str, str, str, int]  # name, type, status, bytes of the answer


def message(name: str, type: str, status: str = "") -> DnsMessage:
    return DnsMessage(bool(status), 0, status or "NOERROR", False, (Question(name.lower(), type),), (), False)


def told(queries: Iterator[Query], step: float = 0.05) -> list[dict[str, Value]]:
    tunnels, found, time = DnsTunnels(), [], 0
    for name, type, status, size in queries:
        time += int(step * SECOND)
        found.append(tunnels.message(message(name, type), 60, time))
        if status:
            found.append(tunnels.message(message(name, type, status), size, time))
    return [facts for facts in found if facts is not None]


def base32(dice: random.Random, count: int) -> str:
    return base64.b32encode(dice.randbytes(count)).decode().rstrip("=").lower()


def text_records(dice: random.Random) -> Iterator[Query]:
    """One label of 60 letters, TXT."""
    for _ in range(60):
        yield f"{base32(dice, 38)[:60]}.t.example", "TXT", "NOERROR", 120


def iodine(dice: random.Random) -> Iterator[Query]:
    """Full names in NULL queries, four labels of base32."""
    for _ in range(40):
        yield ".".join(base32(dice, 38)[:57] for _ in range(4)) + ".t1.example.org", "NULL", "NOERROR", 900


def dnscat2(dice: random.Random) -> Iterator[Query]:
    """Hexadecimal; TXT, CNAME and MX by turns."""
    for _ in range(60):
        type = dice.choice(("TXT", "CNAME", "MX"))
        yield (
            f"dnscat.{dice.randbytes(30).hex()}.{dice.randbytes(20).hex()}.example.net",
            type,
            "NOERROR",
            100,
        )


def dns2tcp(dice: random.Random) -> Iterator[Query]:
    """Little goes out, much comes in."""
    for number in range(80):
        yield f"{number:04x}{base32(dice, 3)}ba.tun.example.com", "TXT", "NOERROR", 480


def no_way_back(dice: random.Random) -> Iterator[Query]:
    """A key in plain A queries that nobody answers."""
    for _ in range(40):
        yield f"{dice.randbytes(16).hex()}.leak.example.co.uk", "A", "NXDOMAIN", 80


def answered_addresses(dice: random.Random) -> Iterator[Query]:
    """A queries that are answered like honest ones: told at the bound itself."""
    for _ in range(300):
        yield f"{dice.randbytes(20).hex()}.example.info", "A", "NOERROR", 80


def short_labels(dice: random.Random) -> Iterator[Query]:
    """Twelve letters a name, but TXT all along."""
    for _ in range(1200):
        yield f"{base32(dice, 5)[:6]}.{base32(dice, 5)[:6]}.example.com", "TXT", "NOERROR", 60


@pytest.mark.parametrize(
    "tool",
    [text_records, iodine, dnscat2, dns2tcp, no_way_back, answered_addresses, short_labels],
    ids=lambda tool: tool.__name__,
)
def test_tunnels(tool: Callable[[random.Random], Iterator[Query]]) -> None:
    assert told(tool(random.Random(1)))


def test_facts() -> None:
    first = told(text_records(random.Random(1)))[0]
    assert (first["Kind"], first["Domain"], first["QueryType"]) == ("dns_tunnel", "t.example", "TXT")
    assert isinstance(first["Queries"], int) and first["Queries"] <= 20
    assert isinstance(first["Entropy"], float) and 3.5 < first["Entropy"] < 5


def test_slow_tunnels_are_told_as_well() -> None:
    assert told(text_records(random.Random(1)), step=60)


def web(dice: random.Random) -> Iterator[Query]:
    """A crawler: content networks, buckets, blogs, a thousand of each."""
    for number in range(1000):
        yield f"d{base32(dice, 8)[:13]}.cloudfront.net", "A", "NOERROR", 120
        yield f"{dice.choice(WORDS)}{dice.choice(WORDS)}{number % 90}.blogspot.com", "AAAA", "NOERROR", 120


def mail(dice: random.Random) -> Iterator[Query]:
    """A mail filter: DKIM, DMARC, block lists by address and by hash."""
    for number in range(1000):
        sender = f"{dice.choice(WORDS)}{number}.example"
        yield f"selector{number % 9}._domainkey.{sender}", "TXT", "NOERROR", 400
        yield f"_dmarc.{sender}", "TXT", "NXDOMAIN", 90
        yield ".".join(str(byte) for byte in dice.randbytes(4)) + ".zen.example.org", "A", "NXDOMAIN", 90
    for _ in range(150):
        yield f"{base32(dice, 20)}.hbl.dq.spamhaus.net", "A", "NXDOMAIN", 90


def cluster(dice: random.Random) -> Iterator[Query]:
    """ndots:5 puts the search list behind each name first."""
    for number in range(400):
        host = f"{dice.choice(WORDS)}-{dice.choice(WORDS)}.{dice.choice(WORDS)}{number % 70}.com"
        for search in (
            "ml.svc.cluster.local",
            "svc.cluster.local",
            "cluster.local",
            "eu-west-1.compute.internal",
        ):
            yield f"{host}.{search}", "A", "NXDOMAIN", 120
        yield f"vllm-{base32(dice, 6)[:9]}-{base32(dice, 3)[:5]}.ml.svc.cluster.local", "A", "NOERROR", 120


def addresses(dice: random.Random) -> Iterator[Query]:
    """Reverse lookups, IPv4 and IPv6."""
    for _ in range(500):
        yield ".".join(str(byte) for byte in dice.randbytes(4)) + ".in-addr.arpa", "PTR", "NXDOMAIN", 120
        yield ".".join(dice.randbytes(16).hex()) + ".ip6.arpa", "PTR", "NXDOMAIN", 140


def few_long_names(dice: random.Random) -> Iterator[Query]:
    """Buckets and load balancers have long names, asked for again and again."""
    names = [f"internal-{dice.randbytes(16).hex()}.eu-west-1.elb.amazonaws.com" for _ in range(12)]
    for _ in range(500):
        yield dice.choice(names), "A", "NOERROR", 150


WORDS = (
    "model",
    "data",
    "train",
    "garden",
    "blue",
    "river",
    "news",
    "cache",
    "token",
    "light",
    "stone",
    "kernel",
)


@pytest.mark.parametrize(
    "work", [web, mail, cluster, addresses, few_long_names], ids=lambda work: work.__name__
)
def test_honest_names(work: Callable[[random.Random], Iterator[Query]]) -> None:
    assert told(work(random.Random(1))) == []


@given(
    st.lists(
        st.tuples(
            st.text(max_size=40), st.sampled_from(("A", "TXT")), st.sampled_from(("", "NOERROR", "SERVFAIL"))
        )
    )
)
def test_any_names(queries: list[tuple[str, str, str]]) -> None:
    told((name, type, status, 10) for name, type, status in queries)


def test_tables_are_bounded() -> None:
    tunnels = DnsTunnels()
    for number in range(dns_tunnel.DOMAINS_KEPT + 50):
        tunnels.message(message(f"a.b{number}.example{number}", "A"), 60, number)
    for number in range(dns_tunnel.LABELS_KEPT + 50):
        tunnels.message(message(f"{number}.example.com", "A"), 60, number)
    assert len(tunnels._domains) == dns_tunnel.DOMAINS_KEPT
    assert len(tunnels._domains["example.com"].labels) <= dns_tunnel.LABELS_KEPT + 1
