"""Data carried in DNS: how much the names asked for below one domain can have told its owner.

After "Practical Comprehensive Bounds on Surreptitious Communication over DNS" (Paxson et al., USENIX
Security 2013): what matters is how much information the queries below a registered domain carry, not
which tool wrote them, and 4 kB a day is a bound that honest domains of a site stay below. Here only
labels count that were not seen below this domain before, each with its length and the entropy of its
letters. What names in honest use have and encoded data has not is short new labels: a content network's
hosts, blogs and pods bring ten new letters or so a name, dnscat2, iodine and dns2tcp 30 to 200.

Queries that ask for records which carry data (TXT, NULL, CNAME, MX, ...), or mostly have no answer, as
those of an exfiltration without a return path do, are told from an eighth of the bound on. So is an
answer's volume: what a tunnel brings in comes in records that carry data, under ever new names.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Final

from agentwatch.detect.dns import DnsMessage
from agentwatch.event import Value

DOMAINS_KEPT: Final = 512
"""Domains remembered of an agent; the one asked for longest ago is let go first."""
LABELS_KEPT: Final = 2048
"""Labels remembered of a domain; further ones all count as new."""
WINDOW_NS: Final = 86_400_000_000_000
"""What a domain was told is counted from its first query on for so long, then from nothing again."""
BOUND: Final = 4096
"""Bytes that the names below a domain may have told."""
EARLY_BOUND: Final = BOUND // 8
LONG: Final = 16
"""New letters a name, on average, from which on a name is not one that people or clusters give."""
ANSWER_SHARE: Final = 4
"""Bytes of answers in records that carry data, under new names, that count like one byte told."""
_NAMES_AT_LEAST: Final = 8

CARRYING: Final = frozenset(
    ("TXT", "NULL", "CNAME", "MX", "SRV", "ANY", "TYPE25", "TYPE65399", "TYPE65432")  # KEY, PRIVATE
)
_TWO_LEVELS: Final = frozenset(
    f"{second}.{top}"
    for top, seconds in {
        "uk": ("co", "org", "ac", "gov", "net"),
        "jp": ("co", "or", "ne", "ac", "go"),
        "au": ("com", "net", "org", "edu", "gov"),
        "nz": ("co", "org", "net", "ac"),
        "br": ("com", "net", "org", "gov"),
        "cn": ("com", "net", "org", "gov", "edu", "ac"),
        "in": ("co", "net", "org", "ac", "gov"),
        "kr": ("co", "or", "ac", "go"),
        "tw": ("com", "org", "edu", "gov"),
        "za": ("co", "org", "ac"),
        "il": ("co", "org", "ac"),
        "tr": ("com", "org", "edu", "gov"),
        "mx": ("com", "org", "edu", "gob"),
        "ar": ("com", "org", "edu", "gob"),
        "sg": ("com", "org", "edu", "gov"),
        "hk": ("com", "org", "edu", "gov"),
        "eu": ("co",),
        "org": ("duckdns", "eu"),
        "com": ("dyndns",),
    }.items()
    for second in seconds
)
"""Suffixes of two labels below which domains are registered: a small part of publicsuffix.org's list."""

_LOOKUP_SERVICES: Final = frozenset(
    (
        *("spamhaus.org", "spamhaus.net", "surbl.org", "uribl.com", "barracudacentral.org", "sorbs.net"),
        *("mcafee.com", "sophosxl.net", "e5.sk", "cymru.com", "trendmicro.com", "avast.com"),
    )
)
"""Zones in which mail filters and virus scanners look up hashes by design."""
_PRIVATE: Final = frozenset(("local", "internal", "lan", "home", "corp", "localdomain", "arpa", "svc"))
"""Top labels that local resolvers answer: search lists put every name asked for below them in vain."""
_LENIENCE: Final = 8
"""By how much the bound is higher for these two."""


