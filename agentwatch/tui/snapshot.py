"""From the state of a session to what a view shows."""

from __future__ import annotations

import signal
import time
from collections import deque
from collections.abc import Iterable, Sequence
from typing import Any

from agentwatch.enrich.flows import Flow
from agentwatch.enrich.gpus import UNKNOWN, GpuUse
from agentwatch.enrich.processes import Key, Process
from agentwatch.enrich.state import State
from agentwatch.sinks.alerts import endpoint
from agentwatch.tui import live
from agentwatch.tui.live import AlertRow, FlowRow, ProcessRow, Snapshot
from agentwatch.tui.text import byte_count, short_program

PROCESSES = 400  # looked at for a snapshot; views show fewer
ALERTS_KEPT = 200
OUTPUT_KEPT = 200


def ended_words(process: Process) -> str:
    """How a process ended, in a word or two; empty while it runs."""
    if process.status is None:
        return ""
    if number := process.status & 0x7F:
        try:
            return signal.Signals(number).name
        except ValueError:
            return f"signal {number}"
    return f"exit {process.status >> 8 & 0xFF}"


def _command(process: Process) -> str:
    """The command line; of the program's path, where it is long, the beginning and the end."""
    if not process.argv:
        return process.exe or "?"
    program, *arguments = process.argv
    return " ".join((short_program(program), *arguments))


def _tree(processes: Sequence[Process]) -> Iterable[tuple[Process, int]]:
    """Processes with their depth, parents before children."""
    known = {process.key for process in processes}
    children: dict[Key | None, list[Process]] = {}
    for process in processes:
        parent = process.parent if process.parent in known and process.parent != process.key else None
        children.setdefault(parent, []).append(process)
    stack = [(process, 0) for process in reversed(children.get(None, []))]
    shown: set[Key] = set()
    while stack:
        process, depth = stack.pop()
        if process.key in shown:
            continue
        shown.add(process.key)
        yield process, depth
        stack += [(child, depth + 1) for child in reversed(children.get(process.key, []))]


def gpu_words(uses: Sequence[GpuUse]) -> str:
    """What is used of GPUs, in a few words: `gpu 97 % 8.1 GB`; an instance's number before it."""
    if not uses:
        return ""
    labels = sorted({use.gpu.label for use in uses if use.gpu.parent or len(uses) > 1})
    shares = [use.sm for use in uses if use.sm != UNKNOWN]
    words = ["gpu", *([",".join(labels)] if labels else []), *([f"{sum(shares)} %"] if shares else [])]
    return " ".join((*words, byte_count(sum(use.memory for use in uses))))


def _flow_row(flow: Flow, marked: bool) -> FlowRow:
    remote = endpoint(flow.remote, flow.remote_port)
    local = endpoint(flow.local, flow.local_port)
    protocol = flow.application or flow.transport
    return FlowRow(
        flow.owner[0],
        protocol,
        remote or (f"at {local}" if local else "-"),
        flow.bytes_out,
        flow.bytes_in,
        "" if flow.domain == flow.remote else flow.domain,
        "closed" if flow.closed else "",
        marked,
    )


class Snapshots:
    """Collects alerts and output lines, and makes snapshots of a session on demand."""

    def __init__(self, agent: str, mode: str, state: State, on_signal: str) -> None:
        self._agent, self._mode, self._state, self._on_signal = agent, mode, state, on_signal
        self._began = time.monotonic()
        self.alerts: deque[AlertRow] = deque(maxlen=ALERTS_KEPT)
        self._alerts_seen = 0
        self.output: deque[str] = deque(maxlen=OUTPUT_KEPT)
        self._marked_pids: set[int] = set()
        self._marked_flows: set[tuple[int, str | None]] = set()

    def add_alert(self, alert: dict[str, Any]) -> None:
        """A sink of the pipeline."""
        process, flow = alert["process"], alert["flow"]
        name = process["exe"].rpartition("/")[2] or "?"
        subject = f"{name}[{process['pid']}]"
        if flow is not None and flow["remote"]:
            subject += f" {'to' if flow['initiated'] is not False else 'from'} {flow['remote']}"
            self._marked_flows.add((process["pid"], flow["remote"]))
        self._marked_pids.add(process["pid"])
        title = alert["rule"]["title"]
        if alert["verdict"] == "undecided":
            title = f"undecided: {title}"
        self._alerts_seen += 1
        self.alerts.append(
            AlertRow(
                f"{alert['time'][11:19]}Z",
                alert["rule"]["level"],
                title,
                subject,
                alert["acted"],
                alert["latency_us"],
                alert["completeness"]["state"] == "complete",
            )
        )

    def make(self, agent_state: live.State, events: int, *, asking: bool = False) -> Snapshot:
        """What there is to show now."""
        state = self._state
        processes = state.processes.all()[-PROCESSES:]
        flows = state.flows.all()[-PROCESSES:]
        gpu_uses = state.gpus.current()
        return Snapshot(
            agent=self._agent,
            mode=self._mode,
            state=agent_state,
            elapsed_s=time.monotonic() - self._began,
            events=events,
            lost=sum(sum(agent.lost.values()) for agent in state.agents.values()),
            gaps=tuple(f"{probe}: {cost}" for probe, _, cost in state.coverage),
            processes=tuple(
                ProcessRow(
                    process.pid, depth, _command(process), ended_words(process),
                    process.pid in self._marked_pids, gpu_words(gpu_uses.get(process.key, ())),
                )
                for process, depth in _tree(processes)
            ),
            flows=tuple(
                _flow_row(
                    flow, (flow.owner[0], endpoint(flow.remote, flow.remote_port)) in self._marked_flows
                )
                for flow in flows
            ),
            alerts=tuple(self.alerts),
            output=tuple(self.output),
            more_alerts=self._alerts_seen - len(self.alerts),
            asking=asking,
            on_signal=self._on_signal,
            gpu=gpu_words([use for uses in gpu_uses.values() for use in uses]),
        )  # fmt: skip
