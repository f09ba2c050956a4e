"""The lines around every screen: who is looked at, what is lost, where one is, what keys do."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from rich.cells import cell_len

from agentwatch.sinks.alerts import timestamp
from agentwatch.tui.text import printable
from agentwatch.tui.top import keys
from agentwatch.tui.top.backend import Backend, Timeline
from agentwatch.tui.top.model import WARNING, Context, Line, Span, line, many
from agentwatch.tui.top.poll import Look

_SEVERE: Final = ("high", "critical")


def title_line(backend: Backend, context: Context, readonly: bool) -> Line:
    """Which daemon or recording, what time it is there, how many agents, how many frozen."""
    status, agents = context.answers.get("status", {}), context.answers.get("agents", ())
    frozen = sum(agent["state"] == "paused" for agent in agents)
    spans: list[Span | str] = [(" agentwatch top ", "bold reverse"), " "]
    if status:
        spans.append(f"  {status['time'][11:19]} UTC  {many(len(agents), 'agent')}  ")
        if frozen:
            spans += [(f" {frozen} FROZEN ", "bold black on yellow"), "  "]
        alerts = status["alerts"]
        spans.append((many(alerts, "alert"), "bold" if alerts else ""))
    if backend.replay:
        spans += [("  recording ", "bold"), backend.name]
    else:
        only = "--readonly" if readonly else "you may only read" if backend.role == "read" and status else ""
        spans.append((f"  {only}", "bold") if only else "")
    return line(*spans)


def status_line(look: Look, known_at: str, width: int) -> Line:
    """Whether what is shown is whole and fresh: always in sight. What gaps cost is told as far as there is
    room for it."""
    spans: list[Span | str] = []
    if look.gone:
        old = f"this is of {known_at} UTC" if known_at else "nothing is known"
        spans.append((f" NO DAEMON: {old}. Asking again. {look.error} ", "bold white on red"))
        return line(*spans)
    if look.error:
        spans += [(f" {look.error} ", "bold reverse"), "  "]
    status = look.answers.get("status")
    if status is None:
        return line(*spans)
    if status.get("remarks"):
        spans += [(f" DAMAGED RECORDING: {'; '.join(status['remarks'])} ", "bold white on red"), "  "]
    lost = sum(status["lost"].values())
    if lost:
        kinds = ", ".join(f"{count:,} {name}" for name, count in sorted(status["lost"].items()))
        spans.append((f"LOST {lost:,} events ({kinds})", WARNING))
    else:
        spans.append("nothing lost")
    gaps = status["coverage"]
    if gaps:
        costs = "; ".join(gap["cost"] for gap in gaps)
        text = f"NOT SEEN: {many(len(gaps), 'gap')} in coverage, 8 tells them"
        room = width - len(text) - sum(cell_len(one if isinstance(one, str) else one[0]) for one in spans) - 3
        if cell_len(costs) + 2 <= room:
            text += f": {costs}"
        spans += ["   ", (text, WARNING)]
    else:
        spans.append("   no gap in coverage")
    return line(*spans)


def tabs_line(current: str) -> Line:
    """The screens with their keys."""
    spans: list[Span | str] = []
    for number, name in enumerate(keys.SCREENS, 1):
        spans += [(f"{number} {name}", "bold reverse" if name == current else ""), " "]
    return line(*spans)


def rule_line(agent: str | None, chosen: str, place: str, width: int) -> Line:
    """The rule under rows or a page: what is left out of them, and where one is."""
    spans: list[Span] = [("──", "dim")]
    parts = (
        (place, ""),
        (f"only agent {agent}, esc: all" if agent else "", "bold"),
        (f"filter (esc: none) {chosen}" if chosen else "", "bold"),
    )
    for text, style in parts:
        if text:
            spans += [(f" {text} ", style), ("──", "dim")]
    length = sum(cell_len(printable(text)) for text, _ in spans)
    return line(*spans, ("─" * max(0, width - length), "dim"))


def timeline_line(timeline: Timeline, width: int) -> Line:
    """A bar from the beginning to the end, `!` for alerts, `O` where one is."""
    since, whole = timeline.time - timeline.began, max(1, timeline.ended - timeline.began)
    text = (
        f" {since / 1e9:.3f} s of {whole / 1e9:.3f} s, event {timeline.position:,} of {timeline.total:,}, "
        f"{timestamp(timeline.time, 0)[11:23]} "
    )
    room = max(10, width - len(text) - 2)
    cells: list[Span] = [("─", "")] * room

    def place(time: int) -> int:
        return max(0, min(room - 1, (time - timeline.began) * (room - 1) // whole))

    for mark in timeline.marks:
        at = place(mark.time)
        if cells[at][0] != "!" or mark.level in _SEVERE:
            cells[at] = ("!", "bold red" if mark.level in _SEVERE else WARNING)
    at = place(timeline.time)
    cells[at] = ("O", "bold reverse")
    return (("[", ""), *cells, ("]", ""), (text, "bold"))


def help_page(known: Sequence[keys.Key]) -> list[Line]:
    """What the keys do and what the words on the screens mean."""
    lines = [line(("keys", "bold")), line()]
    lines += [line((f"  {shown:<10}", "bold"), text) for shown, text in keys.help_lines(known)]
    lines += [line(), line(("words", "bold")), line()]
    lines += [line((f"  {word:<10}", "bold"), text) for word, text in _WORDS]
    return lines


_WORDS: Final[Sequence[tuple[str, Any]]] = (
    ("FROZEN", "every process of the agent stands still; it stays so until somebody resumes or kills it"),
    ("KILLED", "every process of the agent was ended"),
    ("RISK", "sum over its alerts: low 1, medium 4, high 10, critical 20"),
    ("CPU", "of one CPU: 200 % is two CPUs; CPU TREND is the last 8 looks, a full bar is 100 %"),
    ("SENT", "bytes to the network, in a second; in a recording in all"),
    ("DONE", "what was done because of an alert; - nothing, FAILED the kernel refused"),
    ("monitor", "rules only tell, they do not act on this agent"),
    ("enforce", "rules freeze or kill this agent where they say so"),
    ("LOST", "events that came faster than they were read: what they said is not known"),
    ("NOT SEEN", "what this host gives no way to see"),
    ("GPU", "how busy it keeps GPUs; where drivers do not tell that, as of MIG, the memory it holds"),
    ("-", "not known, or nothing"),
    ("undecided", "a value was cut short, so that the rule may match or not"),
    (
        "filters",
        "Field: value, with |contains |startswith |endswith |re |cidr |lt |lte |gt |gte |exists |cased",
    ),
    (
        "",
        "|all after the field, `not` before it, `or` between values, `and` between terms, * and ? in values",
    ),
)
