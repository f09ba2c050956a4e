"""`python -m bench.scoreboard`: run the scenarios, tell what was found, write docs/scoreboard.md.

Only a whole run is written down. Exit codes: 0 targets met; 1 it could not run; 2 usage;
3 a target is missed; 4 not root.
"""

from __future__ import annotations

import argparse
import fnmatch
import os
import queue
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from datetime import datetime, timezone
from pathlib import Path

from rich.console import Console
from rich.progress import track

from agentwatch.demo.hosts import LabError
from agentwatch.kernel.errors import KernelError
from agentwatch.resources import RULES
from agentwatch.rules.load import load_rules
from agentwatch.rules.model import RuleError, RuleSet
from bench.scoreboard import offline, report, scenarios, trial
from bench.scoreboard.network import Network, network
from bench.scoreboard.scenarios import Scenario, ScenarioError
from bench.scoreboard.score import OFFLINE, REAL, SKIPPED, Result, Score
from bench.scoreboard.tools import compile_all

PAGE = Path(__file__).parents[2] / "docs" / "scoreboard.md"


class Options(argparse.Namespace):
    """What was asked for on the command line."""

    only: list[str] | None
    set: str
    offline: bool
    jobs: int
    full: bool
    json: bool
    rules: list[Path] | None


def _arguments(words: Sequence[str] | None) -> Options:
    parser = argparse.ArgumentParser(
        prog="./dev scoreboard", description="Run scenarios under watch and score them."
    )
    parser.add_argument("--only", action="append", metavar="PATTERN", help="ids or families, with * and ?")
    parser.add_argument("--set", choices=("own", "corpus", "all"), default="all", help="which scenarios")
    parser.add_argument("--offline", action="store_true", help="run nothing; judge by written events")
    parser.add_argument("--jobs", type=int, default=1, metavar="N", help="so many scenarios at once (1)")
    parser.add_argument("--full", action="store_true", help="do not end an attack once it is recognised")
    parser.add_argument("--json", action="store_true", help="one line a scenario on standard output")
    parser.add_argument("--rules", action="append", type=Path, help="files or folders (default: the shipped)")
    return parser.parse_args(words, Options())


def _sets(which: str) -> list[tuple[str, Path]]:
    """Name and file of the sets of scenarios asked for. Raises `ScenarioError`."""
    corpus = scenarios.corpus()
    if which == "corpus" and corpus is None:
        raise ScenarioError(f"there is no corpus: set {scenarios.CORPUS_VARIABLE} to its folder")
    found = [("own", scenarios.OWN)] if which != "corpus" else []
    return found + ([("corpus", corpus)] if corpus is not None and which != "own" else [])


def _chosen(found: Iterable[Scenario], patterns: Sequence[str] | None) -> list[Scenario]:
    def wanted(one: Scenario) -> bool:
        return any(
            fnmatch.fnmatch(name, p) for name in (one.id, one.family, one.kind) for p in patterns or ()
        )

    return [one for one in found if patterns is None or wanted(one)]


def judge(scenario: Scenario, where: Network | None, rules: RuleSet, *, full: bool) -> Result:
    """Run a scenario for real where that can be done, else judge its events, else skip it."""
    reason = "nothing is run" if where is None else trial.why_not(scenario.script)
    if where is not None and not reason:
        try:
            result = _try(scenario, where, rules, full)
        except (LabError, KernelError, OSError) as error:
            reason = f"could not be run: {error}"
        else:
            if result.how == REAL:
                return result
            reason = result.why
    if not scenario.events:
        return Result(scenario, SKIPPED, why=reason)
    verdict, titles = offline.judge(scenario, rules)
    return Result(scenario, OFFLINE, verdict, reason, titles)


def _try(scenario: Scenario, where: Network, rules: RuleSet, full: bool) -> Result:
    """Run it. A run that went wrong somewhere counts where it shows what was expected, or a false verdict."""
    seen = trial.run(scenario, where, rules, full=full)
    done = seen.account
    result = Result(
        scenario,
        REAL,
        seen.verdict,
        rules=seen.rules,
        stand_ins=seen.stand_ins,
        seen=[*done.programs, *done.connections],
        events=list(done.others),
        output=seen.output[-500:],
        seconds=seen.seconds,
    )
    if seen.failed and result.right != scenario.is_attack:
        last = " ".join(seen.output.strip().splitlines()[-1:])
        return Result(scenario, SKIPPED, why=f"did not run: {last}"[:200])
    return result


