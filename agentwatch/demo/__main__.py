"""The demonstration: `agentwatch run` over an agent that misbehaves, on a network made for it.

`python -m agentwatch.demo [--out DIR]`. Makes the hosts, runs the command that a user would
run, removes the hosts, and says where the trace lies. Needs root.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import signal
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from agentwatch.demo import materials, pool, sshd
from agentwatch.demo.agent import STEPS, Task
from agentwatch.demo.hosts import PYTHON, Lab, LabError
from agentwatch.tui.text import printable

_ACTED = ("pause", "kill")


def prepare(lab: Lab, steps: Sequence[str] = tuple(STEPS)) -> Path:
    """Make hosts and materials in `lab` and write the agent's task; return the task's path."""
    web = lab.start("web", [*PYTHON, "-m", "agentwatch.demo.web"])
    miners = lab.start("pool", [*PYTHON, "-m", "agentwatch.demo.pool"])
    account = sshd.start(lab)
    wheel = materials.make_wheel(lab.work / "wheels")
    task = Task(
        folder=str(lab.work / "agent"),
        repository=str(materials.make_repository(lab.work)),
        wheels=str(wheel.parent),
        package=wheel.name.split("-")[0],
        page=f"http://{web.ipv4}/",
        ssh=[*account.options(), f"root@{account.host.ipv4}"],
        forward_port=sshd.VISITED_PORT,
        pool=(miners.ipv4, pool.PORT),
        steps=list(steps),
    )
    path = lab.work / "task.json"
    task.write(path)
    return path


def agent_command(task: Path) -> list[str]:
    """The command that runs the demonstration agent on a task."""
    return [*PYTHON, "-m", "agentwatch.demo.agent", str(task)]


def _watch(lab: Lab, trace: Path, alerts: Path) -> int:
    """Run `agentwatch run` over the agent; return its exit code (negative: died by that signal)."""
    options = ["--name", "demo", "--record", str(trace), "--alerts", str(alerts)]
    # Both misdeeds are to be seen: a killed agent would have none left, and a frozen one goes on where
    # nobody watches who could be asked.
    options += ["--mode", "enforce", "--max-response", "pause"]
    watched = sys.stdin.isatty() and sys.stderr.isatty()
    options += ["--live"] if watched else ["--on-pause", "resume"]
    command = [*PYTHON, "-m", "agentwatch", "run", "--alone", *options, "--"]
    process = subprocess.Popen(
        lab.inside([*command, *agent_command(prepare(lab))]), env=materials.clean_environment()
    )
    # Ctrl-C reaches the whole foreground group: `run` ends its agent, then the hosts go.
    signal.signal(signal.SIGINT, lambda *_: None)
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda *_: process.terminate())
    return process.wait()


def _read_alerts(path: Path) -> list[dict[str, Any]]:
    if not path.exists():
        return []
    return [json.loads(line) for line in path.read_text().splitlines()]


def _give_to_caller(folder: Path) -> None:
    """Under sudo, hand the results to who called: replaying them needs no root."""
    if "SUDO_UID" in os.environ and "SUDO_GID" in os.environ:
        owner = int(os.environ["SUDO_UID"]), int(os.environ["SUDO_GID"])
        for path in [folder, *folder.iterdir()]:
            os.chown(path, *owner)


def conclusion(alerts: list[dict[str, Any]], trace: Path, alerts_file: Path) -> str:
    """What was found and how fast, where it lies, and how to see it again."""
    lines = [f"{len(alerts)} alerts, in {alerts_file}"]
    for alert in alerts:
        decided, acted = alert["response"], alert["acted"]
        words = decided
        if acted in _ACTED:
            words = acted if acted == decided else f"{acted} (decided: {decided})"
            words += f", carried out {alert['latency_us'] / 1000:.2f} ms after the decisive record"
        lines.append(printable(f"  {alert['rule']['title']}: {words}"))
    lines.append(f"replay: {shlex.join([_program(), 'replay', str(trace)])}")
    return "\n".join(lines)


def _program() -> str:
    """The agentwatch command beside this interpreter, or the one on the path."""
    script = Path(sys.executable).with_name("agentwatch")
    return str(script) if script.exists() else "agentwatch"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the demonstration; return 0 when the agent was caught."""
    parser = argparse.ArgumentParser(prog="agentwatch.demo", description="Watch an agent that misbehaves.")
    parser.add_argument("--out", type=Path, help="folder for the trace and the alerts (default: a new one)")
    options = parser.parse_args(arguments)
    if os.geteuid() != 0:
        print("the demonstration needs root: it loads eBPF and makes network namespaces", file=sys.stderr)
        return 4
    out = options.out or Path(tempfile.mkdtemp(prefix="agentwatch-demo-"))
    out.mkdir(parents=True, exist_ok=True)
    trace, alerts_file = out / "demo.trace", out / "alerts.ndjson"
    try:
        with Lab() as lab:
            code = _watch(lab, trace, alerts_file)
    except LabError as error:
        print(f"the demonstration could not be set up: {error}", file=sys.stderr)
        return 1
    _give_to_caller(out)
    alerts = _read_alerts(alerts_file)
    print(f"\n{conclusion(alerts, trace, alerts_file)}")
    killed = 128 + signal.SIGKILL  # the user's choice for a frozen agent
    return 0 if alerts and code in (0, killed) else code or 1


if __name__ == "__main__":
    sys.exit(main())
