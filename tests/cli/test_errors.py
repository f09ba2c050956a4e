"""Files that are not there, may not be read, or are something else: what, which, once, and what to do."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import zstandard
from click.testing import CliRunner

from agentwatch.cli.main import cli
from agentwatch.trace.sign import can_sign
from tests.forensics.samples import DEMO
from tests.lab import needs_root
from tests.trace.samples import frames, header_body, plain_body, rounds, rounds_body, trace

VERBS = {
    "replay": ["replay", "{}"],
    "info": ["trace", "info", "{}"],
    "verify": ["trace", "verify", "{}"],
    "export": ["trace", "export", "--format", "jsonl", "-o", "-", "{}"],
    "cut": ["trace", "cut", "{}", "--alert", "1", "-o", "new.trace"],
    "merge": ["trace", "merge", str(DEMO), "{}", "-o", "new.trace"],
    "blame": ["blame", "{}"],
    "report": ["report", "{}", "-o", "new.html"],
    "query": ["query", "select 1 from events", "{}"],
    "explain": ["rules", "explain", "alerts", "--trace", "{}"],
}
WORDS = {
    "x.gone": ("no such file", "does not exist"),
    "x.folder": ("a folder", "is a directory", "holds no Parquet files"),
    "x.empty": ("its recorder ended before it wrote anything",),
    "x.junk": ("not an agentwatch trace",),
}


def without_usage(text: str) -> str:
    return "\n".join(line for line in text.splitlines() if not line.startswith(("Usage:", "Try ")))


def said(*arguments: str, cwd: Path) -> tuple[int, str]:
    """The exit code, and what stands on standard error besides the usage."""
    before = Path.cwd()
    os.chdir(cwd)
    try:
        done = CliRunner().invoke(cli, arguments)
    finally:
        os.chdir(before)
    assert done.exception is None or isinstance(done.exception, SystemExit), done.exception
    return done.exit_code, without_usage(done.stderr)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """With a file of each kind, and the alerts of a trace."""
    (tmp_path / "x.folder").mkdir()
    (tmp_path / "x.empty").touch()
    (tmp_path / "x.junk").write_bytes(b"junk")
    (tmp_path / "x.pem").write_text("-----BEGIN PUBLIC KEY-----\njunk\n-----END PUBLIC KEY-----\n")
    assert said("replay", str(DEMO), "--alerts", "alerts", cwd=tmp_path)[0] == 0
    return tmp_path


@pytest.mark.parametrize("verb", VERBS)
def test_a_trace_that_is_none(folder: Path, verb: str) -> None:
    for name, words in WORDS.items():
        code, text = said(*(word.format(name) for word in VERBS[verb]), cwd=folder)
        assert code in (1, 2, 5), (name, text)
        line = next(line for line in text.splitlines() if name in line)
        assert line.count(name) == 1, line
        assert any(word in text for word in words), text
        assert "Traceback" not in text and "Errno" not in text
    assert not [*folder.glob("new*")]


@needs_root
def test_a_trace_of_somebody_else(folder: Path) -> None:
    """Who is not root meets the daemon's traces."""
    folder.chmod(0o755)
    (folder / "locked").touch(0o600)
    for parent in folder.parents[:2]:
        parent.chmod(0o755)
    for verb in ("replay", "cut", "query"):
        command = [sys.executable, "-m", "agentwatch", *(word.format("locked") for word in VERBS[verb])]
        environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2]), "HOME": str(folder)}
        done = subprocess.run(
            command, cwd=folder, env=environment, capture_output=True, text=True, check=False,
            user=65534, group=65534,
        )  # fmt: skip
        text = without_usage(done.stderr)
        assert done.returncode in (1, 2, 5) and "Traceback" not in text
        line = next(line for line in text.splitlines() if "locked" in line)
        assert line.count("locked") == 1 and ("read" in line), line


@pytest.mark.skipif(not can_sign(), reason="needs the cryptography package")
@pytest.mark.parametrize("name", ["x.empty", "x.junk", "x.pem"])
def test_a_key_that_is_none(folder: Path, name: str) -> None:
    _, text = said("trace", "verify", "--key", name, str(DEMO), cwd=folder)
    assert text == f"Error: {name}: it is no public key in PEM, as openssl pkey -pubout writes it"
    _, text = said("trace", "cut", str(DEMO), "--alert", "1", "-o", "new", "--sign", name, cwd=folder)
    assert text == (
        f"Error: {name}: signing key is no unencrypted PEM: make one with openssl genpkey -algorithm ed25519"
    )


def test_rules_of_which_there_are_none(folder: Path) -> None:
    for name in ("x.empty", "x.folder"):
        code, text = said("replay", "--rules", name, str(DEMO), cwd=folder)
        assert code == 1
        assert text.startswith(f"Error: there are no rules in {name}: name files of Sigma rules")


@pytest.mark.parametrize("where", ["gone/new", "x.folder"])
def test_a_place_where_nothing_can_be_written(folder: Path, where: str) -> None:
    for arguments in (
        ["replay", str(DEMO), "--alerts", where],
        ["trace", "export", "--format", "jsonl", str(DEMO), "-o", where],
        ["trace", "cut", str(DEMO), "--alert", "1", "-o", where],
        ["report", str(DEMO), "-o", where],
        ["query", "select 1 from events", str(DEMO), "-o", where],
    ):
        code, text = said(*arguments, cwd=folder)
        assert code == 1 and "Traceback" not in text and "Errno" not in text
        assert text.splitlines()[-1].count(where) == 1, text


def hostile() -> dict[str, tuple[bytes, str]]:
    """Traces made by an enemy, and what is to be said of each."""
    body = rounds_body(rounds(3))
    pieces = frames(header_body(), body, body)
    whole = b"".join(pieces)
    claim = bytearray(pieces[2])
    claim[12:16] = (0xFFFF_FFFF).to_bytes(4, "little")  # bytes of payload as stored
    size = 1 << 28
    packer = zstandard.ZstdCompressor().compressobj(size=size)
    bomb = packer.compress(bytes(size)) + packer.flush()
    return {
        "version": (whole[:8] + (2).to_bytes(4, "little") + whole[12:], "version 2"),
        "bomb": (trace(replace(body, payload=bomb, plain_size=size)), "corrupt"),
        "bomb that lies": (trace(replace(body, payload=bomb, plain_size=1000)), "malformed"),
        "length": (b"".join(pieces[:2]) + bytes(claim), "corrupt"),
        "ring": (whole + b"".join(pieces[2:]) * 20, "reordered"),
        "itself": (whole * 2, "reordered"),
        "type": (trace(body, plain_body(77, b"x")), "unknown"),
    }


@pytest.mark.parametrize("verb", ["replay", "info", "verify", "blame", "report", "export"])
def test_a_hostile_trace_ends_in_a_sentence(tmp_path: Path, verb: str) -> None:
    for name, (data, words) in hostile().items():
        (tmp_path / "x.awt").write_bytes(data)
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        code, text = said(*(word.format("x.awt") for word in VERBS[verb]), cwd=tmp_path)
        assert code == 5, (name, text)
        if verb not in ("info", "verify") or name == "version":  # which say it on standard output
            assert words in text, (name, text)
        assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200 << 10, name
