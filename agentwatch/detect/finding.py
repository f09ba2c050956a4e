"""What a detector reports, and the directions it speaks of."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from agentwatch.event import Value

OUT: Final = 0
"""From the watched process to its peer."""
IN: Final = 1
"""From the peer to the watched process."""

TEXT_LIMIT: Final = 256


@dataclass(slots=True)
class Finding:
    """One thing recognised, in the words of the rules.

    `protocol` is the rule field `Protocol`; `attributes` are further rule fields: `Dialect`,
    `Method`, `Role` (`client` or `server`: what the watched process is), `Transport` (`tcp`,
    `http`, `websocket`, or a path through proxies such as `socks5>tcp`), `Client`, `Server`
    (software as it names itself), `DestinationHostname`, `DestinationPort` (asked of a proxy),
    and those that a detector's own documentation names. `cut` names fields whose values lie
    beyond what was recorded: a rule over them is undecided.
    """

    protocol: str
    attributes: Mapping[str, Value]
    cut: frozenset[str] = frozenset()


def text(value: bytes | str) -> str:
    """Bytes from the wire as a field's value: valid Unicode, printable, at most TEXT_LIMIT long."""
    if isinstance(value, bytes):
        value = value[: 4 * TEXT_LIMIT].decode("utf-8", "replace")
    value = value[:TEXT_LIMIT]
    if value.isprintable():
        return value
    return "".join(letter if letter.isprintable() else "\N{REPLACEMENT CHARACTER}" for letter in value)
