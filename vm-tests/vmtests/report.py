"""What the machines said, kept in results.json and shown as docs/kernels.md.

results.json holds, by kernel and mode, the summary of the last run of each; a run of some kernels
leaves the others as they were. It is kept in the repository, so that growth of a program's
verification is seen as a change.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from agentwatch.kernel.probes import CHOICES, PROBES_TABLE
from vmtests.kernels import HERE, read_table

RESULTS = HERE / "results.json"
TABLE = HERE.parent / "docs/kernels.md"
_GROWTH = 1.25  # of what the verifier does, from which on it is told
_REFUSED = 4  # the exit code where a feature of the kernel is missing
_AS_SHIPPED = ("unified", "as it is")
_FACTS = ("cgroup", "lsm", "lockdown", "kprobes", "headers")

Summary = dict[str, Any]
Results = dict[str, dict[str, Summary]]
Hear = Callable[[dict[str, Any]], None]


@dataclass
class Outcome:
    """One machine's messages (see `vmtests.inside`), added up. `broken` says why it did not end well;
    `refuses` is what must be said because nothing can be watched, where that is so."""

    facts: Summary = field(default_factory=dict)
    coverage: Summary = field(default_factory=dict)
    programs: dict[str, Summary] = field(default_factory=dict)
    tests: dict[str, list[list[str]]] = field(
        default_factory=lambda: {"passed": [], "failed": [], "skipped": []}
    )
    demonstration: Summary = field(default_factory=dict)
    refusal: Summary = field(default_factory=dict)
    seconds: int = 0
    broken: str = ""
    refuses: str = ""

    def hear(self, message: dict[str, Any]) -> None:
        """Take in one message."""
        if "kernel" in message:
            self.facts = message
        elif "coverage" in message:
            self.coverage = message["coverage"]
        elif "refusal" in message:
            self.refusal = message["refusal"]
        elif "program" in message:
            name = " ".join(filter(None, (message["program"], message["target"].partition(" ")[2])))
            told = ("state", "verified", "log_bytes", "why")
            self.programs[name] = {key: message[key] for key in told if key in message}
        elif "test" in message:
            self.tests[message["outcome"]].append([message["test"], _last_line(message["why"])])
        elif "demonstration" in message:
            self.demonstration = message["demonstration"]

    def summary(self) -> Summary:
        """What is kept of a run: nothing that differs from one good run to the next but its day and its
        seconds."""
        return {
            "kernel": self.facts.get("kernel", ""),
            "facts": {name: self.facts.get(name) for name in _FACTS},
            "coverage": self.coverage,
            "refusal": self.refusal,
            "programs": self.programs,
            "tests": {"passed": len(self.tests["passed"]), **_named(self.tests)},
            "demonstration": {
                "status": self.demonstration.get("status"),
                "acted": [[title, act] for title, act, _ in self.demonstration.get("acted", [])],
            },
            "day": time.strftime("%Y-%m-%d", time.gmtime()),
            "seconds": self.seconds,
            "broken": self.broken,
        }

    def failed(self) -> bool:
        """Whether something did not hold."""
        return bool(self.broken or self.tests["failed"] or self.lapse())

    def lapse(self) -> str:
        """What, besides tests, is not as it must be there; or an empty string. What was not tried is."""
        coverage, shown = self.coverage, self.demonstration
        ended = shown.get("status")
        if coverage and self.refuses:
            return self._unrefused(ended)
        if coverage and not coverage["watching"]:
            return f"nothing can be watched: {coverage['missing']}"
        if coverage and bool(coverage["denials"]) == ("bpf" in self.facts["lsm"]):
            return f"denials: {coverage['denials'] or 'they attach without bpf among the LSMs'}"
        if ended is not None and not _acted(shown):
            return f"the demonstration's agent was never frozen, it ended with {ended}"
        return ""

    def _unrefused(self, ended: int | None) -> str:
        """The same where nothing can be watched."""
        if self.coverage["watching"]:
            return f"it can be watched; kernels.toml says that it refuses: {self.refuses}"
        if self.refusal["status"] != _REFUSED or ended not in (None, _REFUSED):
            return f"doctor ended with {self.refusal['status']}, the demonstration with {ended}"
        if not any(self.refuses in remedy for remedy in self.refusal["remedies"]):
            return f"doctor does not say {self.refuses!r}, but {self.refusal['remedies']}"
        return ""

    def verdict(self) -> str:
        """One line."""
        counts = ", ".join(f"{len(tests)} {outcome}" for outcome, tests in self.tests.items())
        return "; ".join(filter(None, (counts, self.broken, self.lapse()))) + f" in {self.seconds} s"


def _named(tests: dict[str, list[list[str]]]) -> dict[str, list[list[str]]]:
    return {outcome: sorted(tests[outcome]) for outcome in ("failed", "skipped")}


def _last_line(text: str) -> str:
    return text.strip().rpartition("\n")[2][:300]


def line(message: dict[str, Any]) -> str:
    """What is shown of a message while a machine runs; empty for what need not be."""
    if "kernel" in message:
        return f"{message['kernel']} is up, {message['cgroup']} cgroups, lockdown {message['lockdown']}"
    if "coverage" in message:
        missing = "; ".join(f"{probe}: {_short(error)}" for probe, error, _ in message["coverage"]["missing"])
        watching = "probes attached" if message["coverage"]["watching"] else "nothing can be watched"
        return f"{watching}; missing: {missing or 'none'}"
    if "refusal" in message:
        refusal = message["refusal"]
        return f"doctor ends with {refusal['status']}: {'; '.join(refusal['remedies'])}"
    if message.get("state") == "refused":
        return f"{message['program']} {message['target']} refused: {_short(message['why'])}"
    if message.get("outcome") == "failed":
        return f"FAILED {message['test']}\n{message['why']}"
    if "demonstration" in message:
        shown = message["demonstration"]
        return f"demonstration ended with {shown['status']}: {shown['acted']}\n{message['log']}"
    return str(message.get("log", ""))


def _short(error: str) -> str:
    return error.partition("\n")[0][:200]


def read(path: Path = RESULTS) -> Results:
    """The results so far."""
    results: Results = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    return results


def keep(kernel: str, mode: str, summary: Summary) -> list[str]:
    """Put a run in the place of the one before it; what has grown since."""
    results = read()
    grown = list(growth(results.get(kernel, {}).get(mode), summary))
    results.setdefault(kernel, {})[mode] = summary
    write(results)
    return grown


def write(results: Results, path: Path = RESULTS, table: Path = TABLE) -> None:
    """Keep the results, and make the table of them."""
    path.write_text(json.dumps(results, indent=1, sort_keys=True) + "\n", encoding="utf-8")
    table.write_text("\n".join(document(read(path))) + "\n", encoding="utf-8")  # in that order, too


def growth(before: Summary | None, now: Summary) -> Iterator[str]:
    """Programs whose verification has become longer than it was in the run before."""
    for name, program in now["programs"].items():
        for measure, unit in (
            ("verified", "instructions verified"),
            ("log_bytes", "bytes of verifier's log"),
        ):
            old = (before or {}).get("programs", {}).get(name, {}).get(measure)
            new = program.get(measure)
            if old and new and new > old * _GROWTH:
                yield f"{name}: {new} {unit}, {old} before"


def document(results: Results) -> Iterator[str]:
    """The lines of docs/kernels.md."""
    yield "# Kernels"
    yield ""
    yield (
        "Made by `sudo ./dev vm` (the default kernels), `sudo ./dev vm --all` (every kernel and mode) and "
        "`sudo ./dev vm --host` (the kernel it is run on); not to be edited by hand. Each line is one "
        "machine: a kernel of Debian or Ubuntu (`generic`) booted in QEMU over the root file system of the "
        "system it is run on; `as it is` is that system itself. The demonstration is the README's own, "
        "under `--max-response pause`; where machines are emulated its pip may give up for want of time, "
        "which changes nothing of what is caught. Denials: whether the programs on LSM hooks attach, so "
        "that the response `block` is available and the monitor is guarded. In modes other than `unified` "
        "fewer tests run, and the verifier's work is left out. Seconds are those of emulated machines on a "
        "host with other work."
    )
    yield from _machines(results)
    yield from _not_run(results)
    yield from _probes(results)
    yield from _costs(results)
    yield from _programs(results)


def _machines(results: Results) -> Iterator[str]:
    yield from ("", "## What held", "")
    yield (
        "| Kernel | Mode | Cgroups | LSM bpf | Kprobes | Watching | Files by | Privileged operations by | "
        "Denials | Tests passed / failed / skipped | Demonstration | Run on | Seconds |"
    )
    yield "|---" * 13 + "|"
    for modes in results.values():
        for mode, one in modes.items():
            ways, tests = one["coverage"].get("ways", {}), one["tests"]
            seconds = f"{one['seconds']}; {one['broken']}" if one["broken"] else str(one["seconds"])
            cells = (
                one["kernel"],
                mode,
                one["facts"]["cgroup"] or "-",
                _yes("bpf" in (one["facts"]["lsm"] or ())),
                _yes(one["facts"]["kprobes"]),
                _yes(one["coverage"].get("watching")),
                ways.get("files", "-"),
                ways.get("privileged operations", "-"),
                _yes(not one["coverage"].get("denials", "not tried")),
                f"{tests['passed']} / {len(tests['failed'])} / {len(tests['skipped'])}",
                _demonstration(one["demonstration"]),
                one["day"],
                seconds,
            )
            yield _row(cells)
    yield from _tests(results, "failed", "Tests that failed")
    yield from _tests(results, "skipped", "Tests left out")


def _yes(true: object) -> str:
    return "yes" if true else "no"


def _not_run(results: Results) -> Iterator[str]:
    """What the table of kernels names and no machine has been booted for."""
    kernels, modes = read_table()
    left = {
        kernel.name: [
            mode.name
            for mode in modes
            if kernel.boots(mode) and mode.name not in results.get(kernel.name, {})
        ]
        for kernel in kernels
    }
    if any(left.values()):
        yield from (
            "",
            "### Not run",
            "",
            "Pinned in `vm-tests/kernels.toml`, without a run in this table:",
            "",
        )
        yield from (f"- {kernel}: {', '.join(names)}" for kernel, names in left.items() if names)


def _acted(shown: Summary) -> int:
    """How often the demonstration's agent was stopped."""
    return sum(act != "none" for _, act, *_ in shown["acted"])


