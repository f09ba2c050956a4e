"""Operators' exceptions: what a rule is not to say of whom, until when.

They stand in a file of their own, apart from the rules, and are checked as strictly:

    exceptions:
      - rule: stratum_client            # id or name of a rule, or a list
        agent: pool-tests-*             # whom it is about: at least one of these four
        user: alice
        image_sha256: 9f86d081884c7d65...
        destination: [10.20.0.0/16, "*.pool.example"]
        reason: tests of our own pool, ticket 4711
        expires: 2027-01-31             # the last day, in UTC

All that is given must apply; of a list, one. Only the child process of the loader imports this.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from datetime import date, datetime, timedelta, timezone
from ipaddress import ip_network
from typing import Any

import yaml
from sigma.rule.base import SigmaYAMLLoader
from sigma.types import SigmaString

from agentwatch.rules.documents import FAILURES
from agentwatch.rules.expr import AGENT_FIELD, Expr
from agentwatch.rules.logic import join, string_atom
from agentwatch.rules.model import NANOSECONDS, Exemption, Problem, RuleError

_SHA256 = re.compile(r"[0-9a-f]{64}")
_EPOCH = datetime(1970, 1, 1, tzinfo=timezone.utc)


def parse(path: str, content: bytes, names: Mapping[str, str]) -> list[Exemption]:
    """The exceptions of a file. `names` maps names and ids of rules to ids.

    Raises `RuleError` with all that is wrong.
    """
    loader = SigmaYAMLLoader(content)
    try:
        node = loader.get_single_node()
        plain = loader.construct_document(node) if node is not None else {"exceptions": []}
    except (yaml.YAMLError, *FAILURES) as error:
        mark = getattr(error, "problem_mark", None)
        reason = getattr(error, "problem", None) or str(error)
        raise RuleError(Problem(path, mark.line + 1 if mark else 1, str(reason))) from error
    items = plain.get("exceptions") if isinstance(plain, dict) and len(plain) == 1 else None
    if not isinstance(items, list):
        raise RuleError(Problem(path, 1, "a file of exceptions is a mapping with one key, exceptions"))
    found: list[Exemption] = []
    problems: list[Problem] = []
    for item, line in zip(items, _lines(node), strict=True):
        try:
            found.append(_exemption(item, names, path, line))
        except ValueError as error:
            problems.append(Problem(path, line, str(error)))
    if problems:
        raise RuleError(*problems)
    return found


def _lines(node: yaml.Node | None) -> Iterator[int]:
    if isinstance(node, yaml.MappingNode):
        for item in node.value[0][1].value:
            yield int(item.start_mark.line) + 1


def _exemption(item: Any, names: Mapping[str, str], path: str, line: int) -> Exemption:
    if not isinstance(item, dict):
        raise ValueError("an exception is a mapping")
    unknown = item.keys() - _WHOM.keys() - {"rule", "reason", "expires"}
    if unknown:
        raise ValueError(f"unknown: {', '.join(sorted(map(str, unknown)))}")
    whom = [_WHOM[key](_texts(key, item[key])) for key in _WHOM if key in item]
    if not whom:
        raise ValueError(f"says of nobody: give one of {', '.join(_WHOM)}; to drop a rule, remove its file")
    if not isinstance(item.get("reason"), str) or not item["reason"].strip():
        raise ValueError("a reason is missing")
    rules = _texts("rule", item.get("rule"))
    for name in rules:
        if name not in names:
            raise ValueError(f"'{name}' is no rule")
    return Exemption(
        rules=tuple(sorted({names[name] for name in rules})),
        condition=join("and", whom),
        reason=item["reason"].strip(),
        expires=_end(item.get("expires")),
        file=path,
        line=line,
    )


def _texts(key: str, value: Any) -> list[str]:
    values = value if isinstance(value, list) else [value]
    if not values or not all(isinstance(one, str) and one for one in values):
        raise ValueError(f"{key} takes a text or a list of texts")
    return values


def _end(value: Any) -> int:
    """End of validity in nanoseconds since 1970: the end of a day, or the very time."""
    if isinstance(value, datetime):
        end = value if value.tzinfo else value.replace(tzinfo=timezone.utc)
    elif isinstance(value, date):
        end = datetime(value.year, value.month, value.day, tzinfo=timezone.utc) + timedelta(days=1)
    else:
        raise ValueError("expires takes a date, such as 2027-01-31")
    nanoseconds = int((end - _EPOCH).total_seconds()) * NANOSECONDS
    if nanoseconds >= 1 << 63:
        raise ValueError("expires is too far away; choose a date before 2262")
    return nanoseconds


def _pattern(field: str) -> Callable[[list[str]], Expr]:
    return lambda values: join("or", [_like(field, value) for value in values])


def _like(field: str, value: str) -> Expr:
    if not value.strip("*?"):
        raise ValueError(f"'{value}' is everybody")
    return ("atom", field, *string_atom(SigmaString(value)))


def _hashes(values: list[str]) -> Expr:
    for value in values:
        if not _SHA256.fullmatch(value.lower()):
            raise ValueError(f"'{value}' is no SHA-256 in hexadecimal")
    return ("atom", "ImageSha256", "eq", tuple(values))


def _destinations(values: list[str]) -> Expr:
    return join("or", [_destination(value) for value in values])


def _destination(value: str) -> Expr:
    try:
        network = ip_network(value)
    except ValueError:
        if re.fullmatch(r"[0-9.]+(/\d+)?|.*[:/].*", value):
            raise ValueError(f"'{value}' is neither a network nor a host name") from None
        return _like("DestinationHostname", value)
    return ("atom", "DestinationIp", "cidr", (str(network),))


_WHOM: Mapping[str, Callable[[list[str]], Expr]] = {
    "agent": _pattern(AGENT_FIELD),
    "user": _pattern("User"),
    "image_sha256": _hashes,
    "destination": _destinations,
}
