"""Filters in Sigma's words: what passes, and what is said of a wrong one."""

from __future__ import annotations

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from agentwatch.tui.top.filter import Filter

KNOWN = ("Image", "CommandLine", "DestinationPort", "DestinationIp", "Argv", "User")
FIELDS = {
    "Image": "/usr/bin/curl",
    "CommandLine": "curl -s https://pool.example/a",
    "DestinationPort": 443,
    "DestinationIp": "10.1.2.3",
    "Argv": ["curl", "-s", "https://pool.example/a"],
    "User": None,
}


@pytest.mark.parametrize(
    ("text", "passes"),
    [
        ("Image: /usr/bin/curl", True),
        ("Image: /usr/bin/CURL", True),
        ("Image|cased: /usr/bin/CURL", False),
        ("Image: */curl", True),
        ("Image: */cur?", True),
        ("Image: */cur", False),
        ("Image|endswith: /wget or /curl", True),
        ("Image|endswith: /wget", False),
        ("CommandLine|contains|all: pool or curl", True),
        ("CommandLine|contains|all: pool or ssh", False),
        ("CommandLine|re: h[t]+ps", True),
        ("DestinationPort: 443", True),
        ("DestinationPort|gte: 1024", False),
        ("DestinationPort|lt: 1024", True),
        ("DestinationIp|cidr: 10.0.0.0/8", True),
        ("DestinationIp|cidr: 192.168.0.0/16", False),
        ("Argv#1: -s", True),
        ("Argv: -s", True),
        ("User|exists: true", False),
        ("User: null", True),
        ("not Image|endswith: /curl", False),
        ("Image|endswith: /curl and not DestinationPort: 443", False),
        ("Image|endswith: /curl and DestinationPort: 443", True),
        ("pool.example", True),
        ("elsewhere", False),
        ("Image|contains: 'usr'", True),
    ],
)
def test_terms(text: str, passes: bool) -> None:
    assert Filter.parse(text, KNOWN).holds(FIELDS) is passes


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("Imagee: x", "no field Imagee here; perhaps Image"),
        ("Image|begins: x", "no modifier begins"),
        ("Image|re|contains: x", "one modifier"),
        ("Image|re: (", "no regular expression"),
        ("DestinationPort|lt: many", "takes a number"),
        ("DestinationIp|cidr: here", "IPv4 or IPv6 network"),
        ("User|exists: perhaps", "true or false"),
        ("", "a term is missing"),
        ("x" * 2000, "characters at most"),
    ],
)
def test_what_is_wrong_is_named(text: str, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        Filter.parse(text, KNOWN)


@given(st.text(max_size=60), st.dictionaries(st.sampled_from(KNOWN), st.text(max_size=20)))
@example("not not not Image: *", {"Image": "\ud800"})
@example("Image: " + "*?" * 300, {"Image": "a" * 200})
def test_any_text_is_a_filter_or_an_error(text: str, fields: dict[str, str]) -> None:
    try:
        made = Filter.parse(text, KNOWN)
    except ValueError:
        return
    made.holds(fields)
