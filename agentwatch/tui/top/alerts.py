"""Alerts, and why they were raised."""

from __future__ import annotations

from typing import Any

from agentwatch.rules.explain import event_of_alert
from agentwatch.schema.fields import FIELDS
from agentwatch.tui.top.model import (
    WARNING,
    Column,
    Context,
    Line,
    Listing,
    Question,
    Row,
    Screen,
    clock,
    file_name,
    level_span,
    line,
    line_of_field,
)

_SHOWN = 300
_DONE = {"pause": "frozen", "kill": "killed", "block": "blocked"}
_OPERATORS = {
    "eq": "is", "eq_cased": "is", "wild": "is like", "wild_cased": "is like", "lt": "is below",
    "lte": "is at most", "gt": "is above", "gte": "is at least", "cidr": "is in", "re": "is like",
    "startswith": "starts with", "endswith": "ends with", "null": "is absent",
}  # fmt: skip
_OF_ALERT = ("Agent", "Rule", "RuleId", "Level", "Tag", "Response", "Acted", "Verdict")


class Alerts(Screen):
    name = "alerts"
    empty = "No alert was raised."
    newest_first = True
    fields = tuple(
        dict.fromkeys((*_OF_ALERT, *(one.name for _, fields in FIELDS.values() for one in fields)))
    )

    def requests(self, context: Context) -> list[Question]:
        return [Question("alerts", {"agent": context.agent, "limit": _SHOWN})]

    def columns(self, context: Context) -> tuple[Column, ...]:
        agent = () if context.agent else (Column("AGENT", 8, grow=1),)
        return (
            Column("TIME UTC", 8),
            *agent,
            Column("LEVEL", 8),
            Column("DONE", 7),
            Column("WHAT", 36, grow=5),
            Column("WHO", 18, grow=3, rank=1),
            Column("TO", 21, grow=1, rank=2),
        )

    def rows(self, context: Context) -> Listing:
        answer = context.answers.get("alerts", {})
        pairs = list(zip(answer.get("numbers", ()), answer.get("alerts", ()), strict=False))
        return Listing(
            ((str(number), alert) for number, alert in pairs[::-1]),
            lambda key, alert: _row(key, alert, context),
        )

    def summary(self, row: Row, context: Context) -> list[Line]:
        alert = row.record
        flow = alert["flow"]
        to = f", {flow['protocol']} {flow['remote']}" if flow and flow["remote"] else ""
        return [
            line((alert["rule"]["title"], "bold"), f": {alert['agent']}, {done_words(alert)}"),
            line(f"{subject(alert)}{to}"),
            line(alert["process"]["cmdline"]),
            line(*completeness(alert)),
        ]

    def question(self, row: Row) -> Question | None:
        return Question("explain", {"number": int(row.key)})

    def page(self, row: Row, answer: Any) -> list[Line]:
        return explanation(answer)


def subject(alert: Any) -> str:
    """Who did it."""
    return f"{file_name(alert['process']['exe'])}[{alert['process']['pid']}]"


def done_words(alert: Any) -> str:
    """What was done, how fast; or what the rule asked for and why it was not done."""
    if alert["acted"] != "none":
        late = alert["latency_us"]
        fast = (
            "" if late is None else f" within {late / 1000:.1f} ms" if late >= 100 else f" within {late} µs"
        )
        return f"{_DONE.get(alert['acted'], alert['acted'])}{fast}"
    if alert["error"]:
        return f"{alert['response']} FAILED: {alert['error']}"
    if alert["response"] == "alert":
        return "told, nothing done"
    return f"nothing done: the rule asks for {alert['response']}, the agent is in mode {alert['mode']}"


def completeness(alert: Any) -> Line:
    """Whether the evidence is whole."""
    if alert["completeness"]["state"] == "complete":
        return line("Nothing is missing from the evidence.")
    return line(("Evidence is partial: " + ", ".join(alert["completeness"]["why"]), WARNING))


