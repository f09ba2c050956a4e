"""What a run is told as."""

from __future__ import annotations

import json

from bench.scoreboard.report import Origin, from_json, markdown, table, terminal, to_json
from bench.scoreboard.scenarios import Scenario
from bench.scoreboard.score import OFFLINE, REAL, SKIPPED, Result, Score

ATTACK = Scenario("a1", "attack", "mining", "mine | *all*", "kill")
HONEST = Scenario("h1", "benign", "ops", "ls", "allow")
SCORE = Score(
    [
        Result(ATTACK, REAL, "pause", rules=["Rule"], events=["unix_connection", "flow stratum"]),
        Result(ATTACK, OFFLINE, "kill", "no tool"),
        Result(ATTACK, SKIPPED, why="no \x1b[31mway"),
        Result(HONEST, REAL, "alert", rules=["Loud"]),
    ]
)
ORIGIN = Origin("own", "2026-01-02", 3, "d" * 64)


def test_table_has_a_row_for_each_family_and_the_total() -> None:
    head, mining, ops, total = table(SCORE).splitlines()
    assert head.split()[:3] == ["family", "n", "real"]
    assert mining.split()[:4] == ["mining", "2", "1", "1/2"]
    assert ops.split()[:4] == ["ops", "1", "1", "-"]
    assert total.split()[:4] == ["all", "3", "2", "1/2"]


def test_terminal_names_what_is_wrong_without_control_characters() -> None:
    text = "\n".join(terminal(SCORE))
    assert "a1 mining: mine | *all* - expected kill, got pause (Rule) [real]; noticed: flow stratum\n" in text
    assert "h1 ops" in text and "target missed" in text
    assert "\x1b" not in text


def test_page_says_how_and_where_it_was_measured() -> None:
    page = markdown([(ORIGIN, SCORE)])
    assert "## own" in page and "2026-01-02, Linux" in page and "`dddddddddddddddd`" in page
    assert "mine \\| \\*all\\*" in page
    assert "a1: no tool" in page and "Run for real: a1, h1." in page


def test_page_quotes_our_own_commands_only() -> None:
    corpus = markdown([(Origin("corpus", "2026-01-02", 3, "d" * 64), SCORE)])
    assert "a1 mining: expected kill" in corpus and "mine" not in corpus.replace("mining", "")


def test_results_come_back_from_json() -> None:
    result = SCORE.results[0]
    assert to_json("own", from_json(to_json("own", result), {"a1": ATTACK})) == to_json("own", result)


def test_json_is_one_line_a_scenario() -> None:
    told = json.loads(to_json("own", SCORE.results[2]))
    assert (told["id"], told["how"], told["right"]) == ("a1", "skipped", None)
