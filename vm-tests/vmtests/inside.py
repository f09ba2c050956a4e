"""What runs inside a machine: `python -m vmtests.inside PART...`, JSON lines on standard output.

    {"kernel": RELEASE, "cgroup": ..., "lsm": [...], "lockdown": ..., "kprobes": true, "headers": false,
     "uptime": SECONDS}
    {"program": NAME, "target": ..., "state": "loaded" | "refused", "verified": INSTRUCTIONS,
     "log_bytes": BYTES, "why": ...}
    {"coverage": {"watching": true, "ways": {...}, "missing": [[PROBE, ERROR, COST], ...],
     "denials": WHY_NOT}}
    {"refusal": {"status": CODE, "remedies": [TEXT, ...]}}
    {"test": ID, "outcome": "passed" | "failed" | "skipped", "seconds": ..., "why": ...}
    {"demonstration": {"status": CODE, "acted": [[RULE, ACT, LATENCY_US], ...]}}
    {"log": TEXT}
    {"end": true}

Where nothing can be watched, `refusal` is what `agentwatch doctor` ends with and says is to be done.

A part is `coverage`, `programs`, `demo`, `tests` (the `ESSENTIAL` ones), `smoke` (a few of them), or a path
of tests; tests and programs are left out where `coverage` found that nothing can be watched.
"""

from __future__ import annotations

import errno
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

from agentwatch.kernel import compile as compiling
from agentwatch.kernel.bpf import BpfError, Handle, program_info
from agentwatch.kernel.bytecode import Object
from agentwatch.kernel.cache import cached_object
from agentwatch.kernel.cgroup import find_mount
from agentwatch.kernel.denials import DENIALS, DenialError
from agentwatch.kernel.errors import KernelError
from agentwatch.kernel.load import ProgramSpec, UnknownTarget, create_maps, load_program, verifier_log
from agentwatch.kernel.probes import CHOICES, KFUNCS, MAPS, PROBES_TABLE, Probes, recipe
from tests import lab

ROOT = Path(__file__).parents[2]
# What shows soonest that a kernel does otherwise.
SMOKE = tuple(
    f"tests/kernel/{test}"
    for test in (
        "test_probes.py::test_every_probe_attaches_here",
        "test_probes.py::test_argv_of_any_size_is_whole[257]",
        "test_probes.py::test_life_of_tcp_flows",
        "test_file_probes.py::test_reading_a_secret[.ssh/id_ed25519-ssh]",
        "test_denials.py::test_an_agent_under_enforce_is_kept_from_the_monitor",
        "test_denials.py::test_a_blocked_agent_starts_nothing_and_reaches_nobody[True]",
        "test_denials.py::test_where_there_are_no_lsms_of_ebpf_it_is_said_why",
    )
)
# One or two of each kind of event: an emulated machine takes seconds for each test.
ESSENTIAL = tuple(
    f"tests/kernel/{test}"
    for test in (
        "test_probes.py::test_every_probe_attaches_here",
        "test_probes.py::test_nothing_stays_in_the_kernel",
        "test_probes.py::test_exec_is_reported_with_its_circumstances",
        "test_probes.py::test_argv_of_any_size_is_whole[257]",
        "test_probes.py::test_argv_of_any_size_is_whole[100000]",
        "test_probes.py::test_standard_streams_are_told_apart",
        "test_probes.py::test_double_fork_and_setsid_do_not_escape",
        "test_probes.py::test_exit_says_how",
        "test_probes.py::test_life_of_tcp_flows",
        "test_probes.py::test_refused_connect_carries_its_error",
        "test_probes.py::test_datagrams_are_followed_by_their_receivers",
        "test_probes.py::test_single_bytes_of_a_message_are_all_recorded",
        "test_probes.py::test_more_is_recorded_of_messages_that_begin_like_handshakes",
        "test_probes.py::test_raw_sockets_are_reported",
        "test_probes.py::test_unix_connects_are_reported_by_path",
        "test_probes.py::test_dns_is_recorded_however_many_questions",
        "test_probes.py::test_leaving_the_cgroup_is_reported",
        "test_probes.py::test_signals_at_the_monitor_are_reported_and_others_are_not",
        "test_probes.py::test_io_uring_shows_like_any_other_way",
        "test_probes.py::test_nothing_of_other_processes_is_reported",
        "test_file_probes.py::test_reading_a_secret",
        "test_file_probes.py::test_writing_making_and_removing",
        "test_file_probes.py::test_io_uring_hides_nothing",
        "test_privileged_probes.py::test_new_namespaces_and_a_mount_in_them",
        "test_privileged_probes.py::test_tracing_the_monitor_is_tampering_even_where_it_fails",
        "test_denials.py",
    )
)
_SETS = {"tests": ESSENTIAL, "smoke": SMOKE}
_DEMO_LIMIT = 300  # seconds
_SLOWER = 5  # an emulated machine, and one whose host has other work, than what limits are made for
_report = sys.stdout


