"""The agents under watch: how they come, are adopted after a restart, and go."""

from __future__ import annotations

import os
import re
import select
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from agentwatch.config.model import Config, Policy
from agentwatch.daemon.matching import Process
from agentwatch.daemon.memory import Memory, Remembered
from agentwatch.kernel.cgroup import Cgroup, CgroupError, create, existing
from agentwatch.session import Session
from agentwatch.watch import Options, Terms

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_BEGUN = "begun by "  # the origin of agents that `begin` made
_GONE = -1
_NAME_RULE = "a name has letters, digits, dots, dashes and underscores, 64 at most"


class Roster:
    """Keeps the session's agents and the memory of them the same. `gone` is told of who has left."""

    def __init__(self, session: Session, memory: Memory, say: Callable[[str], None],
                 gone: Callable[[int, str], None], config: Config) -> None:  # fmt: skip
        self._session, self._memory, self._say, self._gone = session, memory, say, gone
        self._config = config
        self._agents: dict[int, Remembered] = {}
        self._saved: list[Remembered] = []
        self._holders: dict[int, int] = {}  # of agents that were begun: a pidfd of who did, or _GONE

    def adopt(self) -> None:
        """Take up the agents that an earlier daemon watched, frozen ones frozen."""
        for one in self._memory.load():
            try:
                cgroup = existing(Path(one.cgroup))
            except CgroupError as error:
                self._say(f"agent {one.name} is not taken up again: {error}")
                continue
            if cgroup.id != one.cgroup_id:  # another directory of this name
                cgroup.close()
                continue
            number = self._add(cgroup, *self._policy(one))
            if one.holder:
                self._holders[number] = _open_holder(one)
            if one.paused or cgroup.frozen():
                self._keep_paused(number, cgroup, one)
        if self._memory.problem:
            self._say(self._memory.problem)

    def _keep_paused(self, number: int, cgroup: Cgroup, one: Remembered) -> None:
        if not cgroup.frozen():
            self._say(f"agent {one.name} was thawed while no daemon ran: it is frozen again")
        # frozen and not remembered: the daemon was killed in between, or somebody else froze it
        by = one.by or "unknown"
        self._session.enforcer.by_hand(number, "pause", f"{by} (before the daemon started)")

    def attach(self, path: Path, policy: Policy, origin: str, name: str = "", table: str = "") -> int:
        """Watch a cgroup; the agent's number. `table` is the id of the table that `policy` is from.

        Raises `CgroupError`, `TooMany`, `ValueError` for the name.
        """
        if name and not _NAME.fullmatch(name):
            raise ValueError(_NAME_RULE)
        for one in self._agents.values():
            if Path(one.cgroup).is_relative_to(path) or path.is_relative_to(one.cgroup):
                raise CgroupError(f"{path} is, holds or lies in the cgroup of agent {one.name}")
        cgroup = existing(path)
        name = self._unique(name or re.sub(r"[^A-Za-z0-9._-]+", "-", path.name).strip("-.")[:60] or "agent")
        return self._add(cgroup, self._new(name, cgroup, policy, origin, table), policy)

    def _new(self, name: str, cgroup: Cgroup, policy: Policy, origin: str, table: str = "") -> Remembered:
        """An agent that has come. By hand, it keeps what its policy differs in from the configuration's."""
        default = policy if table else self._config.policy
        return Remembered(
            name,
            str(cgroup.path),
            cgroup.id,
            policy.mode,
            policy.max_response,
            origin,
            table=table,
            own_mode=policy.mode != default.mode,
            own_response=policy.max_response != default.max_response,
        )

    def use(self, config: Config) -> None:
        """Have another configuration in force: every agent gets the policy that it now has there."""
        self._config = config
        for number, one in self._agents.items():
            fresh, policy = self._policy(one)
            options = self._session.watch.agents[number].options
            changed = replace(_options(fresh, policy), command=options.command)
            if changed != options:
                self._session.set_policy(number, changed)
                self._agents[number] = fresh
                self._say(f"agent {one.name} has another policy: {fresh.mode}, {fresh.max_response} at most")

    def limits(self) -> dict[str, dict[str, str]]:
        """Each agent's cgroup and what its policy wants in the cgroup's files."""
        found = {}
        for one in self._agents.values():
            _, policy = self._policy(one)
            found[one.cgroup] = policy.limits.files()
        return found

    def _policy(self, one: Remembered) -> tuple[Remembered, Policy]:
        """The policy that the configuration has for an agent, and the agent under it."""
        policy = self._config.table(one.table) if one.table else self._config.policy
        if policy is None:  # its table is gone
            return one, Policy(one.mode, one.max_response)
        if one.own_mode:
            policy = replace(policy, mode=one.mode)
        if one.own_response:
            policy = replace(policy, max_response=one.max_response)
        return replace(one, mode=policy.mode, max_response=policy.max_response), policy

    def begin(self, name: str, policy: Policy, who: str, holder: int) -> int:
        """A new, empty agent for what the process `holder` starts; its number. Raises as `attach`."""
        if not _NAME.fullmatch(name):
            raise ValueError(_NAME_RULE)
        name = self._unique(name)
        pidfd = os.pidfd_open(holder)
        try:
            cgroup = create(name)
            one = self._new(name, cgroup, policy, f"{_BEGUN}{who}")
            one = replace(one, holder=holder, holder_start=Process(holder).start)
            number = self._add(cgroup, one, policy)
        except BaseException:
            os.close(pidfd)
            raise
        self._holders[number] = pidfd
        return number

    def enter(self, number: int, pid: int) -> None:
        """Move a process into an agent that `begin` made. Raises `CgroupError`."""
        if not self._agents[number].origin.startswith(_BEGUN):
            raise CgroupError("only an agent that was begun takes processes in")
        watched = self._session.watch.agents[number]
        try:
            watched.cgroup.move(pid)
            self._session.probes.tag(pid, number)
        except OSError as error:
            raise CgroupError(f"process {pid} cannot be moved: {error.strerror}") from None

    def end(self, number: int) -> None:
        """Nothing is started in it any more. What is left is killed, unless it is paused: then an
        operator decides. Raises `CgroupError`."""
        if not self._agents[number].origin.startswith(_BEGUN):
            raise CgroupError("only an agent that was begun can be ended")
        self._release(number)
        cgroup = self._session.watch.agents[number].cgroup
        # One that was frozen a moment ago is not told as paused yet.
        is_paused = self._session.state.agent(number).state == "paused" or cgroup.frozen()
        if not is_paused and cgroup.populated():
            self._session.enforcer.by_hand(number, "kill", "its end")

    def _release(self, number: int) -> None:
        """An agent that was begun lives no longer than its processes."""
        pidfd = self._holders.pop(number, _GONE)
        if pidfd != _GONE:
            os.close(pidfd)
        if number in self._agents:
            self._agents[number] = replace(self._agents[number], holder=0, holder_start="")

    def _let_go(self) -> None:
        """End the agents whose holder has ended."""
        for number, pidfd in list(self._holders.items()):
            if pidfd == _GONE or select.select([pidfd], [], [], 0)[0]:
                self.end(number)

    def _unique(self, name: str) -> str:
        taken = {one.name for one in self._agents.values()}
        candidates = (name, *(f"{name}-{number}" for number in range(2, len(taken) + 3)))
        return next(candidate for candidate in candidates if candidate not in taken)

    def _add(self, cgroup: Cgroup, one: Remembered, policy: Policy) -> int:
        try:
            number = self._session.add(_options(one, policy), cgroup)
        except BaseException:
            cgroup.close()
            raise
        self._agents[number] = replace(one, paused=False)
        self._say(f"watching agent {one.name} ({one.origin}): {one.cgroup}, {one.mode}")
        return number

    def detach(self, number: int) -> None:
        """Watch an agent no longer. It stays as it is, a frozen one frozen."""
        one = self._agents.pop(number)
        self._release(number)
        cgroup = self._session.watch.agents[number].cgroup
        self._session.remove(number)
        if cgroup.populated():
            cgroup.leave()  # it goes on; to wait for its end would hold everything up
        cgroup.close()
        self._gone(number, one.name)
        self._say(f"agent {one.name} is watched no longer")

    def tend(self) -> None:
        """Let go of agents that have ended, and remember what has changed."""
        self._let_go()
        for number, watched in list(self._session.watch.agents.items()):
            if number not in self._holders and not watched.cgroup.populated():
                self.detach(number)
        self.save()

    def save(self) -> None:
        """Write what has changed. A disk that is full is said once and tried again."""
        for number, one in self._agents.items():
            agent = self._session.state.agent(number)
            paused = agent.state == "paused"
            if paused != one.paused or (paused and agent.acted_by != one.by):
                self._agents[number] = replace(one, paused=paused, by=agent.acted_by if paused else "")
        agents = list(self._agents.values())
        if agents == self._saved:
            return
        try:
            self._memory.save(agents)
        except OSError as error:
            if self._memory.problem != (problem := f"{self._memory.path}: {error.strerror}"):
                self._memory.problem = problem
                self._say(f"who is watched cannot be remembered: {problem}")
            return
        self._memory.problem = ""
        self._saved = agents


def _open_holder(one: Remembered) -> int:
    """A pidfd of the process that began an agent under an earlier daemon; _GONE where it has ended."""
    try:
        pidfd = os.pidfd_open(one.holder)
    except OSError:
        return _GONE
    if Process(one.holder).start == one.holder_start:
        return pidfd
    os.close(pidfd)
    return _GONE


def _options(one: Remembered, policy: Policy) -> Options:
    limits = tuple(f"{name}={value}" for name, value in policy.limits.files().items())
    terms = Terms(one.table, policy.only, policy.without, limits, one.origin, policy.training)
    return Options(one.name, one.mode, running=True, max_response=one.max_response, terms=terms)
