"""Markers as text: `NAME=VALUE` in an environment variable, a file, a datagram, an option."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final

from agentwatch.enrich.markers import KEPT, NAME_LENGTH, VALUE_LENGTH

VARIABLE: Final = "AGENTWATCH_MARKERS"
TEXT_LIMIT: Final = 16 << 10  # bytes of a file or datagram that are read
AGENT_LINE: Final = "agent"
"""The first line of a datagram that speaks for its sender's whole agent."""

_NAME = re.compile(rf"[A-Za-z][A-Za-z0-9_.-]{{0,{NAME_LENGTH - 1}}}")


def parse(text: str, separator: str = "\n") -> dict[str, str]:
    """Markers from `NAME=VALUE` texts. Raises `ValueError`, saying what is wrong, at the first bad one."""
    found: dict[str, str] = {}
    for part in text.split(separator):
        if not part.strip():
            continue
        name, equals, value = (word.strip() for word in part.partition("="))
        if not equals:
            raise ValueError(f"{part.strip()[:NAME_LENGTH]!r} is no marker: NAME=VALUE")
        found[check_name(name)] = check_value(value)
        if len(found) > KEPT:
            raise ValueError(f"an agent has {KEPT} markers at most")
    return found


def check(markers: Mapping[str, str]) -> None:
    """Raises `ValueError`, saying what is wrong, for what no agent can have."""
    for name, value in markers.items():
        check_name(name)
        check_value(value)


def check_name(name: str) -> str:
    """The name. Raises `ValueError` for one that no marker has."""
    if not _NAME.fullmatch(name):
        raise ValueError(
            f"{name[:NAME_LENGTH]!r} names no marker: a letter, then letters, digits, dots, dashes and "
            f"underscores, {NAME_LENGTH} at most"
        )
    return name


def check_value(value: str) -> str:
    """The value. Raises `ValueError` for one that is too long."""
    if len(value) > VALUE_LENGTH:
        raise ValueError(f"a marker's value has {VALUE_LENGTH} characters at most")
    return value