def _demonstration(shown: Summary) -> str:
    if shown["status"] is None:
        return "did not end" if shown["acted"] else "not run"
    acted = _acted(shown)
    if shown["status"] == _REFUSED:
        return f"refused, exit code {_REFUSED}"
    return f"to its end, {acted} freezes" if acted else f"nothing caught, ended with {shown['status']}"


def _tests(results: Results, outcome: str, title: str) -> Iterator[str]:
    found: dict[tuple[str, str], list[str]] = {}
    for modes in results.values():
        for mode, one in modes.items():
            for test, why in one["tests"][outcome]:
                found.setdefault((test, why), []).append(f"{one['kernel']} ({mode})")
    if found:
        yield from ("", f"### {title}", "")
        for (test, why), where in sorted(found.items()):
            yield f"- `{test}`: {_text(why.removeprefix('Skipped: '))}; on {', '.join(where)}."


def _probes(results: Results) -> Iterator[str]:
    columns = _as_shipped(results)
    yield from (
        "",
        "## Probes by kernel",
        "",
        "In the mode `unified`, which changes nothing of what Debian sets, and on the host as it is.",
        "",
    )
    yield _row(("Probe", *(one["kernel"] for one in columns)))
    yield "|---" * (len(columns) + 1) + "|"
    names = [probe.spec.name for probe in PROBES_TABLE] + [choice.name for choice in CHOICES]
    for name in names:
        yield _row((name, *(_state(name, one["coverage"]) for one in columns)))


