"""The protocol of the control socket: JSON, one object a line, both ways.

The server greets with `{"agentwatch": RELEASE, "protocol": 1, "role": "act" or "read"}`. A request
is `{"id": N, "verb": VERB, ...arguments}`; its answer carries the same id and either `result`, or
`error` and `code`. A request that follows something is answered with `result`, then by messages
with `item`; `dropped` in one says how many before it the client was too slow for.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

PROTOCOL: Final = 1
LINE_LIMIT: Final = 64 * 1024  # bytes of a request
TEXT_LIMIT: Final = 4096  # characters of a text in a request
MARKERS_LIMIT: Final = 32  # markers in a request

Code = str
"""Why a request failed: `request` (it makes no sense), `denied`, `unknown` (no such agent), `busy`
(too many requests, or too many clients), `failed` (the kernel refused), `gone` (the daemon ends)."""


class ProtocolError(ValueError):
    """A request that is not answered with a result."""

    def __init__(self, code: Code, message: str) -> None:
        super().__init__(message)
        self.code = code


class Argument(NamedTuple):
    """One argument of a verb: `type` is text, number, flag or markers."""

    name: str
    type: str
    required: bool = False


class Verb(NamedTuple):
    """One verb. `acts`: it changes something, and only those may who may act."""

    name: str
    doc: str
    arguments: tuple[Argument, ...] = ()
    acts: bool = False


_AGENT = Argument("agent", "text")
_THIS_AGENT = Argument("agent", "text", required=True)
_REASON = Argument("reason", "text")
_LIMIT = Argument("limit", "number")  # of rows
_TERMS = (Argument("mode", "text"), Argument("max_response", "text"))  # else the configuration's

VERBS: Final[Mapping[str, Verb]] = {
    verb.name: verb
    for verb in (
        Verb("status", "the state of the daemon: rules, coverage, losses, queues"),
        Verb("agents", "the agents under watch"),
        Verb("ps", "processes as a tree", (_AGENT, _LIMIT)),
        Verb("flows", "connections", (_AGENT, _LIMIT)),
        Verb("flow", "one connection, with the head of what each side said",
             (Argument("flow", "text", required=True),)),
        Verb("alerts", "the latest alerts; with `follow` those that come",
             (_AGENT, _LIMIT, Argument("follow", "flag"))),
        Verb("explain", "why an alert was raised: which selection of its rule matched which field",
             (Argument("number", "number", required=True),)),
        Verb("events", "the events that come, as rules see them",
             (_AGENT, Argument("category", "text"))),
        Verb("recent", "the latest events; of several categories, parted by commas",
             (_AGENT, Argument("category", "text"), _LIMIT)),
        Verb("gpus", "the GPUs, and which process uses how much of which"),
        Verb("health", "losses by agent and event, lag, exceptions used"),
        Verb("pause", "freeze an agent", (_THIS_AGENT, _REASON), acts=True),
        Verb("resume", "let a frozen agent go on", (_THIS_AGENT, _REASON), acts=True),
        Verb("kill", "kill an agent", (_THIS_AGENT, _REASON), acts=True),
        Verb("attach", "watch a cgroup or that of a process",
             (Argument("target", "text", required=True), Argument("name", "text"), *_TERMS), acts=True),
        Verb("detach", "watch an agent no longer; it stays as it is", (_THIS_AGENT, _REASON), acts=True),
        Verb("mark", "set markers on an agent",
             (_THIS_AGENT, Argument("markers", "markers", required=True)), acts=True),
        Verb("begin", "make an agent for what the caller is about to start; it lives as long as the caller, "
             "or until `end`", (Argument("name", "text", required=True), Argument("markers", "markers"),
              *_TERMS), acts=True),
        Verb("enter", "take the caller's process into such an agent", (_THIS_AGENT,), acts=True),
        Verb("end", "end such an agent: kill what is left of it, unless it is paused", (_THIS_AGENT,),
             acts=True),
        Verb("save", "write what is kept of an agent to an incident trace now", (_THIS_AGENT,), acts=True),
        Verb("reload", "read configuration and rules anew", acts=True),
    )
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Request:
    """A request that has the form of its verb; whether it makes sense is for who answers."""

    id: int
    verb: Verb
    arguments: Mapping[str, Any]


def parse(line: bytes) -> Request:
    """A request from a line. Raises `ProtocolError`."""
    if len(line) > LINE_LIMIT:
        raise ProtocolError("request", f"a request has {LINE_LIMIT} bytes at most")
    try:
        plain = json.loads(line)
    except (ValueError, RecursionError):
        raise ProtocolError("request", "a request is one JSON object on a line") from None
    if not isinstance(plain, dict):
        raise ProtocolError("request", "a request is a JSON object")
    number, name = plain.pop("id", None), plain.pop("verb", None)
    if not isinstance(number, int) or isinstance(number, bool) or not 0 <= number < 1 << 53:
        raise ProtocolError("request", "id takes a whole number")
    verb = VERBS.get(name) if isinstance(name, str) else None
    if verb is None:
        raise ProtocolError("request", "verb is none of: " + ", ".join(VERBS))
    return Request(number, verb, _arguments(verb, plain))


def _arguments(verb: Verb, plain: dict[str, Any]) -> dict[str, Any]:
    known = {argument.name: argument for argument in verb.arguments}
    if unknown := sorted(plain.keys() - known.keys()):
        raise ProtocolError("request", f"{verb.name} takes no {unknown[0][:TEXT_LIMIT]}")
    for argument in verb.arguments:
        if argument.required and argument.name not in plain:
            raise ProtocolError("request", f"{verb.name} needs {argument.name}")
    for name, value in plain.items():
        if not _CHECKS[known[name].type](value):
            raise ProtocolError("request", f"{name} takes a {known[name].type}")
    return plain


def _is_text(value: Any) -> bool:
    return isinstance(value, str) and len(value) <= TEXT_LIMIT


def _is_number(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 1 << 31


def _is_markers(value: Any) -> bool:
    return (
        isinstance(value, dict)
        and len(value) <= MARKERS_LIMIT
        and all(map(_is_text, value))
        and all(map(_is_text, value.values()))
    )


_CHECKS = {
    "text": _is_text,
    "number": _is_number,
    "flag": lambda value: isinstance(value, bool),
    "markers": _is_markers,
}


def encode(message: Mapping[str, Any]) -> bytes:
    """A message as a line of ASCII: nothing an agent writes can act on a terminal that shows it."""
    return json.dumps(message, sort_keys=True, ensure_ascii=True).encode("ascii") + b"\n"
