"""`agentwatch replay` as a user runs it."""

from __future__ import annotations

import json
import os
import pty
import subprocess
import sys
from pathlib import Path

import pytest

from agentwatch.cli.exits import Exit
from agentwatch.rules.model import RuleSet
from agentwatch.schema.decode import pack_notes
from agentwatch.schema.events import Type
from agentwatch.sources.base import Batch, BatchKind
from agentwatch.trace.store import Rotation
from tests.recordings import BEGAN, connections, record, rules_for


@pytest.fixture
def rules(tmp_path: Path) -> RuleSet:
    return rules_for(tmp_path)


@pytest.fixture
def trace(tmp_path: Path, rules: RuleSet) -> Path:
    return record(tmp_path / "run.awt", connections(3), rules)


def _run(*arguments: str | Path, code: int = 0, stdin: bytes = b"") -> subprocess.CompletedProcess[bytes]:
    command = [sys.executable, "-m", "agentwatch", "replay", *map(str, arguments)]
    done = subprocess.run(command, input=stdin, capture_output=True, check=False)
    assert done.returncode == code, done.stderr.decode()
    assert b"Traceback" not in done.stderr
    return done


def test_alerts_alone_stand_on_standard_output(trace: Path, tmp_path: Path) -> None:
    done = _run(trace, trace)
    assert [json.loads(line)["rule"]["level"] for line in done.stdout.splitlines()] == ["high"] * 6
    assert done.stderr.decode().splitlines() == [f"agentwatch: {trace}: 4 records, 3 alerts"] * 2
    assert _run(trace, trace, "--alerts", tmp_path / "alerts").stdout == b""
    assert (tmp_path / "alerts").read_bytes() == done.stdout
    assert _run("-", trace, stdin=trace.read_bytes()).stdout == done.stdout


def test_order_is_that_of_the_traces(trace: Path, tmp_path: Path, rules: RuleSet) -> None:
    long = record(tmp_path / "long.awt", connections(500), rules)
    first, second = _run(long).stdout, _run(trace).stdout
    for jobs in ("1", "2"):
        assert _run(long, trace, "--jobs", jobs).stdout == first + second
        assert _run(trace, long, "--jobs", jobs).stdout == second + first


def test_other_rules_tell_what_they_would_have_caught(trace: Path, tmp_path: Path) -> None:
    rules_for(tmp_path, port=2)
    assert not _run(trace, "--rules", tmp_path / "port-2.yml").stdout
    both = _run(trace, "--rules", tmp_path / "port-2.yml", "--rules", tmp_path / "port-1.yml").stdout
    assert len(both.splitlines()) == 3


def test_a_span(trace: Path) -> None:
    everything = _run(trace).stdout.splitlines(keepends=True)
    assert _run(trace, "--from", "0.5", "--to", "2023-11-14T22:15:01Z").stdout == everything[1]
    assert b"neither RFC 3339" in _run(trace, "--to", "noon", code=Exit.USAGE).stderr


def test_check_compares_with_an_earlier_file(trace: Path, tmp_path: Path) -> None:
    alerts = tmp_path / "alerts"
    _run(trace, "--alerts", alerts)
    done = _run(trace, "--check", alerts)
    assert not done.stdout
    lines = alerts.read_bytes().splitlines(keepends=True)
    alerts.write_bytes(lines[0] + lines[1].replace(b"demo", b"\x1b[2J") + lines[2])
    done = _run(trace, "--check", alerts, code=Exit.FINDINGS)
    _, head, earlier, now = done.stderr.decode().splitlines()
    assert head == "agentwatch: alerts differ, first in line 2:"
    assert earlier.startswith('- {"acted": "none", "agent": "\\x1b[2J"')
    assert now == "+ " + lines[1].decode().rstrip()
    alerts.write_bytes(b"".join(lines[:2]))
    assert b"- (end of the alerts)" in _run(trace, "--check", alerts, code=Exit.FINDINGS).stderr
    again = tmp_path / "again"
    _run(trace, "--check", alerts, "--alerts", again, code=Exit.FINDINGS)
    assert again.read_bytes() == b"".join(lines)


