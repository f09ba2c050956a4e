"""Who did it: from the tool call or root command, step by step, to what was found.

A chain is told as a stranger would need it: what ran, who forked it, with which arguments, whom it
spoke with and how much, what was recognised, and what was done about it. Nothing else is told.
"""

from __future__ import annotations

import posixpath
import shlex
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from agentwatch.enrich.sighting import Sighting
from agentwatch.enrich.state import Change
from agentwatch.forensics.story import Finding, Life, Link, Listener, Program, Story, wall_of
from agentwatch.schema.events import Type
from agentwatch.sinks.alerts import endpoint, timestamp
from agentwatch.tui.snapshot import ended_words
from agentwatch.tui.text import byte_count

CASES_KEPT = 100
ACTS_KEPT = 1000
SIGHTS_KEPT = 20  # of one file, by one process
FOUND_TOLD = 8  # findings about the same flow, or about no flow
_SHELLS = frozenset(("sh", "bash", "dash", "ash", "zsh", "ksh", "mksh", "fish", "busybox"))
_TELLING = (
    "Behaviour",
    "Kind",
    "Stage",
    "Protocol",
    "Role",
    "TargetFilename",
    "Access",
)  # facts that make a finding another one


@dataclass(frozen=True, slots=True)
class Wanted:
    """What is asked about: an alert's number, an address (and port), a file; nothing: every alert."""

    alert: int | None = None
    address: str = ""
    port: int | None = None
    file: str = ""


@dataclass(frozen=True, slots=True)
class Step:
    """One step. `time` is in ns since boot, `record` 0 where no one record tells it.

    `kind` is found, fork, exec, connect, accept, open, finding, alert, act, file or exit.
    """

    time: int
    kind: str
    pid: int
    text: str
    record: int = 0
    facts: Mapping[str, Any] = field(default_factory=dict)


@dataclass(slots=True)
class Case:
    """What is told about one process: its ancestry, its alerts, and what was seen of a file."""

    life: Life
    alerts: list[tuple[int, dict[str, Any]]] = field(default_factory=list)
    links: list[Link] = field(default_factory=list)
    sights: list[Step] = field(default_factory=list)

    @property
    def markers(self) -> dict[str, Any]:
        """Markers when the process began to act, and others of its alerts."""
        found: dict[str, Any] = dict(self.life.markers)
        for _, alert in self.alerts:
            for name, value in (alert.get("markers") or {}).items():
                found.setdefault(name, value)
        return found


