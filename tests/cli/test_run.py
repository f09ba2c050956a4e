"""`agentwatch run` as a user runs it: real agents, real freezes, real signals."""

from __future__ import annotations

import json
import os
import pty
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

import pytest

from agentwatch.kernel.cgroup import PARENT, Cgroup, find_mount
from agentwatch.respond.cgroup import kill
from agentwatch.schema import decode
from agentwatch.schema.events import Type
from agentwatch.sources.base import BatchKind
from agentwatch.trace.reader import TraceReader
from tests.lab import compiled, eventually

pytestmark = [pytest.mark.root, pytest.mark.skipif(os.geteuid() != 0, reason="needs root")]

RULE = """
title: Connect to port one
id: 8a1c7a52-6d8c-4c0e-9f6b-0f6d3c8e5a11
status: test
logsource: {product: linux, category: network_connection}
detection:
  one: {DestinationPort: 1}
  condition: one
level: high
agentwatch: {response: pause}
"""
CONNECT = (
    "import socket, time; socket.socket().connect_ex(('127.0.0.1', 1));"
    "time.sleep(0.3); print('after', flush=True)"
)
PYTHON = "/usr/bin/python3"


@pytest.fixture
def rules(tmp_path: Path) -> Path:
    path = tmp_path / "rule.yml"
    path.write_text(RULE)
    return path


@pytest.fixture(autouse=True)
def nothing_left() -> Iterator[None]:
    """Whatever happens, a run leaves no cgroup behind."""
    before = _cgroups()
    yield
    eventually(lambda: _cgroups() <= before)


def _cgroups() -> set[str]:
    parent = find_mount() / PARENT
    return {path.name for path in parent.iterdir() if path.is_dir()} if parent.exists() else set()


def run(*arguments: object, **options: Any) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "agentwatch", "run", *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=60,
        stdin=subprocess.DEVNULL,
        start_new_session=True,  # no terminal to ask
        check=False,
        **options,
    )


def begin(*arguments: object) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "agentwatch", "run", *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        stdin=subprocess.DEVNULL,
        text=True,
        start_new_session=True,
    )


def frozen(name: str) -> bool:
    events = find_mount() / PARENT / name / "cgroup.events"
    return events.exists() and "frozen 1" in events.read_text()


@pytest.mark.parametrize(("command", "code"), [("exit 7", 7), ("kill -9 $$", 137), ("true", 0)])
def test_exit_code_is_the_commands(command: str, code: int) -> None:
    assert run("--", "sh", "-c", command).returncode == code


@pytest.mark.parametrize(("command", "code"), [("/no/such/thing", 127), ("/etc/passwd", 126)])
def test_command_that_cannot_run_is_said(command: str, code: int) -> None:
    done = run("--", command)
    assert done.returncode == code
    assert command in done.stderr


def test_output_and_options_of_the_command_are_its_own() -> None:
    done = run("--", "sh", "-c", 'echo "$1" "$2"', "sh", "--json", "--rules")
    assert done.stdout == "--json --rules\n"


def test_monitor_mode_only_tells(rules: Path, tmp_path: Path) -> None:
    alerts = tmp_path / "alerts"
    done = run("--name", "watched", "--rules", rules, "--alerts", alerts, "--", PYTHON, "-c", CONNECT)
    assert done.stdout == "after\n"
    (alert,) = map(json.loads, alerts.read_text().splitlines())
    assert (alert["response"], alert["acted"], alert["mode"]) == ("pause", "none", "monitor")
    assert alert["latency_us"] is None
    assert alert["agent"] == "watched"
    assert alert["process"]["argv"] == [PYTHON, "-c", CONNECT]
    assert alert["flow"]["remote"] == "127.0.0.1:1"
    assert alert["completeness"] == {"state": "complete", "why": []}


def test_enforced_pause_freezes_and_waits_until_a_signal_ends_it(rules: Path) -> None:
    process = begin("--name", "held", "--mode", "enforce", "--rules", rules, "--", PYTHON, "-c", CONNECT)
    eventually(lambda: frozen("held"))
    process.send_signal(signal.SIGTERM)
    _, errors = process.communicate(timeout=30)
    assert process.returncode == 128 + signal.SIGTERM
    assert "frozen" in errors


