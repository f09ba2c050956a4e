"""A watch of this process's own, for `run` and `attach`. Loaded once the probes are attached."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from types import TracebackType

from agentwatch.cli.options import rule_set
from agentwatch.cli.runner import AlertSink
from agentwatch.cli.watching import Settings
from agentwatch.resources import RULES
from agentwatch.rules.load import load_rules
from agentwatch.rules.model import RuleSet
from agentwatch.rules.watch import RuleWatcher
from agentwatch.session import Session
from agentwatch.tui.live import State
from agentwatch.watch import AGENT, Watch


class Alone:
    """Watches the one agent of `watch`; alerts go to `sink`."""

    def __init__(self, settings: Settings, watch: Watch, sink: AlertSink) -> None:
        agent = watch.agents[AGENT]
        self.name, self.mode, self.cgroup = agent.options.name, agent.options.mode, agent.cgroup
        self._settings = settings
        self._told_frozen = not agent.options.running or not agent.cgroup.frozen()
        rules = rule_set(settings.rule_paths, settings.exceptions)
        with ExitStack() as stack:
            session = Session(
                watch,
                rules,
                [sink],
                record=settings.record,
                signer=settings.signer(),
                training=settings.training,
            )
            self._session = stack.enter_context(session)
            session.mark(AGENT, settings.markers, "environment")
            watched = [*(settings.rule_paths or [RULES]), *settings.exceptions]
            self._rules = stack.enter_context(RuleWatcher(watched, self._load, rules))
            self._stack = stack.pop_all()
        self.seen = session.state

    def _load(self) -> RuleSet:
        return load_rules(self._settings.rule_paths or [RULES], exceptions=self._settings.exceptions)

    def __enter__(self) -> Alone:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()

    def step(self, seconds: float) -> Iterator[str]:
        if not self._told_frozen:
            self._told_frozen = True
            yield f"the agent is frozen already; resume it with: {self.way('resume')}"
        self._session.step(seconds)
        outcome = self._rules.poll()
        if outcome is None:
            return
        if outcome.rules is not None:
            self._session.use_rules(outcome.rules)
            yield f"rules reloaded: {len(outcome.rules.rules)} are in force"
        for problem in outcome.problems:
            yield f"the rules before stay in force: {problem}"

    def state(self) -> State:
        return self._session.state.agent(AGENT).state

    def by_hand(self, response: str, who: str) -> None:
        self._session.enforcer.by_hand(AGENT, response, who)

    def reload(self) -> None:
        self._rules.request()

    def finish(self) -> list[str]:
        self._session.finish()
        return []

    def records(self) -> int:
        return self._session.pipeline.counters.records

    def lost(self) -> int:
        return sum(self._session.state.lost(self._session.state.agent(AGENT)).values())

    def partial(self) -> bool:
        return self.lost() > 0

    def way(self, response: str) -> str:
        value, file = {"resume": (0, "cgroup.freeze"), "kill": (1, "cgroup.kill")}[response]
        return f"echo {value} > {self.cgroup.path}/{file}"
