"""An alert in a line and in a few named facts, for destinations that take no JSON."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from agentwatch.tui.text import printable

SEVERITIES: Final = {"informational": 6, "low": 5, "medium": 4, "high": 3, "critical": 2}
"""Syslog severities (RFC 5424, 6.2.1) by level, which journald's PRIORITY shares: info to crit."""

_LONGEST = 256  # characters of a fact, and twice as many with what is escaped in it


def headline(alert: Mapping[str, Any]) -> str:
    """What happened, in one line that nothing an agent wrote can break or act on a terminal with."""
    process, flow = alert["process"], alert["flow"]
    acted = alert["acted"] if alert["acted"] != "none" else f"{alert['response']} advised"
    subject = f"{process['exe'].rpartition('/')[2]}[{process['pid']}]"
    to = f", {flow['protocol']} to {flow['domain'] or flow['remote'] or '?'}" if flow else ""
    return printable(f"{alert['rule']['title']}: {subject} of agent {alert['agent']}{to} ({acted})")


def facts(alert: Mapping[str, Any]) -> dict[str, str]:
    """Names (lower case, underscores) and printable values; what is unknown is left out."""
    rule, process, flow = alert["rule"], alert["process"], alert["flow"] or {}
    found = {
        "rule": rule["id"],
        "title": rule["title"],
        "level": rule["level"],
        "verdict": alert["verdict"],
        "agent": alert["agent"],
        "mode": alert["mode"],
        "response": alert["response"],
        "acted": alert["acted"],
        "pid": str(process["pid"]),
        "exe": process["exe"],
        "cmdline": process["cmdline"],
        "protocol": flow.get("protocol"),
        "remote": flow.get("remote"),
        "domain": flow.get("domain"),
        "completeness": alert["completeness"]["state"],
    }
    return {name: printable(value, _LONGEST)[: 2 * _LONGEST] for name, value in found.items() if value}