@pytest.mark.parametrize(("answer", "code", "output"), [("kill", 137, ""), ("resume", 0, "after\n")])
def test_on_pause(rules: Path, answer: str, code: int, output: str) -> None:
    done = run("--mode", "enforce", "--rules", rules, "--on-pause", answer, "--", PYTHON, "-c", CONNECT)
    assert (done.returncode, done.stdout) == (code, output)


def test_left_tree_stays_frozen_and_can_be_ended(rules: Path, tmp_path: Path) -> None:
    # Not through pipes: the frozen tree would keep them open.
    command = ["--name", "left", "--mode", "enforce", "--rules", rules, "--on-pause", "leave", "--", PYTHON]
    with (tmp_path / "errors").open("w") as errors:
        done = subprocess.run(
            [sys.executable, "-m", "agentwatch", "run", *map(str, command), "-c", CONNECT],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=errors,
            start_new_session=True,
            timeout=60,
            check=False,
        )
    assert done.returncode == 3
    assert frozen("left")
    assert "cgroup.freeze" in (tmp_path / "errors").read_text()
    kill(left := Cgroup(find_mount() / PARENT / "left", made=False))
    left.left = False
    left.close()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signals_end_the_whole_tree(number: int) -> None:
    process = begin("--name", "ended", "--", "sh", "-c", "setsid sleep 600 & sleep 600 & echo ready; wait")
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    path = find_mount() / PARENT / "ended" / "cgroup.procs"
    assert len(path.read_text().split()) == 3
    process.send_signal(number)
    process.communicate(timeout=30)
    assert process.returncode == 128 + number


def test_closed_terminal_ends_the_tree() -> None:
    """SIGHUP reloads the rules, but not when it says that the terminal is gone."""
    command = ["run", "--name", "hung-up", "--", "sh", "-c", "trap '' HUP; echo ready; sleep 600"]
    pid, terminal = pty.fork()
    if pid == 0:
        os.execv(sys.executable, [sys.executable, "-m", "agentwatch", *command])
    said = b""
    while b"ready" not in said:
        said += os.read(terminal, 1024)
    os.close(terminal)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 128 + signal.SIGHUP
    assert "hung-up" not in _cgroups()


def test_killed_watcher_takes_its_tree_with_it() -> None:
    process = begin("--name", "orphan", "--", "sh", "-c", "echo ready; sleep 600")
    assert process.stdout is not None
    process.stdout.readline()
    process.kill()
    process.communicate(timeout=30)
    eventually(lambda: "orphan" not in _cgroups())


def test_watching_goes_on_until_the_last_descendant() -> None:
    done = run("--", "sh", "-c", "(sleep 0.3; echo late) & echo early")
    assert done.stdout == "early\nlate\n"


def test_two_instances_side_by_side_do_not_meet(rules: Path) -> None:
    one = begin("--name", "one", "--", "sleep", "600")
    eventually(lambda: "one" in _cgroups())
    assert run("--name", "two", "--", "true").returncode == 0
    assert "one" in _cgroups()
    same = run("--name", "one", "--", "true")
    assert same.returncode == 4
    assert "watched already" in same.stderr
    one.terminate()
    one.communicate(timeout=30)


