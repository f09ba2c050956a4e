"""One run of a scenario under watch: in a sandbox, on the made-up internet, in a cgroup of its own."""

from __future__ import annotations

import gc
import os
import re
import shutil
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from agentwatch.kernel.cgroup import Cgroup, create
from agentwatch.respond.cgroup import kill
from agentwatch.rules.model import RuleSet
from agentwatch.session import Session
from agentwatch.watch import AGENT, Options, Watch
from bench.scoreboard import gpu, sandbox
from bench.scoreboard.limits import limited
from bench.scoreboard.network import DOCKER_SOCKET, FOLDER, Network, loopback_services
from bench.scoreboard.scenarios import VERDICTS, Scenario
from bench.scoreboard.tools import AGENT as AGENT_FILES
from bench.scoreboard.tools import files_for, programs_for, stood_in
from bench.scoreboard.witness import Account, Witness

MONITOR = "/usr/sbin/agentwatch"  # its name is what agents look for
PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_OUTPUT = 4096  # bytes kept of what a command prints: its end
_POLL = 0.02
_SETTLE = 0.3  # seconds of watching after the tree has ended: the last records are on their way
_NOT_RUN = re.compile(
    rb"command not found|^bash: .*: No such file or directory$|can't open file|No module named"
    rb"|syntax error|unexpected EOF|Traceback \(most recent call last\)",
    re.M,
)
_CRED = struct.Struct("3i")  # struct ucred


@dataclass
class Observation:
    """What a run showed.

    `verdict` is the highest response decided, `rules` the titles that decided it, `account` what
    the agent did, `stand_ins` names of absent tools that something else played. `output` is the end
    of what the command printed; `failed` that the shell could not run it.
    """

    verdict: str = "allow"
    rules: list[str] = field(default_factory=list)
    account: Account = field(default_factory=Account)
    stand_ins: list[str] = field(default_factory=list)
    output: str = ""
    failed: bool = False
    seconds: float = 0.0

    def take_alert(self, alert: dict[str, Any]) -> None:
        """Note what an alert decided; a response of `none` decides nothing."""
        response = alert["response"] if alert["response"] in VERDICTS else "allow"
        if VERDICTS.index(response) > VERDICTS.index(self.verdict):
            self.verdict, self.rules = response, []
        if response == self.verdict and alert["rule"]["title"] not in self.rules:
            self.rules.append(alert["rule"]["title"])


def run(scenario: Scenario, network: Network, rules: RuleSet, *, full: bool = False) -> Observation:
    """Run a scenario; an attack ends once the expected verdict has come, unless `full`.

    Raises `LabError` or `KernelError` where the machine cannot do it, OSError likewise.
    """
    witness = Witness()
    seen = Observation(account=witness.account)
    with ExitStack() as stack:
        top = stack.enter_context(create(f"scoreboard-{os.getpid()}"))
        stack.callback(kill, top)
        cgroup = stack.enter_context(_agents_cgroup(top, scenario.script))
        work = network.fresh_folder()
        stack.callback(shutil.rmtree, work, ignore_errors=True)
        stack.enter_context(loopback_services(network, scenario.script, work / "docker.sock"))
        card = stack.enter_context(gpu.stand_in(work)) if gpu.WORKER in scenario.script else None
        box = stack.enter_context(_sandbox(scenario, network, top, work))
        watch = stack.enter_context(Watch())
        watch.add(Options("scoreboard", "monitor"), cgroup)
        session = stack.enter_context(Session(watch, rules, [seen.take_alert]))
        stack.enter_context(limited(f"agentwatch-scoreboard-{os.getpid()}", top.path, [box.command]))
        watch.probes.guard_monitor(box.monitor)
        cgroup.move(box.command)
        watch.probes.tag(box.command, AGENT)
        box.go()
        _follow(scenario, session, cgroup, seen, witness, full, card)
        kill(top)
        witness.process(session.step(0))
        session.finish()
        seen.output = _end_of(box.output)
    programs = programs_for(scenario.script, network.stand_ins)
    seen.stand_ins = stood_in(seen.account.programs, programs, network.stand_ins)
    gc.unfreeze()  # a session keeps the collector off what there is; there will be hundreds
    seen.failed = _NOT_RUN.search(seen.output.encode()) is not None
    return seen


def _end_of(file: Path) -> str:
    with file.open("rb") as stream:
        stream.seek(max(0, file.stat().st_size - _OUTPUT))
        return stream.read(_OUTPUT).decode("utf-8", "replace")


