"""What a reload takes over, and what only a restart changes."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from agentwatch.config.load import ConfigError, Loaded, Problem
from agentwatch.config.model import Config, Control, Policy
from agentwatch.config.reload import ConfigReader, keep_fixed
from tests.lab import eventually


def test_what_only_a_restart_changes_is_kept_and_named() -> None:
    old = Config(control=Control(act_group="a"))
    new = Config(
        run_dir=Path("/x"), policy=Policy(mode="enforce"), control=Control(socket=Path("/s"), act_group="b")
    )
    kept, named = keep_fixed(old, new)
    assert named == ["run_dir", "control.socket"]
    assert kept == replace(new, run_dir=old.run_dir, control=Control(act_group="b"))


def test_what_was_asked_for_while_reading_is_read_afterwards() -> None:
    outcomes: list[ConfigError | Loaded] = [
        ConfigError([Problem("file", "key", "no")]),
        Loaded(Config(), (), ()),
    ]

    def load() -> Loaded:
        outcome = outcomes.pop(0)
        if isinstance(outcome, ConfigError):
            reader.request()
            raise outcome
        return outcome

    reader = ConfigReader(load)
    assert reader.poll() is None
    reader.request()
    first = eventually(reader.poll)
    assert isinstance(first, ConfigError)
    second = eventually(reader.poll)
    assert isinstance(second, Loaded)
    assert reader.poll() is None
