"""The demonstration as a user sees it, from its command to what it leaves behind."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

from agentwatch.demo.__main__ import conclusion
from tests.lab import needs_root

NOBODY = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"]
DEMO = [sys.executable, "-m", "agentwatch.demo"]


def alert(title: str, acted: str, response: str = "pause") -> dict[str, object]:
    return {"rule": {"title": title}, "response": response, "acted": acted, "latency_us": 181.2}


def test_conclusion_tells_what_was_done_and_how_fast() -> None:
    alerts = [alert("Reverse tunnel", "pause"), alert("Mining\x1b[2J", "none")]
    text = conclusion(alerts, Path("/tmp/a trace"), Path("/tmp/alerts"))
    assert text.splitlines()[:3] == [
        "2 alerts, in /tmp/alerts",
        "  Reverse tunnel: pause, carried out 0.18 ms after the decisive record",
        "  Mining\\x1b[2J: pause",
    ]
    assert text.endswith("agentwatch replay '/tmp/a trace'")


def test_conclusion_tells_when_less_was_done_than_was_decided() -> None:
    text = conclusion([alert("Mining", "pause", "kill")], Path("/tmp/trace"), Path("/tmp/alerts"))
    assert "  Mining: pause (decided: kill), carried out 0.18 ms after the decisive record" in text


@needs_root
def test_without_root_it_says_so_and_makes_nothing() -> None:
    before = set(Path("/tmp").iterdir())
    done = subprocess.run([*NOBODY, *DEMO], capture_output=True, text=True, check=False)
    assert done.returncode == 4
    assert "needs root" in done.stderr
    assert {path for path in set(Path("/tmp").iterdir()) - before if "agentwatch-demo" in path.name} == set()


@needs_root
def test_both_misdeeds_are_caught_and_honest_work_is_not(tmp_path: Path) -> None:
    done = subprocess.run(
        [*DEMO, "--out", str(tmp_path)],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        env={**os.environ, "SUDO_UID": "65534", "SUDO_GID": "65534"},
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "The outside came in" in done.stdout
    assert "The pool gave me jobs" in done.stdout
    alerts = [json.loads(line) for line in (tmp_path / "alerts.ndjson").read_text().splitlines()]
    culprits = {culprit(alert["process"]["argv"]) for alert in alerts if alert["acted"] == "pause"}
    assert culprits == {"tunnel", "mining"}
    assert (tmp_path / "demo.trace").stat().st_uid == 65534


def culprit(argv: list[str]) -> str:
    """Which misdeed a command of the demonstration belongs to; itself if to none."""
    if "train.py" in argv:
        return "mining"
    return "tunnel" if argv[0] == "ssh" else " ".join(argv)