def test_a_dash_is_standard_output(trace: Path) -> None:
    expected = _run(trace).stdout
    assert expected and _run(trace, "--alerts", "-").stdout == expected
    assert _run("-", "--check", trace.parent / "none", code=Exit.USAGE).stdout == b""
    (trace.parent / "alerts").write_bytes(expected)
    assert _run(trace, "--check", trace.parent / "alerts", "--alerts", "-").stdout == expected
    assert not Path("-").exists()


def test_fail_on_counts_what_is_told(trace: Path) -> None:
    _run(trace, "--fail-on", "high", code=Exit.FINDINGS)
    _run(trace, "--fail-on", "critical")
    _run(trace, "--fail-on", "high", "--from", "100")


def test_strict_ends_with_6_where_events_were_lost(tmp_path: Path, rules: RuleSet) -> None:
    loss = (int(Type.LOSS), BEGAN, 1, 0, 0, int(Type.EXEC), 3, "ring full")
    path = record(tmp_path / "x.awt", [(Batch(BatchKind.NOTES, pack_notes([loss])),)], rules)
    _run(path)
    _run(path, "--strict", code=Exit.LOST)


@pytest.mark.parametrize("content", [b"", b"not a trace", b"\x89AWT\r\n\x1a\n" + bytes(200)])
def test_what_is_no_trace_ends_with_5_and_the_rest_is_replayed(
    trace: Path, tmp_path: Path, content: bytes
) -> None:
    path = tmp_path / "x"
    path.write_bytes(content)
    done = _run(path, trace, code=Exit.DAMAGED)
    assert len(done.stdout.splitlines()) == 3
    assert f"agentwatch: {path}: ".encode() in done.stderr


def test_a_torn_trace_says_what_is_missing(trace: Path) -> None:
    trace.write_bytes(trace.read_bytes()[:-1])
    done = _run(trace, code=Exit.DAMAGED)
    assert len(done.stdout.splitlines()) == 3
    assert b"torn at byte" in done.stderr


def test_a_recording_of_several_files_is_named_by_its_first(
    trace: Path, tmp_path: Path, rules: RuleSet
) -> None:
    long = record(tmp_path / "long.awt", connections(3), rules, rotation=Rotation(max_bytes=1))
    assert _run(long).stdout == _run(trace).stdout


def test_what_cannot_be_written_is_a_sentence(trace: Path) -> None:
    assert b"No space left" in _run(trace, "--alerts", "/dev/full", code=Exit.FAILURE).stderr
    assert b"cannot be written" in _run(trace, "--alerts", "/no/such/alerts", code=Exit.FAILURE).stderr


def test_a_bar_shows_how_far_it_is_on_a_terminal_alone(trace: Path, tmp_path: Path) -> None:
    ours, theirs = pty.openpty()
    command = [sys.executable, "-m", "agentwatch", "replay", str(trace), str(trace), "--jobs", "2"]
    done = subprocess.run(
        command, stdout=subprocess.PIPE, stderr=theirs, check=True, env={**os.environ, "TERM": "xterm"}
    )
    os.close(theirs)
    shown = os.read(ours, 1 << 16)
    os.close(ours)
    assert b"\xe2\x94\x81" in shown or b"\x1b[" in shown
    assert done.stdout == _run(trace, trace).stdout


@pytest.mark.root
@pytest.mark.skipif(os.geteuid() != 0, reason="needs root to become somebody else")
def test_nobody_can_replay(trace: Path, tmp_path: Path) -> None:
    expected = _run(trace).stdout
    command = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"]
    command += [sys.executable, "-m", "agentwatch", "replay", "-"]
    with trace.open("rb") as file:
        done = subprocess.run(command, stdin=file, capture_output=True, check=False)
    assert (done.returncode, done.stdout) == (0, expected), done.stderr
