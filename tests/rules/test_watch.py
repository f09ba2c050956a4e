"""Reloading: on change, on request, and under load; a bad set leaves the old one in force."""

from __future__ import annotations

import select
from collections.abc import Iterator
from pathlib import Path

import pytest

from agentwatch.rules.engine import Engine
from agentwatch.rules.load import load_rules
from agentwatch.rules.model import RuleSet
from agentwatch.rules.watch import Reload, RuleWatcher
from tests.rules.helpers import event, rule

PATIENCE_MS = 30_000


def text(word: str) -> str:
    """A rule on a command line."""
    return rule(f"s:\n  CommandLine|contains: '{word}'\ncondition: s", head=f"title: {word}")


class Watched:
    """A folder with one rule, watched."""

    def __init__(self, tmp_path: Path) -> None:
        self.folder = tmp_path / "rules"
        self.folder.mkdir()
        self.file = self.folder / "a.yml"
        self.file.write_text(text("one"))
        self.cache = tmp_path / "cache"
        self.rules = self.load()
        self.watcher = RuleWatcher([self.folder], self.load, self.rules)

    def load(self) -> RuleSet:
        """The rules of the folder as they are now."""
        return load_rules([self.folder], self.cache)

    def await_reload(self) -> Reload:
        """The outcome of the next reload."""
        waiting = select.poll()
        waiting.register(self.watcher.fileno(), select.POLLIN)
        assert waiting.poll(PATIENCE_MS)
        outcome = self.watcher.poll()
        assert outcome is not None
        return outcome


@pytest.fixture
def watched(tmp_path: Path) -> Iterator[Watched]:
    """See `Watched`."""
    found = Watched(tmp_path)
    with found.watcher:
        yield found


def titles(outcome: Reload) -> list[str]:
    """Titles of the rules of a reload."""
    assert outcome.rules is not None
    return sorted(found.title for found in outcome.rules.rules)


def test_a_change_is_loaded(watched: Watched) -> None:
    watched.file.write_text(text("two"))
    assert titles(watched.await_reload()) == ["two"]
    assert watched.watcher.poll() is None


def test_a_file_put_in_place_by_rename_and_one_removed(watched: Watched, tmp_path: Path) -> None:
    fresh = tmp_path / "fresh"
    fresh.write_text(text("two"))
    fresh.rename(watched.file)
    assert titles(watched.await_reload()) == ["two"]
    (watched.folder / "b.yml").write_text(text("three"))
    assert titles(watched.await_reload()) == ["three", "two"]
    watched.file.unlink()
    assert titles(watched.await_reload()) == ["three"]


def test_a_new_folder_is_watched(watched: Watched) -> None:
    (watched.folder / "deep").mkdir()
    (watched.folder / "deep" / "b.yml").write_text(text("two"))
    assert titles(watched.await_reload()) == ["one", "two"]
    (watched.folder / "deep" / "b.yml").write_text(text("three"))
    assert titles(watched.await_reload()) == ["one", "three"]


def test_a_bad_set_is_named_and_mending_it_is_told(watched: Watched) -> None:
    watched.file.write_text(text("two").replace("condition: s", "condition: t"))
    outcome = watched.await_reload()
    assert outcome.rules is None
    assert [(problem.file, problem.line) for problem in outcome.problems] == [(str(watched.file), 8)]
    watched.file.write_text(text("one"))
    assert titles(watched.await_reload()) == ["one"]


def test_a_request_loads_at_once_and_the_same_rules_are_not_told(watched: Watched, tmp_path: Path) -> None:
    # A request does not wait for a file to be written: this one is there all at once.
    fresh = tmp_path / "fresh"
    fresh.write_text(text("two"))
    watched.watcher.request()
    fresh.rename(watched.folder / "b.yml")
    watched.watcher.request()
    assert titles(watched.await_reload()) == ["one", "two"]


def test_rules_are_broken_mended_and_reloaded_under_load_without_missing_an_event(watched: Watched) -> None:
    engine = Engine(watched.rules)
    steps = [text("one").replace("condition: s", "condition: t"), text("two")]
    watched.file.write_text(steps.pop(0))
    refused = False
    by_rule = {"one": 0, "two": 0}
    seq = 0
    while by_rule["two"] < 1000:
        outcome = watched.watcher.poll()
        if outcome is not None and outcome.rules is None:
            refused = True
            watched.file.write_text(steps.pop(0))
        elif outcome is not None and outcome.rules is not None:
            engine = Engine(outcome.rules, predecessor=engine)
        seq += 1
        # Every event is one for both rules: the one in force must see it.
        (match,) = engine.evaluate(event(seq=seq, CommandLine=f"one two {seq}"))
        assert match.evidence == (seq,)
        by_rule[match.rule.title] += 1
    assert refused
    assert by_rule["one"] + by_rule["two"] == seq


def test_windows_of_correlations_survive_a_reload(tmp_path: Path) -> None:
    counting = text("one").replace("title: one", "title: one\nname: one") + (
        "---\ntitle: c\ncorrelation:\n  type: event_count\n  rules: one\n  timespan: 1m\n"
        "  condition:\n    gte: 2\n"
    )
    file = tmp_path / "a.yml"
    file.write_text(counting)
    first = Engine(load_rules([file], tmp_path / "cache"))
    assert not first.evaluate(event(seq=1, CommandLine="one"))
    file.write_text(f"{counting}---\n{text('other')}")
    second = Engine(load_rules([file], tmp_path / "cache"), predecessor=first)
    assert [match.evidence for match in second.evaluate(event(seq=2, CommandLine="one"))] == [(1, 2)]
    file.write_text(counting.replace("gte: 2", "gte: 3"))
    third = Engine(load_rules([file], tmp_path / "cache"), predecessor=second)
    assert not third.evaluate(event(seq=3, CommandLine="one"))
    assert not third.evaluate(event(seq=4, CommandLine="one"))
