"""From a machine's messages to the table."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from vmtests.kernels import read_table
from vmtests.report import Outcome, document, growth, line, read, write

MESSAGES: list[dict[str, Any]] = [
    {"kernel": "9.9", "cgroup": "unified", "lsm": ["bpf"], "lockdown": "none", "kprobes": True},
    {
        "coverage": {
            "watching": True,
            "ways": {"files": "best"},
            "missing": [["on_exit", "no | such", "ends"]],
            "denials": "",
        }
    },
    {"program": "on_exec", "target": "typedef x", "state": "loaded", "verified": 100, "log_bytes": 3 << 10},
    {"program": "on_exit", "target": "", "state": "refused", "why": "because\nlog"},
    {"test": "a::b", "outcome": "passed", "seconds": 1, "why": ""},
    {"test": "a::c", "outcome": "failed", "seconds": 1, "why": "lines\nE assert 0"},
    {"demonstration": {"status": 0, "acted": [["Title", "pause", 3.5]]}, "log": "text"},
]


def outcome() -> Outcome:
    one = Outcome()
    for message in MESSAGES:
        one.hear(message)
    return one


def test_what_was_said_stands_in_the_table(tmp_path: Path) -> None:
    path, table = tmp_path / "results.json", tmp_path / "kernels.md"
    write({"nine": {"unified": outcome().summary()}}, path, table)
    assert read(path) == {"nine": {"unified": outcome().summary()}}
    text = table.read_text()
    assert (
        "| 9.9 | unified | unified | yes | yes | yes | best | - | yes | 1 / 1 / 0 | to its end, 1 freezes | "
        in text
    )
    assert "| on_exit | missing |" in text
    assert "| on_exec | attached |" in text
    assert "| on_exit | no \\| such | ends | 9.9 (unified) |" in text
    assert "- `a::c`: E assert 0; on 9.9 (unified)." in text
    assert "| `on_exec x` | 100 / 3 |" in text
    assert "| `on_exit` | refused: because |" in text


def test_what_was_not_run_is_said_to_be_so(tmp_path: Path) -> None:
    kernels, modes = read_table()
    first, *others = kernels
    write({first.name: {mode.name: outcome().summary() for mode in modes}}, tmp_path / "r", tmp_path / "t")
    _, _, left = (tmp_path / "t").read_text().partition("### Not run")
    assert f"- {first.name}:" not in left
    assert all(f"- {kernel.name}: {modes[0].name}, " in left for kernel in others)


def test_what_is_refused_and_fails_is_shown_as_it_comes() -> None:
    shown = [line(message) for message in MESSAGES]
    assert shown[3] == "on_exit  refused: because"
    assert shown[4] == ""
    assert shown[5].startswith("FAILED a::c")


def test_a_failed_test_fails_the_run() -> None:
    assert outcome().failed()
    assert not Outcome().failed()
    assert Outcome(broken="no end").failed()


def held(*, watching: bool = True, denials: str = "", acted: str = "pause", ended: int = 0) -> Outcome:
    """What a machine says whose LSMs have bpf."""
    one = Outcome()
    one.hear(MESSAGES[0])
    one.hear({"coverage": {"watching": watching, "ways": {}, "missing": [], "denials": denials}})
    one.hear({"demonstration": {"status": ended, "acted": [["Title", acted, 1]]}})
    return one


def test_a_kernel_must_be_watched_agents_frozen_and_denials_be_where_bpf_is_among_the_lsms() -> None:
    assert not held().failed()
    assert "nothing can be watched" in held(watching=False).lapse()
    assert "never frozen" in held(acted="none").lapse()
    assert "denials: refused" in held(denials="refused").lapse()
    without = held()
    without.facts["lsm"] = []
    assert "without bpf" in without.lapse()


def test_where_nothing_can_be_watched_the_reason_must_be_told() -> None:
    refused = held(watching=False, denials="nothing is watched", acted="none", ended=4)
    refused.refuses = "Linux 5.11"
    refused.hear({"refusal": {"status": 4, "remedies": ["Linux 5.11 or later is needed"]}})
    assert not refused.failed()
    assert "| refused, exit code 4 |" in "\n".join(document({"old": {"unified": refused.summary()}}))
    refused.hear({"refusal": {"status": 4, "remedies": ["no reason"]}})
    assert "does not say 'Linux 5.11'" in refused.lapse()
    refused.hear({"refusal": {"status": 0, "remedies": []}})
    assert "doctor ended with 0" in refused.lapse()
    refused.coverage["watching"] = True
    assert "it can be watched" in refused.lapse()


def test_a_machine_that_said_nothing_is_told_of() -> None:
    silent = Outcome(broken="the machine ended before its job did").summary()
    assert any("the machine ended before" in line for line in document({"nine": {"unified": silent}}))


def test_growth_is_told_from_a_quarter_on() -> None:
    before, now = outcome().summary(), outcome().summary()
    assert not list(growth(before, now))
    assert not list(growth(None, now))
    now["programs"]["on_exec x"] = {"state": "loaded", "verified": 126, "log_bytes": 4 << 10}
    assert list(growth(before, now)) == [
        "on_exec x: 126 instructions verified, 100 before",
        "on_exec x: 4096 bytes of verifier's log, 3072 before",
    ]