def _results(name: str, chosen: Sequence[Scenario], rules: RuleSet, options: Options) -> Iterator[Result]:
    """The scenarios' results as they come, with a progress bar where somebody looks."""
    console = Console(stderr=True)
    run = (
        _share_out(name, chosen, options)
        if options.jobs > 1 and not options.offline
        else _run_set(chosen, rules, options)
    )
    yield from track(run, "scenarios", total=len(chosen), console=console, disable=not console.is_terminal)


def _share_out(name: str, chosen: Sequence[Scenario], options: Options) -> Iterator[Result]:
    """Have several of this program run a part each: a network, a sandbox and a watch of its own."""
    known = {one.id: one for one in chosen}
    with ThreadPoolExecutor(options.jobs) as threads, ExitStack() as stack:
        results: queue.SimpleQueue[Result | None] = queue.SimpleQueue()
        parts = [part for number in range(options.jobs) if (part := chosen[number :: options.jobs])]
        workers = []
        for part in parts:
            worker = stack.enter_context(
                subprocess.Popen(_command(name, part, options), stdout=subprocess.PIPE)
            )
            stack.callback(worker.terminate)
            workers.append(worker)
            threads.submit(_gather, worker, known, results)
        for _ in parts:
            yield from iter(results.get, None)
        if failed := [worker for worker in workers if worker.wait() not in (0, 3)]:
            raise LabError(f"{len(failed)} of {len(parts)} parts failed; what they said is above")


def _command(name: str, part: Sequence[Scenario], options: Options) -> list[str]:
    command = ["setpriv", "--pdeathsig", "TERM", sys.executable, "-m", "bench.scoreboard", "--json"]
    command += ["--set", name, *(word for one in part for word in ("--only", one.id))]
    command += ["--full"] if options.full else []
    return command + [word for path in options.rules or () for word in ("--rules", str(path))]


def _gather(
    worker: subprocess.Popen[bytes], known: Mapping[str, Scenario], results: queue.SimpleQueue[Result | None]
) -> None:
    assert worker.stdout is not None
    for line in worker.stdout:
        results.put(report.from_json(line.decode(), known))
    results.put(None)


def _run_set(chosen: Sequence[Scenario], rules: RuleSet, options: Options) -> Iterator[Result]:
    with ExitStack() as stack:
        where = None
        if not options.offline:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="agentwatch-stub-")))
            stand_ins = compile_all(folder)
            if stand_ins is None:
                raise LabError("no C compiler for the stand-ins of absent tools; --offline needs none")
            where = stack.enter_context(network((one.script for one in chosen), stand_ins))
        for scenario in chosen:
            yield judge(scenario, where, rules, full=options.full)


def _run(options: Options) -> int:
    rules = load_rules(options.rules or [RULES])
    runs = []
    for name, path in _sets(options.set):
        chosen = _chosen(scenarios.read(path), options.only)
        results = []
        for result in _results(name, chosen, rules, options) if chosen else ():
            results.append(result)
            if options.json:
                print(report.to_json(name, result), flush=True)
        results.sort(key=lambda result: chosen.index(result.scenario))
        date = f"{datetime.now(timezone.utc):%Y-%m-%d}"
        runs.append((report.Origin(name, date, len(rules.rules), rules.digest), Score(results)))
    for origin, score in runs:
        if not options.json:
            print(f"== {origin.name}", *report.terminal(score), sep="\n")
    if options.only is None and options.set == "all" and not options.offline:
        _write(report.markdown(runs))
    return 3 if any(score.shortcomings() for _, score in runs) else 0


def _write(page: str) -> None:
    """Written by root in a user's checkout, it is still the user's."""
    PAGE.write_text(page)
    owner = PAGE.parent.stat()
    os.chown(PAGE, owner.st_uid, owner.st_gid)


def main(words: Sequence[str] | None = None) -> int:
    """Run what is asked for; return the exit code."""
    options = _arguments(words)
    if not options.offline and os.geteuid() != 0:
        print("the scoreboard needs root to run scenarios; --offline does not", file=sys.stderr)
        return 4
    try:
        return _run(options)
    except (ScenarioError, RuleError) as error:
        print(error, file=sys.stderr)
        return 2
    except (LabError, KernelError, OSError) as error:
        print(f"the scoreboard could not run: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 128 + signal.SIGINT


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    sys.exit(main())