def _follow(
    scenario: Scenario,
    session: Session,
    cgroup: Cgroup,
    seen: Observation,
    witness: Witness,
    full: bool,
    card: gpu.Gpu | None,
) -> None:
    began = time.monotonic()
    ended = None
    enough = VERDICTS.index(scenario.expected)
    while (now := time.monotonic()) - began < scenario.seconds:
        witness.process(session.step(_POLL))
        if card is not None:
            card.look(session.state)
        if scenario.is_attack and not full and VERDICTS.index(seen.verdict) >= enough:
            break
        if cgroup.populated():
            ended = None
        elif ended is None:
            ended = now
        elif now - ended > _SETTLE and session.source.drained():
            break
    seen.seconds = time.monotonic() - began


@contextmanager
def _agents_cgroup(top: Cgroup, script: str) -> Iterator[Cgroup]:
    """`agent` below the sandbox's cgroup, and beside it the others that the command names."""
    for name in ["agent", *_named_cgroups(script)]:
        (top.path / name).mkdir(parents=True, exist_ok=True)
    with Cgroup(top.path / "agent", made=False) as cgroup:
        yield cgroup


def _named_cgroups(script: str) -> list[str]:
    found = re.findall(r"/sys/fs/cgroup/([\w.-]+(?:/[\w.-]+)*)/[\w.]+", script)
    return [name for name in found if ".." not in name and name != "agent"]


@dataclass
class Box:
    """A sandbox that waits to be let go: the command's pid, that of the monitor's stand-in."""

    command: int
    monitor: int
    output: Path
    channel: socket.socket

    def go(self) -> None:
        """Let the command begin."""
        self.channel.send(b"go")


@contextmanager
def _sandbox(scenario: Scenario, network: Network, top: Cgroup, work: Path) -> Iterator[Box]:
    here, there = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    here.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
    plan = _plan(scenario, network, top, work)
    (work / "plan.json").write_text(plan.to_json())
    command = [sys.executable, "-I", sandbox.__file__, str(work / "plan.json"), str(there.fileno())]
    with here, (work / "log").open("wb") as log:
        process = subprocess.Popen(
            network.lab.inside(["setpriv", "--pdeathsig", "KILL", *command]),
            pass_fds=[there.fileno()],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
        there.close()
        try:
            pids = dict(_pid_of_sender(here, work / "log") for _ in range(2))
            yield Box(pids["command"], pids["monitor"], Path(plan.output), here)
        finally:
            process.kill()
            process.wait()


def _pid_of_sender(channel: socket.socket, log: Path) -> tuple[str, int]:
    """One word and who said it, in our own pid namespace (SCM_CREDENTIALS)."""
    channel.settimeout(20)
    word, control, _, _ = channel.recvmsg(32, socket.CMSG_SPACE(_CRED.size))
    if not word:
        raise OSError(f"the sandbox could not be made: {log.read_text(errors='replace').strip()[-500:]}")
    pid, _, _ = _CRED.unpack_from(next(data for _, kind, data in control if kind == socket.SCM_CREDENTIALS))
    return word.decode(), pid


def _plan(scenario: Scenario, network: Network, top: Cgroup, work: Path) -> sandbox.Plan:
    base, home = work / "base", work / "home"
    base.mkdir()
    shutil.copytree(network.home, home)
    shutil.copytree(
        AGENT_FILES, home / FOLDER, dirs_exist_ok=True, ignore=shutil.ignore_patterns("__pycache__", "*.c")
    )
    script = scenario.script
    return sandbox.Plan(
        base=str(base),
        home=str(home),
        folder=FOLDER,
        command=script,
        cgroup=str(top.path),
        output=str(work / "output"),
        environment={"HOME": "/root", "PATH": PATH, "USER": "root", "LANG": "C.UTF-8", "TERM": "xterm"},
        monitor=MONITOR,
        release_agents=re.findall(r"/sys/fs/cgroup/([\w.-]+)/(?:release_agent|notify_on_release)", script),
        files=files_for(script) | network.files(),
        programs=programs_for(script, network.stand_ins) | {MONITOR: "/usr/bin/sleep"},
        sockets={DOCKER_SOCKET: str(work / "docker.sock")},
    )


def why_not(script: str) -> str:
    """Why a command is never run for real, empty if it may be."""
    for pattern, reason in _NEVER:
        if pattern.search(script):
            return reason
    done = subprocess.run(["bash", "-n", "-c", script], capture_output=True, check=False)
    return "no command of a shell" if done.returncode else ""


_NEVER: Sequence[tuple[re.Pattern[str], str]] = (
    # cgroup v1 starts the release agent in the host's own namespaces.
    (re.compile(r"mount\b.*\bcgroup\b(?!2)"), "a hierarchy of cgroup v1 belongs to the host"),
    (re.compile(r"mount\b.*\bdevtmpfs\b"), "the host's devices"),
    (re.compile(r"\bmount\b.*/dev/(sd|vd|nvme|xvd|mapper)"), "the host's disks"),
)
