"""What `agentwatch trace` tells of traces that are whole, damaged, foreign or hostile."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from agentwatch.cli.exits import Exit
from agentwatch.cli.main import cli
from agentwatch.trace.sign import KeyFileSigner, can_sign
from agentwatch.trace.store import Rotation, segment_paths
from agentwatch.trace.writer import TraceWriter
from tests.recordings import connections, record, rules_for
from tests.trace.samples import header, rounds

ROUNDS = rounds(40)
DAY = "2023-11-15T01:00:00."


def _recorded(path: Path, **options: object) -> Path:
    changes = options.pop("changes", {})
    with TraceWriter(path, header(**changes), **options) as writer:  # type: ignore[arg-type]
        for batches in ROUNDS:
            writer.append(batches)
            if options:
                assert writer.flush()
    return path


def _run(*arguments: str | Path, stdin: bytes = b"") -> Result:
    return CliRunner().invoke(cli, ["trace", *map(str, arguments)], input=stdin)


@pytest.fixture
def trace(tmp_path: Path) -> Path:
    return _recorded(tmp_path / "run.awt")


def test_info_names_what_an_investigator_asks_first(trace: Path) -> None:
    done = _run("info", trace)
    assert done.exit_code == Exit.FINE
    lines = dict(line.split(None, 1) for line in done.output.splitlines())
    assert lines["from"].startswith(DAY) and lines["to"].startswith(DAY)
    assert lines["host"] == "host, kernel 6.18.0, boot 6b1a2a3c-0000-4000-8000-000000000001"
    assert lines["agents"] == "demo (enforce)"
    assert lines["command"] == "python3 agent.py"
    assert "in 40 rounds" in lines["holds"]
    assert lines["damage"] == "none"


def test_info_as_json_is_one_object_a_trace(trace: Path) -> None:
    done = _run("info", "--json", trace, trace)
    plain, _ = map(json.loads, done.output.splitlines())
    assert plain["whole"] is True and plain["closed"] is True and plain["rounds"] == 40
    assert plain["header"]["boot_id"] == "6b1a2a3c-0000-4000-8000-000000000001"
    assert plain["stored_bytes"] == trace.stat().st_size
    assert plain["damage"] == []


def test_nothing_in_a_trace_reaches_the_terminal_raw(tmp_path: Path) -> None:
    path = _recorded(tmp_path / "x.awt", changes={"agents": ("\x1b[2J",), "command": ("a\nb\x07\udcff",)})
    done = _run("info", path)
    assert done.exit_code == Exit.FINE
    assert not set(done.output) & set("\x1b\x07")
    assert r"\x1b[2J" in done.output
    assert json.loads(_run("info", "--json", path).output)["header"]["agents"] == ["\x1b[2J"]


def test_verify_says_that_a_trace_is_whole(trace: Path) -> None:
    done = _run("verify", trace)
    assert done.exit_code == Exit.FINE
    assert done.output.startswith(f"{trace}: intact: ")
    assert done.output.rstrip().endswith("not signed")


def test_verify_says_what_a_damaged_trace_lacks(trace: Path) -> None:
    data = trace.read_bytes()
    trace.write_bytes(data[:-1])
    for verb in ("verify", "info"):
        done = _run(verb, trace)
        assert done.exit_code == Exit.DAMAGED
        assert "torn at byte" in done.output and "unfinished at byte" in done.output
    plain = json.loads(_run("verify", "--json", trace).output)
    assert [damage["kind"] for damage in plain["damage"]] == ["torn", "unfinished"]


def test_one_damaged_trace_among_others_decides(trace: Path, tmp_path: Path) -> None:
    other = tmp_path / "other.awt"
    other.write_bytes(trace.read_bytes()[:-1])
    done = _run("verify", other, trace)
    assert done.exit_code == Exit.DAMAGED
    assert f"{trace}: intact" in done.output and f"{other}: DAMAGED" in done.output


@pytest.mark.parametrize("content", [b"", b"not a trace", b"\x89AWT\r\n\x1a\n" + bytes(200)])
def test_what_is_no_trace_is_damaged_and_no_traceback(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "x"
    path.write_bytes(content)
    for verb in ("verify", "info"):
        done = _run(verb, path)
        assert done.exit_code == Exit.DAMAGED
        assert isinstance(done.exception, SystemExit)


def test_standard_input(trace: Path) -> None:
    command = [sys.executable, "-m", "agentwatch", "trace", "verify", "-"]
    done = subprocess.run(command, input=trace.read_bytes(), capture_output=True, check=True)
    assert done.stdout.startswith(b"-: intact: ")


def test_the_files_of_a_recording_follow_each_other(tmp_path: Path) -> None:
    path = _recorded(tmp_path / "run.awt", rotation=Rotation(max_bytes=6000), sync=b"12345678")
    files = segment_paths(path)
    assert len(files) > 2
    assert _run("verify", *files).exit_code == Exit.FINE
    other = _recorded(tmp_path / "other.awt", rotation=Rotation(max_bytes=5000), sync=b"12345678")
    done = _run("verify", files[0], segment_paths(other)[1])
    assert done.exit_code == Exit.DAMAGED
    assert "does not follow" in done.output


@pytest.mark.skipif(not can_sign(), reason="the cryptography package is not installed")
def test_a_signature_is_checked_against_the_key_given(tmp_path: Path) -> None:
    keys = [_key(tmp_path / name) for name in ("ours", "theirs")]
    path = _recorded(tmp_path / "run.awt", signer=KeyFileSigner(keys[0].read_bytes()))
    done = _run("verify", path, "--key", f"{keys[0]}.pub")
    assert done.exit_code == Exit.FINE and "signed by" in done.output
    done = _run("verify", path, "--key", f"{keys[1]}.pub")
    assert done.exit_code == Exit.DAMAGED and "not good" in done.output
    unsigned = _recorded(tmp_path / "unsigned.awt")
    assert _run("verify", unsigned, "--key", f"{keys[0]}.pub").exit_code == Exit.DAMAGED
    assert _run("verify", path, "--key", path).exit_code == Exit.FAILURE


def _key(path: Path) -> Path:
    subprocess.run(["openssl", "genpkey", "-algorithm", "ed25519", "-out", path], check=True)
    subprocess.run(["openssl", "pkey", "-in", path, "-pubout", "-out", f"{path}.pub"], check=True)
    return path


def test_cut_and_merge_make_traces_that_verify(tmp_path: Path) -> None:
    rules = rules_for(tmp_path)
    whole = record(tmp_path / "run.awt", connections(5), rules, changes={"agents": ("demo",)})
    key = _key(tmp_path / "key.pem")
    done = _run(
        "cut", whole, "--alert", "2", "--before", "0", "--after", "1", "-o", tmp_path / "a", "--sign", key
    )
    assert done.exit_code == 0, done.output
    assert _run("verify", tmp_path / "a").exit_code == 0
    told = _run("info", tmp_path / "a").output
    assert "cut of    run.awt" in told and "signed by" in told
    replayed = CliRunner().invoke(cli, ["replay", str(tmp_path / "a")])
    assert len(replayed.stdout.splitlines()) == 2  # the second and the third, a second later
    assert _run("cut", whole, "--alert", "9", "-o", tmp_path / "b").exit_code == 1
    assert _run("cut", whole, "--from", "soon", "-o", tmp_path / "b").exit_code == 2
    assert _run("cut", whole, "-o", "-").exit_code == 2
    assert _run("cut", whole, "--to", "3", "-o", tmp_path / "a").exit_code == 1
    assert _run("merge", whole, whole, "-o", tmp_path / "b").exit_code == 1
    assert _run("merge", whole, "-o", tmp_path / "b").exit_code == 0
    assert "merge of  run.awt" in _run("info", tmp_path / "b").output
    whole.write_bytes(whole.read_bytes()[:-30])
    assert _run("cut", whole, "--agent", "demo", "-o", tmp_path / "c").exit_code == Exit.DAMAGED
