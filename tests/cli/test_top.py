"""`agentwatch top` from the shell: what it refuses, and that nobody else pays for it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from click.testing import CliRunner

from agentwatch.cli.main import cli

IMPORTS = """
import sys
import agentwatch.cli.main, agentwatch.cli.top, agentwatch.cli.control, agentwatch.cli.run
import agentwatch.daemon.core, agentwatch.daemon.front
import agentwatch.tui.live, agentwatch.tui.frame
print([name for name in sys.modules if name.partition(".")[0] == "textual"])
"""


def test_no_other_verb_and_no_daemon_loads_textual() -> None:
    done = subprocess.run([sys.executable, "-c", IMPORTS], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_without_a_terminal_it_points_elsewhere() -> None:
    done = CliRunner().invoke(cli, ["top"])
    assert done.exit_code == 1
    assert "needs a terminal" in done.output


def test_rules_go_with_a_recording(tmp_path: Path) -> None:
    done = CliRunner().invoke(cli, ["top", "--rules", str(tmp_path)])
    assert done.exit_code == 2
    assert "--rules goes with --replay" in done.output