class Blame(Listener):
    """Collects the cases that are asked for. `left_out` counts those beyond CASES_KEPT."""

    def __init__(self, wanted: Wanted) -> None:
        self._wanted = wanted
        self._every = wanted == Wanted()
        self._cases: dict[int, Case] = {}
        self._acts: list[Step] = []
        self._rules: set[str] = set()
        self.homeless: list[tuple[int, dict[str, Any]]] = []  # alerts whose process is not known
        self.left_out = 0

    def begin(self, story: Story) -> None:
        self._story = story

    @property
    def cases(self) -> list[Case]:
        """In the order of first sight."""
        return list(self._cases.values())

    def _case(self, life: Life) -> Case | None:
        case = self._cases.get(life.number)
        if case is None:
            if len(self._cases) == CASES_KEPT:
                self.left_out += 1
                return None
            case = self._cases[life.number] = Case(life)
        return case

    def alert(self, number: int, alert: dict[str, Any], life: Life | None, link: Link | None) -> None:
        self._rules.add(alert["rule"]["id"])
        if not self._every and number != self._wanted.alert:
            return
        if life is None:
            self.homeless = [*self.homeless[: CASES_KEPT - 1], (number, alert)]
        elif case := self._case(life):
            case.alerts.append((number, alert))

    def link(self, link: Link) -> None:
        if self._wanted.address and self._meets(link) and (case := self._case(link.owner)):
            case.links.append(link)

    def _meets(self, link: Link) -> bool:
        flow, address, port = link.flow, self._wanted.address, self._wanted.port
        ends = (flow.remote, flow.remote_port), (flow.domain, flow.remote_port), (flow.local, flow.local_port)
        return any(name == address and port in (None, number) for name, number in ends)

    def moment(self, change: Change, events: list[Sighting], life: Life) -> None:
        if change.type == Type.ACTION and len(self._acts) < ACTS_KEPT:
            self._acts.append(_act(change))
        if self._wanted.file and (step := self._touches(change, events)) and (case := self._case(life)):
            case.sights = [*case.sights[: SIGHTS_KEPT - 1], step]

    def _touches(self, change: Change, events: Iterable[Sighting]) -> Step | None:
        """A step where a record concerns the file."""
        process = change.process
        if change.type in (Type.EXEC, Type.PROCESS):
            names = [process.exe, *process.argv]
            words = "runs it or names it"
        elif change.type == Type.FILE:
            names, words = [change.fields[0]], "names it as its configuration"
        else:
            fields = next((event.fields for event in events if "TargetFilename" in event.fields), {})
            names = [str(fields.get("TargetFilename") or ""), str(fields.get("SourceFilename") or "")]
            words = f"access: {fields.get('Access') or 'seen'}"
        if not any(self._is_file(name, process.cwd) for name in names if name):
            return None
        return Step(change.time, "file", process.pid, f"{self._wanted.file}: {words}", change.seq)

    def _is_file(self, name: str, folder: str) -> bool:
        wanted = self._wanted.file
        if not wanted.startswith("/"):
            return name == wanted or name.endswith(f"/{wanted}")
        if len(name) > 4096:
            return False
        return posixpath.normpath(posixpath.join(folder, name)) == posixpath.normpath(wanted)

    # --- a case, step by step ---

    def steps(self, case: Case) -> list[Step]:
        """Every step from the root command on, in time."""
        chain = case.life.ancestry
        found: list[Step] = []
        for life, child in zip(chain, [*chain[1:], None], strict=True):
            found += self._way(life, child)
        found += self._end(case)
        found += self._judged(case)
        if case.alerts:
            found += self._meanwhile(case, max(step.time for step in found))
        return sorted(found, key=lambda step: step.time)

    def _meanwhile(self, case: Case, last: int) -> Iterator[Step]:
        """What operators did to the agent while the process lived, and who ended a pause after that.

        What rules had done is told with their alerts.
        """
        paused = False
        for step in self._acts:
            if step.facts["agent"] != case.life.agent:
                continue
            if step.time > last and not paused:
                return
            paused = step.facts["response"] == "pause"
            if step.time >= case.life.process.start and step.facts["by"] not in self._rules:
                yield step

    def _way(self, life: Life, child: Life | None) -> Iterator[Step]:
        """What a process of the chain ran, until the next in the chain was forked."""
        pid = life.process.pid
        if life.parent is not None and life.began:
            between = f", {life.skipped} generations between are left out" if life.skipped else ""
            maker = life.process.parent[0] if life.process.parent else life.parent.process.pid
            yield Step(life.began, "fork", pid, f"forked by {maker}{between}")
        until = child.began if child is not None and child.began else None
        for program in life.programs:
            if until is None or program.time <= until:
                yield _runs(life, program)
        if not life.programs and life.parent is None:
            yield Step(life.began or life.process.start, "found", pid, "what it ran is not known")

    def _end(self, case: Case) -> Iterator[Step]:
        """What the subject itself did: its flows, and its end."""
        life = case.life
        for link in case.links or life.links:
            if link.flow.remote or link.behaviours or link in case.links:
                yield self._speaks(link)
        told: dict[tuple[object, ...], None] = {}
        for finding in life.findings:
            key = _kind(finding)
            if key in told or (case.links and finding.link not in case.links):
                continue
            told[key] = None
            if sum(one[0] == key[0] for one in told) <= FOUND_TOLD:
                yield Step(finding.time, "finding", life.process.pid, f"found: {finding.text}", finding.seq)
        yield from case.sights
        if life.process.ended:
            yield Step(life.process.ended, "exit", life.process.pid, f"ends: {ended_words(life.process)}")

    def _speaks(self, link: Link) -> Step:
        flow = link.flow
        remote, local = endpoint(flow.remote, flow.remote_port), endpoint(flow.local, flow.local_port)
        name = f" ({flow.domain})" if flow.domain and flow.domain != flow.remote else ""
        verb = {True: "connects to", False: "accepts from", None: "uses"}[flow.initiated]
        state = "closed" if flow.closed else "not seen to close"
        failed = f"; fails with errno {flow.error}" if flow.error else ""
        protocol = flow.application or flow.transport
        text = (
            f"{verb} {remote or 'nobody known'}{name} from {local or 'an unknown address'}: {protocol}; "
            f"{byte_count(flow.bytes_out)} out, {byte_count(flow.bytes_in)} in, {state}{failed}"
        )
        facts = {
            "local": local, "remote": remote, "hostname": flow.domain or None, "protocol": protocol,
            "bytes_out": flow.bytes_out, "bytes_in": flow.bytes_in, "initiated": flow.initiated,
            "closed": self.stamp(flow.closed) if flow.closed else None, "behaviours": list(link.behaviours),
        }  # fmt: skip
        kind = {True: "connect", False: "accept", None: "open"}[flow.initiated]
        return Step(flow.opened, kind, link.owner.process.pid, text, 0, facts)

    def _judged(self, case: Case) -> Iterator[Step]:
        for number, alert in case.alerts:
            yield self._judgement(number, alert)

    def _judgement(self, number: int, alert: dict[str, Any]) -> Step:
        rule, why = alert["rule"], alert["completeness"]["why"]
        text = f"alert {number} ({rule['level']}): {rule['title']}; {response_words(alert)}"
        if alert["verdict"] != "match":
            text += "; undecided, for a value was cut"
        if why:
            text += f"; evidence is partial: {', '.join(why)}"
        record = alert["evidence"][-1] if alert["evidence"] else 0
        facts = {"rule": rule["id"], "response": alert["response"], "acted": alert["acted"]}
        return Step(self.time_of(alert), "alert", alert["process"]["pid"], text, record, facts)

    def time_of(self, alert: Mapping[str, Any]) -> int:
        """When an alert's decisive record was made, in ns since boot."""
        return wall_of(alert["time"]) - (self._story.header.clock_offset if self._story.header else 0)

    def stamp(self, time: int) -> str:
        """RFC 3339 from ns since boot."""
        return timestamp(self._story.wall(time), 0)


