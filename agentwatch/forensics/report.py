"""A recording as one page of HTML that asks nothing of any network and runs no script.

Every string that an agent may have chosen is written by `shown`: what cannot be seen or reorders
text is escaped before HTML's own characters are. The page's policy allows one style sheet, by its
hash, and nothing else.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from html import escape
from pathlib import Path
from typing import Any

from agentwatch import __version__
from agentwatch.enrich.sighting import Sighting
from agentwatch.enrich.state import Change
from agentwatch.forensics.account import digest_of
from agentwatch.forensics.blame import Blame, Case, Wanted, command_of, response_words, tool_call
from agentwatch.forensics.story import Life, Link, Listener, Story
from agentwatch.rules.levels import LEVELS
from agentwatch.sinks.alerts import endpoint, timestamp
from agentwatch.tui.snapshot import ended_words
from agentwatch.tui.text import byte_count, printable

PROCESSES_SHOWN = 1000
FLOWS_SHOWN = 1000
NAMES_SHOWN = 200
LANES_SHOWN = 60
DEEPEST = 24  # levels that the tree indents
TEXT = 2000  # characters shown of a value

_STYLE = Path(__file__).with_name("report.css")
_WIDTH, _LEFT, _LANE = 1000, 240, 16  # of the timeline, in its own units


def shown(value: object, limit: int = TEXT) -> str:
    """A value as text of the page: it is read, and does nothing else."""
    return escape(printable(str(value), limit))


class Collected(Listener):
    """What the page shows besides the stories of its alerts, bounded; the rest is counted."""

    def __init__(self) -> None:
        self.lives: list[Life] = []
        self.links: list[Link] = []
        self.alerts: list[tuple[int, dict[str, Any], Life | None]] = []
        self.names: dict[tuple[str, str], str] = {}
        self.processes = self.flows = self.names_left_out = 0

    def process(self, life: Life) -> None:
        self.processes += 1
        tells = life.findings or life.links
        if len(self.lives) < (PROCESSES_SHOWN if tells else PROCESSES_SHOWN // 2):
            self.lives.append(life)

    def link(self, link: Link) -> None:
        self.flows += 1
        if len(self.links) < FLOWS_SHOWN:
            self.links.append(link)

    def alert(self, number: int, alert: dict[str, Any], life: Life | None, link: Link | None) -> None:
        if len(self.alerts) < PROCESSES_SHOWN:
            self.alerts.append((number, alert, life))

    def moment(self, change: Change, events: list[Sighting], life: Life) -> None:
        for event in events:
            if event.category != "dns_query":
                continue
            key = str(event.fields.get("QueryName")), str(event.fields.get("QueryType"))
            if key not in self.names and len(self.names) == NAMES_SHOWN:
                self.names_left_out += 1
                continue
            results = event.fields.get("QueryResults")
            self.names.setdefault(key, "")
            if isinstance(results, tuple) and results:
                self.names[key] = " ".join(map(str, results))


class Page:
    """The page about one story. Give `listeners` to the story, tell it, then take `parts`."""

    def __init__(self) -> None:
        self._blame, self._all = Blame(Wanted()), Collected()
        self.listeners: tuple[Listener, ...] = (self._blame, self._all)

    def parts(self, story: Story) -> Iterator[str]:
        """The document in pieces; the story has a header."""
        self._story = story
        style = _STYLE.read_text(encoding="utf-8")
        digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
        yield (
            '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">\n'
            '<meta http-equiv="Content-Security-Policy" content="'
            f"default-src 'none'; style-src 'sha256-{digest}'; base-uri 'none'; form-action 'none'\">\n"
            '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
            '<meta name="referrer" content="no-referrer">\n'
            f"<title>agentwatch: {shown(story.name, 200)}</title>\n<style>{style}</style></head><body>\n"
        )
        yield from self._head()
        yield from self._timeline()
        yield from self._alerts()
        yield from self._tree()
        yield from self._flows()
        yield from self._dns()
        yield from self._origin()
        yield "</body></html>\n"

    def _when(self, time: int) -> str:
        return timestamp(self._story.wall(time), 0)

    def _clock(self, time: int) -> str:
        """The time of day to the millisecond; the date stands at the top."""
        return self._when(time)[11:23]

    # --- the head ---

    def _head(self) -> Iterator[str]:
        story, header = self._story, self._story.header
        assert header is not None
        agents = ", ".join(header.agents) or "agents that came while it was recorded"
        yield f"<h1>What {shown(agents)} did on {shown(header.host or 'an unnamed host')}</h1>\n"
        seconds = (story.last - story.first) / 1e9
        span = f"{self._when(story.first)} to {self._when(story.last)}, {seconds:.3f} s, mode {header.mode}"
        yield f'<p class="soft">{shown(span)}</p>\n'
        if header.command:
            yield f'<code class="command">{shown(" ".join(header.command))}</code>\n'
        yield from self._verdict()
        levels = Counter(alert["rule"]["level"] for _, alert, _ in self._all.alerts)
        figures = [
            (story.outcome.alerts, "alerts"),
            *((levels[level], level) for level in reversed(LEVELS) if levels[level]),
            (self._all.processes, "processes"), (self._all.flows, "flows"),
            (story.outcome.records, "records"),
        ]  # fmt: skip
        cells = (f'<li class="{shown(word)}"><b>{number}</b>{shown(word)}</li>' for number, word in figures)
        yield f'<ul class="figures">{"".join(cells)}</ul>\n'

    def _verdict(self) -> Iterator[str]:
        story = self._story
        missing = story.incomplete
        if missing:
            word = "damaged" if story.outcome.damaged else "partial"
            said = f"<b>This is not all: the recording is {word}.</b> What follows holds for what there is."
        else:
            word, said = "", "<b>Complete.</b> The trace is whole, and nothing was lost."
        yield f'<div class="verdict {word}">{said}{_bullets(missing)}\n'
        if story.unseen:
            yield f'<p class="soft">Not watched on that host:</p>{_bullets(story.unseen)}\n'
        yield "</div>\n"

    # --- the timeline ---

    def _timeline(self) -> Iterator[str]:
        lanes = self._lanes()
        if not lanes:
            return
        height = 34 + _LANE * len(lanes)
        yield "<h2>Timeline</h2>\n"
        label = "Processes, flows and alerts in time"
        yield f'<div class="wide"><svg viewBox="0 0 {_WIDTH} {height}" role="img" aria-label="{label}">\n'
        begin, end = self._story.first, max(self._story.last, self._story.first + 1)
        for tick in range(5):
            time = begin + (end - begin) * tick // 4
            x = self._x(time)
            yield f'<line class="axis" x1="{x:.1f}" y1="18" x2="{x:.1f}" y2="{height}"/>'
            anchor = "end" if tick == 4 else "start" if not tick else "middle"
            yield f'<text class="soft" x="{x:.1f}" y="12" text-anchor="{anchor}">{self._clock(time)}</text>\n'
        for number, lane in enumerate(lanes):
            yield from self._lane(lane, 22 + number * _LANE)
        yield "</svg></div>\n"
        if len(lanes) < len(self._all.lives):
            yield f'<p class="soft">{len(lanes)} of {self._all.processes} processes are drawn.</p>\n'

    def _lanes(self) -> list[Life]:
        """Those on the way to alerts, then those that spoke with somebody, then the first."""
        chosen: dict[Life, None] = {}
        for case in self._blame.cases:
            chosen.update(dict.fromkeys(case.life.ancestry))
        chosen.update((life, None) for life in self._all.lives if life.links)
        chosen.update((life, None) for life in self._all.lives)
        return sorted(list(chosen)[:LANES_SHOWN], key=lambda life: life.number)

    def _x(self, time: int) -> float:
        begin, end = self._story.first, max(self._story.last, self._story.first + 1)
        return _LEFT + (_WIDTH - _LEFT - 8) * (min(max(time, begin), end) - begin) / (end - begin)

    def _lane(self, life: Life, y: int) -> Iterator[str]:
        process = life.process
        name = f"{process.pid} {process.exe.rpartition('/')[2] or '?'}"
        yield f'<text x="4" y="{y + 10}">{shown(name, 30)}</text>'
        about = f"{process.pid} {process.command_line or process.exe} {ended_words(process)}"
        yield self._bar("life", life.began or process.start, process.ended, y + 2, 6, about)
        for link in life.links:
            flow = link.flow
            remote = endpoint(flow.remote, flow.remote_port) or "listens"
            about = f"{flow.application or flow.transport} {remote}"
            yield self._bar("link", flow.opened, flow.closed, y + 9, 3, about)
        for case in self._blame.cases:
            for number, alert in case.alerts if case.life is life else ():
                x = self._x(self._blame.time_of(alert))
                title = shown(f"alert {number}: {alert['rule']['title']}")
                yield f'<circle class="mark" cx="{x:.1f}" cy="{y + 5}" r="5"><title>{title}</title></circle>'
        yield "\n"

    def _bar(self, kind: str, begin: int, end: int, y: int, height: int, about: str) -> str:
        left, right = self._x(begin), self._x(end or self._story.last)
        place = f'x="{left:.1f}" y="{y}" width="{max(right - left, 1.5):.1f}" height="{height}"'
        return f'<rect class="{kind}" {place}><title>{shown(about, 300)}</title></rect>'

    # --- alerts ---

    def _alerts(self) -> Iterator[str]:
        yield "<h2>Alerts</h2>\n"
        if not self._all.alerts:
            yield "<p>None.</p>\n"
        for case in self._blame.cases:
            yield from self._case(case)
        for number, alert in self._blame.homeless:
            about = "<p>Its process is not known.</p>"
            yield f'<section class="alert">{_title(number, alert)}{about}</section>\n'
        yield _left_out(self._blame.left_out, "alerts")

    def _case(self, case: Case) -> Iterator[str]:
        yield '<section class="alert">\n'
        for number, alert in case.alerts:
            yield _title(number, alert)
        command, how = tool_call(case)
        yield f'<p class="soft">Tool call ({shown(how)}):</p>\n'
        yield f'<code class="command">{shown(command)}</code>\n'
        if case.markers:
            words = ", ".join(f"{name}={value}" for name, value in case.markers.items())
            yield f'<p class="soft">Markers: <code>{shown(words)}</code></p>\n'
        rows = (
            (f"step-{step.kind}", (self._clock(step.time), step.pid or "", step.text, step.record or ""))
            for step in self._blame.steps(case)
        )
        yield from _table("t:time n:process x:step n:record", rows)
        for number, alert in case.alerts:
            yield _evidence(number, alert)
        yield "</section>\n"

    # --- processes, flows, names ---

    def _tree(self) -> Iterator[str]:
        lives = {life: None for case in self._blame.cases for life in case.life.ancestry}
        lives.update(dict.fromkeys(self._all.lives))
        marked = {case.life for case in self._blame.cases}
        yield "<h2>Processes</h2>\n"
        rows = (
            ("marked" if life in marked else "", self._process(life, depth)) for life, depth in _tree(lives)
        )
        yield from _table("t:began n:process tree:command t:end", rows)
        yield _left_out(self._all.processes - len(lives), "processes")

    def _process(self, life: Life, depth: int) -> tuple[object, ...]:
        process = life.process
        ran = " → ".join(map(command_of, life.programs)) or f"(fork of) {process.command_line}"
        indent = "  " * min(depth, DEEPEST)
        return self._clock(life.began or process.start), process.pid, indent + ran, ended_words(process)

    def _flows(self) -> Iterator[str]:
        yield "<h2>Flows</h2>\n"
        links = sorted(self._all.links, key=lambda link: link.number)
        rows = (("marked" if link.behaviours else "", self._flow(link)) for link in links)
        columns = "t:opened x:process x:remote x:protocol n:out n:in x:found x:state"
        yield from _table(columns, rows)
        yield _left_out(self._all.flows - len(links), "flows")

    def _flow(self, link: Link) -> tuple[object, ...]:
        flow, process = link.flow, link.owner.process
        remote, local = endpoint(flow.remote, flow.remote_port), endpoint(flow.local, flow.local_port)
        words = ["from"] if flow.initiated is False else []
        words.append(remote or (f"at {local}" if local else "unknown"))
        words += [flow.domain] if flow.domain != flow.remote else []
        return (
            self._clock(flow.opened),
            f"{process.pid} {process.exe.rpartition('/')[2]}",
            " ".join(words),
            flow.application or flow.transport,
            byte_count(flow.bytes_out),
            byte_count(flow.bytes_in),
            ", ".join(link.behaviours),
            f"errno {flow.error}" if flow.error else "closed" if flow.closed else "open",
        )

    def _dns(self) -> Iterator[str]:
        if not self._all.names:
            return
        yield "<h2>Names asked for</h2>\n"
        yield from _table(
            "x:name x:type x:answer", (("", (*key, told)) for key, told in self._all.names.items())
        )
        yield _left_out(self._all.names_left_out, "questions")

    # --- where it comes from ---

    def _origin(self) -> Iterator[str]:
        story, header = self._story, self._story.header
        assert header is not None
        yield "<h2>Origin and integrity</h2>\n<dl>\n"
        facts: Sequence[tuple[str, object]] = (
            ("trace", ", ".join(map(str, story.recording))),
            ("SHA-256", digest_of(story.recording) or "not known: it was read from standard input"),
            ("rules in force", story.rules.digest),
            ("rules, as recorded", header.rules_digest or "not told"),
            ("host", f"{header.host}, kernel {header.kernel}, boot {header.boot_id}"),
            ("recorded by", f"agentwatch {header.release}, schema {header.schema_version}"),
            (
                "signing key",
                header.public_key.hex() or "none: see agentwatch trace verify for what is proven",
            ),
            ("page made by", f"agentwatch {__version__}"),
        )
        for name, value in facts:
            yield f"<dt>{shown(name)}</dt><dd><code>{shown(value)}</code></dd>\n"
        yield "</dl>\n"
        yield '<p class="soft">Times are UTC. Alerts are those of a replay under these rules.</p>\n'


def _title(number: int, alert: dict[str, Any]) -> str:
    rule = alert["rule"]
    level = shown(rule["level"])
    return (
        f'<div><span class="level {level}">{level}</span> <h3>{number}. {shown(rule["title"])}</h3> '
        f"{shown(response_words(alert))}</div>\n"
    )


def _evidence(number: int, alert: dict[str, Any]) -> str:
    why = ", ".join(alert["completeness"]["why"]) or "complete"
    records = ", ".join(map(str, alert["evidence"]))
    return (
        f"<details><summary>evidence of alert {number}: records {shown(records)}; {shown(why)}</summary>\n"
        f"<pre>{_lines(json.dumps(alert, indent=1, sort_keys=True))}</pre></details>\n"
    )


def _table(columns: str, rows: Iterable[tuple[str, Sequence[object]]]) -> Iterator[str]:
    """A table. `columns` are words `class:name`; a row is its class and its cells, which are escaped."""
    kinds, names = zip(*(column.split(":") for column in columns.split()), strict=True)
    head = "".join(f'<th class="{kind}">{name}</th>' for kind, name in zip(kinds, names, strict=True))
    yield f'<div class="wide"><table><thead><tr>{head}</tr></thead><tbody>\n'
    for row, cells in rows:
        told = (f'<td class="{kind}">{shown(cell)}</td>' for kind, cell in zip(kinds, cells, strict=True))
        yield f'<tr class="{row}">{"".join(told)}</tr>\n'
    yield "</tbody></table></div>\n"


def _bullets(sentences: Sequence[str]) -> str:
    told = "".join(f"<li>{shown(sentence)}</li>" for sentence in sentences)
    return f"<ul>{told}</ul>" if told else ""


def _left_out(count: int, what: str) -> str:
    return (
        f'<p class="soft">{count} more {what} are left out; agentwatch query has them.</p>\n'
        if count > 0
        else ""
    )


def _lines(text: str) -> str:
    """Text of several lines."""
    return "\n".join(shown(line) for line in text.splitlines()[:1000])


def _tree(lives: Iterable[Life]) -> Iterator[tuple[Life, int]]:
    """Parents before their children, each with its depth."""
    known = dict.fromkeys(sorted(lives, key=lambda life: life.number))
    children: dict[Life | None, list[Life]] = {}
    for life in known:
        children.setdefault(life.parent if life.parent in known else None, []).append(life)
    stack = [(life, 0) for life in reversed(children.get(None, []))]
    while stack:
        life, depth = stack.pop()
        yield life, depth
        stack += [(child, depth + 1) for child in reversed(children.get(life, []))]
