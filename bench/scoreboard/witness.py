"""What an agent really did, told from the same records that the watch decides by.

A second fold whose engine has no rules and writes down every event: it shows that a scenario's
behaviour took place, and of what was missed, how far detection came.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from agentwatch.event import Event
from agentwatch.pipeline import Pipeline
from agentwatch.rules.engine import Engine, Match
from agentwatch.rules.model import RuleSet
from agentwatch.schema.fields import FIELDS
from agentwatch.sources.base import Round

_MOST = 500  # of each kind
_TOLD = ("Protocol", "Behaviour", "Stage", "Kind", "Operation", "Access", "QueryName", "TargetFilename")


@dataclass
class Account:
    """Command lines that ran, addresses ("address:port") turned to, and other events, each once."""

    programs: dict[str, None] = field(default_factory=dict)
    connections: dict[str, None] = field(default_factory=dict)
    others: dict[str, None] = field(default_factory=dict)

    def take(self, event: Event) -> None:
        """Write an event down."""
        fields = event.fields
        if event.category == "process_creation":
            _add(self.programs, str(fields.get("CommandLine", ""))[:300])
        elif event.category == "network_connection":
            _add(self.connections, f"{fields.get('DestinationIp')}:{fields.get('DestinationPort')}")
        else:
            words = [str(fields[name]) for name in _TOLD if fields.get(name)]
            _add(self.others, " ".join([event.category, *words])[:200])


def _add(kept: dict[str, None], text: str) -> None:
    if len(kept) < _MOST:
        kept[text] = None


class _Everything(RuleSet):
    """No rules, yet every event is worth making."""

    @property
    def categories(self) -> frozenset[str]:
        return frozenset(FIELDS)


class _Recorder(Engine):
    """An engine that wants every event and matches none."""

    def __init__(self, account: Account) -> None:
        super().__init__(_Everything(rules=(), digest=""))
        self._account = account

    def evaluate(self, event: Event) -> list[Match]:
        self._account.take(event)
        return []


class Witness:
    """Folds what a session folds."""

    def __init__(self) -> None:
        self.account = Account()
        self._pipeline = Pipeline(_Recorder(self.account), reloads=False)

    def process(self, batches: Round) -> None:
        """One round's records."""
        self._pipeline.process(batches)