def _as_shipped(results: Results) -> list[Summary]:
    """Runs that change nothing of how a kernel is set."""
    return [one for modes in results.values() for mode, one in modes.items() if mode in _AS_SHIPPED]


def _state(name: str, coverage: Summary) -> str:
    missing = {probe for probe, _, _ in coverage.get("missing", ())}
    if not coverage.get("watching"):
        return "-"
    if name in coverage["ways"]:
        return str(coverage["ways"][name])
    return "missing" if name in missing else "attached"


def _costs(results: Results) -> Iterator[str]:
    yield from ("", "## What is missing, why, and what it costs", "")
    found: dict[tuple[str, str, str], list[str]] = {}
    for modes in results.values():
        for mode, one in modes.items():
            for probe, error, cost in one["coverage"].get("missing", ()):
                found.setdefault((probe, _short(error), cost), []).append(f"{one['kernel']} ({mode})")
    yield "| Probe | Why | Cost | Where |"
    yield "|---|---|---|---|"
    for (probe, error, cost), where in sorted(found.items()):
        yield _row((probe, error, cost, ", ".join(where)))


def _programs(results: Results) -> Iterator[str]:
    columns = _as_shipped(results)
    yield from (
        "",
        "## What the verifier does",
        "",
        "Each program loaded by itself: instructions verified (the kernel's limit is 1000000) / size of the "
        "verifier's log in KiB. `./dev vm` says which have grown by a quarter since the run before.",
        "",
    )
    yield _row(("Program", *(one["kernel"] for one in columns)))
    yield "|---" * (len(columns) + 1) + "|"
    for name in sorted({name for one in columns for name in one["programs"]}):
        yield _row((f"`{name}`", *(_verified(one["programs"].get(name)) for one in columns)))


def _verified(program: Summary | None) -> str:
    if program is None:
        return "-"
    if program["state"] == "refused":
        return f"refused: {_short(program['why'])}"
    log = program["log_bytes"]
    return f"{program['verified'] or 'loaded'} / {'> 16384' if log is None else log >> 10}"


def _row(cells: tuple[str, ...]) -> str:
    return "| " + " | ".join(_text(cell) for cell in cells) + " |"


def _text(cell: str) -> str:
    return cell.replace("|", "\\|").replace("\n", " ")