def say(message: Mapping[str, object]) -> None:
    """One line of the report."""
    _report.write(json.dumps(message) + "\n")
    _report.flush()


def _keep_the_report_apart() -> None:
    """What else is printed must not come in between: it goes to the console."""
    global _report
    _report = os.fdopen(os.dup(1), "w", encoding="ascii")
    os.dup2(2, 1)


def facts() -> dict[str, object]:
    """What tells this machine from another."""
    return {
        "kernel": platform.release(),
        "cgroup": "unified" if find_mount() == Path("/sys/fs/cgroup") else "hybrid",
        "lsm": _first_line("/sys/kernel/security/lsm").split(","),
        "lockdown": _chosen(_first_line("/sys/kernel/security/lockdown")),
        "kprobes": Path("/sys/kernel/tracing/kprobe_events").exists(),
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


def coverage() -> bool:
    """What attaches when a watch begins. Whether watching works at all."""
    found = _coverage()
    say({"coverage": found})
    if not found["watching"]:
        say({"refusal": _refusal()})
    return bool(found["watching"])


def _refusal() -> dict[str, object]:
    """What a user is told."""
    command = [sys.executable, "-m", "agentwatch", "doctor", "--json"]
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
    checks = [json.loads(line) for line in done.stdout.splitlines()]
    remedies = [check["remedy"] for check in checks if check["state"] == "missing"]
    return {"status": done.returncode, "remedies": remedies}


def programs() -> None:
    """Each program by itself, as the verifier sees it."""
    try:
        compiled = cached_object(recipe())
        maps = create_maps(MAPS.values())
    except (KernelError, OSError) as error:
        say({"log": f"no programs: {error}"})
        return
    for spec in _programs():
        say({"program": spec.name, "target": spec.target, **_loaded(compiled, spec, maps)})


def _coverage() -> dict[str, object]:
    cgroup = Path(tempfile.mkdtemp(prefix="agentwatch-vm-", dir=find_mount()))
    folder = os.open(cgroup, os.O_RDONLY)
    try:
        with Probes() as loaded, loaded.watch_cgroup(1, folder, os.fstat(folder).st_ino):
            missing = [list(one) for one in loaded.missing]
            refusals = _denials(loaded)
            return {"watching": True, "ways": loaded.ways, "missing": missing, "denials": refusals}
    except (KernelError, OSError) as error:
        missing = [["all", str(error), "nothing is seen"]]
        return {"watching": False, "ways": {}, "missing": missing, "denials": "nothing is watched"}
    finally:
        os.close(folder)
        cgroup.rmdir()


def _denials(loaded: Probes) -> str:
    try:
        loaded.denials.try_all()
    except DenialError as error:
        return str(error)
    return ""


def _programs() -> Iterator[ProgramSpec]:
    chosen = [probe for choice in CHOICES for way in choice.ways for probe in way.probes]
    yield from dict.fromkeys(probe.spec for probe in (*PROBES_TABLE, *chosen))
    yield from DENIALS


def _loaded(compiled: Object, spec: ProgramSpec, maps: Mapping[int, Handle]) -> dict[str, object]:
    try:
        with load_program(compiled, spec, maps, KFUNCS) as program:
            verified = program_info(program).verified_instructions
    except (BpfError, UnknownTarget) as error:
        return {"state": "refused", "why": str(error)}
    return {
        "state": "loaded",
        "verified": verified or None,  # told since 5.16
        "log_bytes": _log_bytes(compiled, spec, maps),
    }


def _log_bytes(compiled: Object, spec: ProgramSpec, maps: Mapping[int, Handle]) -> int | None:
    """Size of the verifier's log; None where it is more than 16 MiB."""
    try:
        return len(verifier_log(compiled, spec, maps, KFUNCS))
    except BpfError as error:
        if error.errno == errno.ENOSPC:
            return None
        raise


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


def tests(*paths: str) -> None:
    """Run tests in this process."""
    # What hangs shows itself on the console.
    pytest.main(["-p", "no:cacheprovider", "-o", "faulthandler_timeout=60", *paths], plugins=[_Outcomes()])


def demonstration() -> None:
    """The README's own, without a terminal: the agent goes on after each freeze."""
    with tempfile.TemporaryDirectory() as folder:
        # Not isolated: a linked environment may be another checkout's, and this one is to be shown.
        command = [sys.executable, "-m", "agentwatch.demo", "--out", folder]
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
    _keep_the_report_apart()
    compiling.TIME_LIMIT *= _SLOWER
    lab.patience = _SLOWER
    say(facts())
    watching = True
    for part in parts:
        try:
            if part == "coverage":
                watching = coverage()
            elif part == "demo":
                demonstration()
            elif watching and part == "programs":
                programs()
            elif watching:
                tests(*_SETS.get(part, (part,)))
        except Exception:  # the others still run
            say({"log": traceback.format_exc()})
    say({"end": True})


if __name__ == "__main__":
    main(sys.argv[1:])
