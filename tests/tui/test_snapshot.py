"""What of a session's state reaches a view, and in which words."""

from __future__ import annotations

from typing import Any

from agentwatch.enrich.state import State
from agentwatch.tui.live import FlowRow, Snapshot
from agentwatch.tui.snapshot import ALERTS_KEPT, Snapshots

KEY = (100, 7)


def snapshot(state: State) -> Snapshot:
    return Snapshots("agent", "monitor", state, "ends the agent").make("running", 0)


def flow(**values: Any) -> FlowRow:
    """How a TCP flow is shown that has these attributes."""
    state = State()
    found = state.flows.update((1, bytes(16), bytes(16), 0, 0, 2, 1, 6, 0), KEY, 1, 0)
    for name, value in values.items():
        setattr(found, name, value)
    return snapshot(state).flows[0]


def command(*argv: str, exe: str = "") -> str:
    """How a process with these arguments is shown."""
    state = State()
    found = state.processes.get(*KEY, 1)
    found.argv, found.exe = argv, exe
    return snapshot(state).processes[0].command


def alert(number: int) -> dict[str, Any]:
    return {
        "time": "2026-01-02T03:04:05.000000006Z",
        "rule": {"title": f"alert {number}", "level": "low"},
        "process": {"pid": 100, "exe": "/bin/x"},
        "flow": None,
        "verdict": "match",
        "acted": "none",
        "latency_us": None,
        "completeness": {"state": "complete"},
    }


def test_flow_is_shown_by_where_it_goes_or_else_where_it_is() -> None:
    there = {"remote": "10.0.0.1", "remote_port": 80, "local": "10.0.0.2", "local_port": 5}
    assert flow(**there).remote == "10.0.0.1:80"
    assert flow(local="::1", local_port=5).remote == "at [::1]:5"
    assert flow().remote == "-"


def test_domain_that_is_only_the_address_is_not_repeated() -> None:
    assert flow(remote="10.0.0.1", domain="10.0.0.1").domain == ""
    assert flow(remote="10.0.0.1", domain="host.example").domain == "host.example"


def test_long_path_of_a_program_leaves_room_for_its_arguments() -> None:
    assert command("/opt/tools/versions/3.11/bin/python", "-m", "work") == "/opt/…/python -m work"
    assert command("/usr/bin/python3", "-m", "work") == "/usr/bin/python3 -m work"
    assert command(exe="/bin/true") == "/bin/true"


def test_alerts_beyond_those_kept_are_counted() -> None:
    snapshots = Snapshots("agent", "monitor", State(), "ends the agent")
    for number in range(ALERTS_KEPT + 3):
        snapshots.add_alert(alert(number))
    made = snapshots.make("running", 0)
    assert (len(made.alerts), made.more_alerts) == (ALERTS_KEPT, 3)
    assert made.alerts[-1].title == f"alert {ALERTS_KEPT + 2}"
    assert made.alerts[-1].time == "03:04:05Z"


def test_use_of_gpus_is_shown_by_process_and_for_the_agent() -> None:
    state = State()
    process = state.processes.get(*KEY, 1)
    state.gpus.appear("GPU-1", "0", "H100", "", -1, 0, "550")
    state.gpus.sample(1, "GPU-1", 97, 1, 0, 0, 0, 0, 0, 0, 1)
    state.gpus.use(1, process, "GPU-1", 97, 1, 0, 0, 8_100_000_000)
    made = snapshot(state)
    assert made.processes[0].gpu == made.gpu == "gpu 97 % 8.1 GB"
    state.gpus.go("GPU-1", "GPU is lost")
    assert snapshot(state).gpu == ""


def test_mig_instance_is_shown_by_its_number_and_without_an_unknown_share() -> None:
    state = State()
    process = state.processes.get(*KEY, 1)
    for number in (0, 1):
        state.gpus.appear(f"MIG-{number}", f"0/{number}", "", "GPU-1", number, 0, "550")
        state.gpus.use(0, process, f"MIG-{number}", -1, -1, -1, -1, 2_000_000_000)
    assert snapshot(state).processes[0].gpu == "gpu 0/0,0/1 4.0 GB"