def response_words(alert: Mapping[str, Any]) -> str:
    """What was decided, what was done, and how fast."""
    if alert["acted"] != "none":
        fast = "" if alert["latency_us"] is None else f" {alert['latency_us'] / 1000:.2f} ms after the record"
        return f"response {alert['response']}, done: {alert['acted']}{fast}"
    failed = f", failed: {alert['error']}" if alert["error"] else ", nothing done"
    return f"response {alert['response']}" + ("" if alert["response"] == "alert" else failed)


def tool_call(case: Case) -> tuple[str, str]:
    """What the agent asked for, and by what that is known.

    A marker says it best. Else it is the command of the first shell below the agent's root
    command, else the first program below it, else the root command itself.
    """
    for name, value in case.markers.items():
        if "tool" in name.lower():
            return str(value), f"marker {name}"
    chain = case.life.ancestry
    for life in chain[1:]:
        for program in life.programs:
            if (command := shell_command(program)) is not None:
                return command, f"shell command of {life.process.pid}, below the agent's root command"
    for life in chain[1:]:
        if life.programs:
            return command_of(life.programs[0]), "first program below the agent's root command"
    programs = chain[0].programs
    return (command_of(programs[0]), "the agent's root command") if programs else ("not known", "")


def shell_command(program: Program) -> str | None:
    """What a shell was given to run with -c."""
    if program.exe.rpartition("/")[2] not in _SHELLS:
        return None
    words = list(program.argv[1:])
    while words and words[0].startswith(("-", "+")):
        option = words.pop(0)
        if not option.startswith("--") and "c" in option:
            return next((word for word in words if not word.startswith(("-", "+"))), None)
        if option in ("-o", "+o", "--rcfile", "--init-file") and words:
            words.pop(0)
    return None


def command_of(program: Program) -> str:
    """The arguments as a shell would take them."""
    return shlex.join(program.argv) + (" …" if program.cut else "") if program.argv else program.exe


def _runs(life: Life, program: Program) -> Step:
    facts = {
        "exe": program.exe, "argv": list(program.argv), "cwd": program.cwd, "user": program.user,
        "parent": life.parent.process.pid if life.parent else None, "cut": program.cut,
    }  # fmt: skip
    verb = "runs already:" if program.already else "runs"
    place = ""
    if life.parent is None:
        place = ", the agent's root command as far as is known"
    elif not life.began:
        place = f", made by {life.parent.process.pid} before this trace begins"
    text = f"{verb} {command_of(program)} ({program.exe}, in {program.cwd}, as {program.user}{place})"
    return Step(program.time, "exec", life.process.pid, text, program.seq, facts)


def _kind(finding: Finding) -> tuple[object, ...]:
    """Findings of one kind say the same again."""
    told = dict(finding.facts)
    return (finding.link.number if finding.link else 0, *(told.get(name) for name in _TELLING))


def _act(change: Change) -> Step:
    _, by, response, result, error, acted, _ = change.fields
    text = f"{response} by {by}: {result}" + (f" ({error})" if error else "")
    facts = {"by": by, "response": response, "result": result, "agent": change.agent.name}
    return Step(acted or change.time, "act", change.process.pid, text, change.seq, facts)