@dataclass(slots=True)
class _Domain:
    began: int
    told_at: int = 0
    queries: int = 0
    names: int = 0
    letters: int = 0
    bits: float = 0.0
    carrying: int = 0
    failures: int = 0
    answered: int = 0  # bytes
    types: dict[str, int] = field(default_factory=dict)
    labels: set[str] = field(default_factory=set)

    @property
    def told(self) -> int:
        """Bytes that names or answers may have carried."""
        return max(int(self.bits) // 8, self.answered // ANSWER_SHARE)


class DnsTunnels:
    """The queries of one agent. Order and entropy are all that counts; sets are only asked, never listed."""

    def __init__(self) -> None:
        self._domains: dict[str, _Domain] = {}

    def message(self, message: DnsMessage, size: int, time: int) -> dict[str, Value] | None:
        """A query or a response of `size` bytes; what it newly shows. `time`: nanoseconds since boot."""
        question = message.questions[0]
        is_plain = message.rcode == "NOERROR" and question.type not in CARRYING
        if message.is_response and is_plain:
            return None
        labels, registered = _split(question.name)
        if not labels:
            return None
        domain = self._domain(registered, time)
        if message.is_response:
            _take_response(domain, message, size)
        else:
            _take_query(domain, labels, question.type)
        if domain.names < _NAMES_AT_LEAST or domain.told < EARLY_BOUND:
            return None
        bound = domain.told_at or _bound(domain) * (_LENIENCE if _is_expected(registered) else 1)
        if domain.told < bound or not _is_tunnel(domain):
            return None
        domain.told_at = 2 * domain.told
        return _facts(registered, domain, time)

    def _domain(self, registered: str, time: int) -> _Domain:
        domain = self._domains.pop(registered, None)
        if domain is None or time - domain.began > WINDOW_NS:
            domain = _Domain(time)
        self._domains[registered] = domain  # to the end: the order is that of the last query
        if len(self._domains) > DOMAINS_KEPT:
            del self._domains[next(iter(self._domains))]
        return domain


def registered_domain(name: str) -> str:
    """The part of a name that someone registered: its last two labels, or three below some suffixes."""
    return _split(name)[1]


@lru_cache(maxsize=1024)  # names come again and again
def _split(name: str) -> tuple[tuple[str, ...], str]:
    """The labels below the registered domain, and that domain."""
    labels = name.split(".")
    if labels[-1].isdigit():  # an address
        return (), name
    own = 3 if ".".join(labels[-2:]) in _TWO_LEVELS else 2
    return tuple(labels[:-own]), ".".join(labels[-own:])


def _is_expected(registered: str) -> bool:
    return registered in _LOOKUP_SERVICES or registered.rpartition(".")[2] in _PRIVATE


def _take_query(domain: _Domain, labels: Iterable[str], type: str) -> None:
    domain.queries += 1
    domain.carrying += type in CARRYING
    if type in domain.types or len(domain.types) < 16:
        domain.types[type] = domain.types.get(type, 0) + 1
    fresh = [label for label in labels if label not in domain.labels]
    if not fresh:
        return
    if len(domain.labels) < LABELS_KEPT:
        domain.labels.update(fresh)
    data = "".join(fresh)
    domain.names += 1
    domain.letters += len(data)
    domain.bits += len(data) * entropy(data)


def _take_response(domain: _Domain, message: DnsMessage, size: int) -> None:
    """A response that says no, or may carry data."""
    if message.rcode == "NOERROR":
        domain.answered += size
    else:
        domain.failures += 1


def entropy(text: str) -> float:
    """Shannon's entropy of the letters, in bits a letter."""
    counts: dict[str, int] = {}
    for letter in text:
        counts[letter] = counts.get(letter, 0) + 1
    total = len(text)
    return -sum(count / total * math.log2(count / total) for count in counts.values())


def _suspect(domain: _Domain) -> bool:
    """Whether most queries ask for records that carry data, or most have no answer."""
    return 2 * domain.carrying >= domain.queries or 2 * domain.failures >= max(domain.queries, 1)


def _bound(domain: _Domain) -> int:
    return EARLY_BOUND if _suspect(domain) else BOUND


def _is_tunnel(domain: _Domain) -> bool:
    if domain.letters >= LONG * domain.names:
        return True
    # Short new labels: only where records that carry data are asked for all along.
    return 2 * domain.carrying >= domain.queries and domain.told >= BOUND


def _facts(registered: str, domain: _Domain, time: int) -> dict[str, Value]:
    return {
        "Kind": "dns_tunnel",
        "Domain": registered,
        "Queries": domain.queries,
        "Names": domain.names,
        "Entropy": round(domain.bits / max(domain.letters, 1), 2),
        "QueryType": max(domain.types, key=lambda type: domain.types[type], default=""),
        "BytesOut": int(domain.bits) // 8,
        "BytesIn": domain.answered,
        "Span": (time - domain.began) // 1_000_000_000,
    }