def explanation(answer: Any) -> list[Line]:
    """The page of an alert: what, who, why, how sure."""
    alert, rule = answer["alert"], answer["rule"]
    process, flow = alert["process"], alert["flow"]
    title = alert["rule"]["title"] if alert["verdict"] == "match" else f"undecided: {alert['rule']['title']}"
    lines = [
        line(level_span(alert["rule"]["level"]), " ", (title, "bold")),
        line_of_field(("agent", f"{alert['agent']}, {alert['time']}")),
        line_of_field(("done", done_words(alert))),
        line_of_field(("process", f"{subject(alert)} as {process['user']}, {process['exe']}")),
    ]
    if flow:
        name = f" ({flow['domain']})" if flow["domain"] else ""
        to = f"{flow['protocol']} to {flow['remote']}{name} from {flow['local']}"
        lines.append(line_of_field(("connection", to)))
    lines += [line(), line(("why", "bold")), *_why(answer)]
    if rule is not None:
        paragraphs = rule["description"].split("\n\n")
        lines += [line(), line(("what it means", "bold"))]
        lines += [line("  " + " ".join(part.split())) for part in paragraphs]
    lines += [
        line(),
        line(("all that is known", "bold")),
        line_of_field(("command", process["cmdline"])),
        line_of_field(("folder", process["cwd"])),
        *(
            line_of_field(("started by", f"[{above['pid']}] {above['cmdline'] or above['exe']}"))
            for above in process["ancestors"]
        ),
        *(line_of_field(item) for item in alert["event"].items() if item[1] not in (None, [])),
        line_of_field(("evidence", "records " + ", ".join(map(str, alert["evidence"])))),
        line(*completeness(alert)),
    ]
    if rule is not None:
        lines += [line(), line(("the rule", "bold")), *_rule(alert, rule)]
    return lines


def _why(answer: Any) -> list[Line]:
    if answer["rule"] is None:
        return [line("  The rule is no longer in force: it was changed since.")]
    lines = []
    if counted := answer["rule"]["correlation"]:
        groups = f", for each {', '.join(counted['group_by'])}" if counted["group_by"] else ""
        lines.append(
            line(
                f"  {counted['type']} {counted['condition']} within {counted['seconds']:g} s{groups}; "
                "of the last one:"
            )
        )
    for detail in answer["details"]:
        verb = "may match" if detail["undecided"] else "matched"
        lines.append(
            line(
                "  ",
                (detail["selection"] or "condition", "bold"),
                f": {detail['field']} {_OPERATORS.get(detail['op'], detail['op'])} ",
                (repr(detail["wanted"]), "bold"),
            )
        )
        lines.append(line(f"      {verb} {detail['found']!r}"))
    return lines or [line("  The alert does not tell enough of the event to say.")]


def _rule(alert: Any, rule: Any) -> list[Line]:
    lines = [line_of_field(("  asks for", rule["response"]))]
    if alert["rule"]["tags"]:
        lines.append(line_of_field(("  tags", alert["rule"]["tags"])))
    if rule["falsepositives"]:
        lines.append(line_of_field(("  may be wrong for", rule["falsepositives"])))
    lines.append(line_of_field(("  stands in", f"{rule['file']}:{rule['line']}")))
    lines.append(line_of_field(("  id", alert["rule"]["id"])))
    return lines


def _row(key: str, alert: Any, context: Context) -> Row:
    flow, rule = alert["flow"], alert["rule"]
    level = rule["level"] if rule["level"] != "informational" else "inform."
    title = rule["title"] if alert["verdict"] == "match" else f"undecided: {rule['title']}"
    done = _DONE.get(alert["acted"], "FAILED" if alert["error"] else "-")
    cells = (
        (clock(alert["time"]), ""),
        *(() if context.agent else ((alert["agent"], "bold"),)),
        (level, level_span(rule["level"])[1]),
        (done, "bold" if done != "-" else ""),
        (title, "bold"),
        (subject(alert), ""),
        ((flow["remote"] or "") if flow else "", ""),
    )
    fields = {
        **event_of_alert("", alert).fields,
        "Agent": alert["agent"],
        "Rule": rule["title"],
        "RuleId": rule["id"],
        "Level": rule["level"],
        "Tag": rule["tags"],
        "Response": alert["response"],
        "Acted": alert["acted"],
        "Verdict": alert["verdict"],
    }
    return Row(key, alert["agent"], cells, fields, alert)