def test_recording_replays_byte_for_byte(rules: Path, tmp_path: Path) -> None:
    trace, live, again = tmp_path / "t.trace", tmp_path / "live", tmp_path / "again"
    options = [
        "--mode",
        "enforce",
        "--rules",
        rules,
        "--on-pause",
        "resume",
        "--record",
        trace,
        "--alerts",
        live,
    ]
    assert run(*options, "--", PYTHON, "-c", CONNECT).returncode == 0
    assert live.read_bytes()
    replay = [sys.executable, "-m", "agentwatch", "replay", str(trace), "--alerts", str(again)]
    done = subprocess.run(replay, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert again.read_bytes() == live.read_bytes()


@pytest.mark.parametrize("option", [["--json"], ["--alerts", "-"]])
def test_alerts_as_json_stand_alone_on_standard_output(rules: Path, option: list[str]) -> None:
    done = run(*option, "--rules", rules, "--", PYTHON, "-c", CONNECT)
    (alert,) = map(json.loads, done.stdout.splitlines())
    assert alert["rule"]["title"] == "Connect to port one"
    assert "after" in done.stderr


@pytest.mark.parametrize(("threshold", "code"), [("high", 3), ("critical", 0)])
def test_fail_on(rules: Path, threshold: str, code: int) -> None:
    assert run("--rules", rules, "--fail-on", threshold, "--", PYTHON, "-c", CONNECT).returncode == code


@pytest.mark.parametrize(
    ("arguments", "code", "text"),
    [
        (["--name", "../up", "--", "true"], 2, "--name"),
        (["--mode", "sometimes", "--", "true"], 2, "sometimes"),
        (["--rules", "/no/such", "--", "true"], 2, "/no/such"),
        ([], 2, "COMMAND"),
        (["--alerts", "/no/such/folder/alerts", "--", "true"], 1, "alert file"),
        (["--record", "/no/such/folder/trace", "--", "true"], 1, "trace"),
        (["--record", "-", "--", "true"], 2, "not to standard output"),
    ],
)
def test_what_is_wrong_is_said_in_a_sentence(arguments: list[str], code: int, text: str) -> None:
    done = run(*arguments)
    assert done.returncode == code
    assert text in done.stderr
    assert "Traceback" not in done.stderr


def test_broken_rule_is_named_with_its_file(tmp_path: Path) -> None:
    bad = tmp_path / "bad.yml"
    bad.write_text("title: no detection\nlogsource: {category: flow}\n")
    done = run("--rules", bad, "--", "true")
    assert done.returncode == 1
    assert "bad.yml" in done.stderr


def test_full_disk_for_alerts_does_not_end_the_watch(rules: Path) -> None:
    done = run(
        "--mode",
        "enforce",
        "--rules",
        rules,
        "--on-pause",
        "resume",
        "--alerts",
        "/dev/full",
        "--",
        PYTHON,
        "-c",
        CONNECT,
    )
    assert done.returncode == 0
    assert "incomplete" in done.stderr


# Datagram connects, each on a socket of its own, until the file STOP is there; says how many.
LOAD = """
import os, socket, sys, time
count = 0
while not os.path.exists(sys.argv[1]):
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as one:
        one.connect(("127.0.0.1", 9))
    count += 1
    if count % 10 == 0:
        time.sleep(0.002)
print(count)
"""
DATAGRAMS = """
title: {title}
id: 8a1c7a52-6d8c-4c0e-9f6b-0f6d3c8e5a12
logsource: {{product: linux, category: network_connection}}
detection:
  datagram: {{Protocol: udp}}
  condition: datagram
level: low
"""


def await_line(stream: IO[str] | None, text: str) -> str:
    """The next line with this text."""
    assert stream is not None
    for line in stream:
        if text in line:
            return line
    pytest.fail(f"ended without {text!r}")


def test_rules_break_are_mended_and_reloaded_under_load(tmp_path: Path) -> None:
    rule, stop = tmp_path / "rules" / "rule.yml", tmp_path / "stop"
    alerts, trace, again = tmp_path / "alerts", tmp_path / "trace", tmp_path / "again"
    rule.parent.mkdir()
    rule.write_text(DATAGRAMS.format(title="first"))
    files = ["--rules", rule.parent, "--alerts", alerts, "--record", trace]
    process = begin(*files, "--", PYTHON, "-c", LOAD, stop)
    await_line(process.stderr, "first")
    rule.write_text("title: broken\nlogsource: {category: flow}\n")
    said = await_line(process.stderr, "the rules before stay in force")
    assert str(rule) in said
    await_line(process.stderr, "first")
    rule.write_text(DATAGRAMS.format(title="second"))
    await_line(process.stderr, "rules reloaded: 1 are in force")
    await_line(process.stderr, "second")
    rule.write_text(DATAGRAMS.format(title="third"))
    process.send_signal(signal.SIGHUP)
    await_line(process.stderr, "third")
    stop.touch()
    output, errors = process.communicate(timeout=60)
    assert process.returncode == 0, errors
    titles = [json.loads(line)["rule"]["title"] for line in alerts.read_text().splitlines()]
    assert len(titles) == int(output)
    assert titles == sorted(titles, key=["first", "second", "third"].index)
    replay = [sys.executable, "-m", "agentwatch", "replay", str(trace), "--alerts", str(again)]
    assert subprocess.run(replay, capture_output=True, check=False).returncode == 0
    assert again.read_bytes() == alerts.read_bytes()


def test_exceptions_spare_whom_they_name_until_they_expire(rules: Path, tmp_path: Path) -> None:
    text = "exceptions: [{{rule: '{id}', agent: spared, reason: ours, expires: {expires}}}]"
    name = "8a1c7a52-6d8c-4c0e-9f6b-0f6d3c8e5a11"
    for expires, alerts in (("2099-01-01", 0), ("2001-01-01", 1)):
        exceptions = tmp_path / "exceptions.yml"
        exceptions.write_text(text.format(id=name, expires=expires))
        under = ["--rules", str(rules), "--exceptions", str(exceptions)]
        trace = tmp_path / expires
        options = [*under, "--name", "spared", "--json", "--record", trace]
        watched = run(*options, "--", PYTHON, "-c", CONNECT)
        assert (watched.returncode, len(watched.stdout.splitlines())) == (0, alerts)
        for other in ([], under):  # as recorded, and as if they were other rules
            replay = [sys.executable, "-m", "agentwatch", "replay", str(trace), *other]
            done = subprocess.run(replay, capture_output=True, check=False)
            assert done.returncode == 0, done.stderr
            assert len(done.stdout.splitlines()) == alerts


def test_lost_events_are_said_at_once_and_fail_a_strict_run() -> None:
    flood = 'echo go; "$1" udp-connect 0 0.5 >/dev/null; echo done; read rest'
    process = subprocess.Popen(
        [
            sys.executable,
            "-m",
            "agentwatch",
            "run",
            "--strict",
            "--",
            "sh",
            "-c",
            flood,
            "sh",
            compiled("flood"),
        ],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    await_line(process.stdout, "go")
    process.send_signal(signal.SIGSTOP)
    await_line(process.stdout, "done")
    process.send_signal(signal.SIGCONT)
    await_line(process.stderr, "events lost")  # while it runs
    _, errors = process.communicate("rest\n", timeout=60)
    assert process.returncode == 6
    assert re.search(r"records, \d+ alerts, \d+ events lost", errors)


COUNT = """
import itertools, socket, time
for port in itertools.count(1024):
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as one:
        one.connect(("127.0.0.1", port))
    print(port, flush=True)
    time.sleep(0.002)
"""


def test_trace_of_a_killed_recorder_verifies_to_its_last_moments(tmp_path: Path) -> None:
    trace = tmp_path / "trace"
    process = begin("--record", trace, "--", PYTHON, "-c", COUNT)
    assert process.stdout is not None
    said = [(time.monotonic(), int(line)) for line, _ in zip(process.stdout, range(600), strict=False)]
    process.kill()
    killed = time.monotonic()
    process.communicate(timeout=30)
    verify = [sys.executable, "-m", "agentwatch", "trace", "verify", "--json", str(trace)]
    done = subprocess.run(verify, capture_output=True, text=True, check=False)
    assert done.returncode == 5
    assert {damage["kind"] for damage in json.loads(done.stdout)["damage"]} <= {"unfinished", "torn"}
    # The last 200 ms may be missing; a busy machine takes a little to write.
    kept = {port for moment, port in said if moment < killed - 0.5}
    assert len(kept) > 50
    assert kept <= set(_connects(trace))


def _connects(trace: Path) -> Iterator[int]:
    with TraceReader(trace) as reader:
        for batches in reader:
            for batch in batches:
                if batch.kind is BatchKind.SLOTS:
                    rows = decode.slots(batch.data)
                    yield from (decode.unpack(row)[4] for row in rows if row[decode.TYPE] == Type.CONNECT)


def test_markers_are_on_alerts_and_in_a_signed_trace(rules: Path, tmp_path: Path) -> None:
    key, trace = tmp_path / "key.pem", tmp_path / "run.trace"
    subprocess.run(["openssl", "genpkey", "-algorithm", "ed25519", "-out", key], check=True)
    options = ["--rules", rules, "--json", "--record", trace, "--sign", key, "--mark", "episode=3"]
    environment = {**os.environ, "AGENTWATCH_MARKERS": "run=7,episode=2"}
    done = run(*options, "--", PYTHON, "-c", CONNECT, env=environment)
    (alert, *_) = map(json.loads, done.stdout.splitlines())
    assert alert["markers"] == {"episode": "3", "run": "7"}
    checked = subprocess.run(
        [sys.executable, "-m", "agentwatch", "trace", "verify", trace],
        capture_output=True,
        text=True,
        check=True,
    )
    assert "signed by" in checked.stdout
    assert run("--mark", "7", "--", "true").returncode == 2
