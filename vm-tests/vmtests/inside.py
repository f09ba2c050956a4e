"""What runs inside a machine: `python -m vmtests.inside PART...`, JSON lines on standard output.

    {"kernel": RELEASE, "cgroup": ..., "lsm": [...], "lockdown": ..., "uptime": SECONDS}
    {"program": NAME, "target": ..., "state": "loaded" | "refused", "verified": INSTRUCTIONS, "why": ...}
    {"coverage": {"watching": true, "ways": {...}, "missing": [[PROBE, ERROR, COST], ...]}}
    {"test": ID, "outcome": "passed" | "failed" | "skipped", "seconds": ..., "why": ...}
    {"demonstration": {"status": CODE, "acted": [[RULE, ACT, LATENCY_US], ...]}}
    {"log": TEXT}
    {"end": true}

A part is `probes`, `demo`, or a path of tests; those are left out where `probes` found that nothing can
be watched.
"""

from __future__ import annotations

import json
import os
import platform
import re
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from agentwatch.kernel.bpf import BpfError, Handle
from agentwatch.kernel.bytecode import Object
from agentwatch.kernel.cache import cached_object
from agentwatch.kernel.cgroup import find_mount
from agentwatch.kernel.errors import KernelError
from agentwatch.kernel.load import ProgramSpec, UnknownTarget, create_maps, load_program
from agentwatch.kernel.probes import CHOICES, KFUNCS, MAPS, PROBES_TABLE, Probes, recipe

ROOT = Path(__file__).parents[2]
_DEMO_LIMIT = 240  # seconds
_REPORT = os.fdopen(os.dup(1), "w", encoding="ascii")
os.dup2(2, 1)  # what else is printed must not come in between: it goes to the console
_VERIFIED = re.compile(r"^verified_insns:\t(\d+)$", re.MULTILINE)


def say(message: Mapping[str, object]) -> None:
    """One line of the report."""
    _REPORT.write(json.dumps(message) + "\n")
    _REPORT.flush()


def facts() -> dict[str, object]:
    """What tells this machine from another."""
    return {
        "kernel": platform.release(),
        "cgroup": "unified" if find_mount() == Path("/sys/fs/cgroup") else "hybrid",
        "lsm": _first_line("/sys/kernel/security/lsm").split(","),
        "lockdown": _chosen(_first_line("/sys/kernel/security/lockdown")),
        "headers": Path(f"/lib/modules/{platform.release()}/build/include").exists(),
        "uptime": round(time.clock_gettime(time.CLOCK_BOOTTIME)),
    }


def _first_line(path: str) -> str:
    try:
        return Path(path).read_text(encoding="ascii").partition("\n")[0]
    except OSError:
        return ""


def _chosen(text: str) -> str:
    found = re.search(r"\[(\w+)\]", text)
    return found.group(1) if found else "absent"


def probes() -> bool:
    """What attaches when a watch begins, then each program by itself. Whether watching works at all."""
    coverage = _coverage()
    say({"coverage": coverage})
    try:
        compiled = cached_object(recipe())
        maps = create_maps(MAPS.values())
    except (KernelError, OSError) as error:
        say({"log": f"no programs: {error}"})
        return False
    for spec in _programs():
        say({"program": spec.name, "target": spec.target, **_loaded(compiled, spec, maps)})
    return bool(coverage["watching"])


def _coverage() -> dict[str, object]:
    cgroup = Path(tempfile.mkdtemp(prefix="agentwatch-vm-", dir=find_mount()))
    folder = os.open(cgroup, os.O_RDONLY)
    try:
        with Probes() as loaded, loaded.watch_cgroup(1, folder, os.fstat(folder).st_ino):
            missing = [list(one) for one in loaded.missing]
            return {"watching": True, "ways": loaded.ways, "missing": missing}
    except (KernelError, OSError) as error:
        return {"watching": False, "ways": {}, "missing": [["all", str(error), "nothing is seen"]]}
    finally:
        os.close(folder)
        cgroup.rmdir()


def _programs() -> Iterator[ProgramSpec]:
    chosen = [probe for choice in CHOICES for way in choice.ways for probe in way.probes]
    yield from dict.fromkeys(probe.spec for probe in (*PROBES_TABLE, *chosen))


def _loaded(compiled: Object, spec: ProgramSpec, maps: Mapping[int, Handle]) -> dict[str, object]:
    try:
        with load_program(compiled, spec, maps, KFUNCS) as program:
            info = Path(f"/proc/self/fdinfo/{program.fileno()}").read_text(encoding="ascii")
    except (BpfError, UnknownTarget) as error:
        return {"state": "refused", "why": str(error)}
    verified = _VERIFIED.search(info)  # since 5.16
    return {"state": "loaded", "verified": int(verified.group(1)) if verified else None}


class _Outcomes:
    """A pytest plugin that reports each test once."""

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.when == "call" or not report.passed:
            why = "" if report.passed else _why(report)
            say(
                {
                    "test": report.nodeid,
                    "outcome": report.outcome,
                    "seconds": round(report.duration, 1),
                    "why": why,
                }
            )

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        if report.failed:
            say(
                {"test": report.nodeid, "outcome": "failed", "seconds": 0, "why": report.longreprtext[-2000:]}
            )


def _why(report: pytest.TestReport) -> str:
    if isinstance(report.longrepr, tuple):  # of a skipped test: file, line, reason
        return str(report.longrepr[2])
    return report.longreprtext[-3000:]


def tests(path: str) -> None:
    """Run tests in this process."""
    # What hangs shows itself on the console.
    pytest.main(["-p", "no:cacheprovider", "-o", "faulthandler_timeout=60", path], plugins=[_Outcomes()])


def demonstration() -> None:
    """The README's own, without a terminal: the agent goes on after each freeze."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-I", "-m", "agentwatch.demo", "--out", folder]
        status = None
        try:
            done = subprocess.run(
                command, stdin=subprocess.DEVNULL, capture_output=True, timeout=_DEMO_LIMIT, check=False
            )
            status, said = done.returncode, done.stdout + done.stderr
        except subprocess.TimeoutExpired as error:
            said = (error.stdout or b"") + (error.stderr or b"")
        alerts = Path(folder, "alerts.ndjson")
        lines = alerts.read_text(encoding="utf-8").splitlines() if alerts.exists() else []
        found = [json.loads(line) for line in lines]
        acted = [[one["rule"]["title"], one["acted"], one["latency_us"]] for one in found]
        say({"log": said.decode(errors="replace"), "demonstration": {"status": status, "acted": acted}})


def main(parts: list[str]) -> None:
    say(facts())
    watching = True
    for part in parts:
        try:
            if part == "probes":
                watching = probes()
            elif part == "demo":
                demonstration()
            elif watching:
                tests(part)
        except Exception:  # the others still run
            say({"log": traceback.format_exc()})
    say({"end": True})


if __name__ == "__main__":
    main(sys.argv[1:])
