"""What runs in a machine: the tests that it names are there."""

from __future__ import annotations

from pathlib import Path

from vmtests.inside import ESSENTIAL

ROOT = Path(__file__).parents[2]


def test_the_essential_tests_exist() -> None:
    for test in ESSENTIAL:
        path, _, name = test.partition("::")
        assert f"def {name.partition('[')[0]}(" in (ROOT / path).read_text(encoding="utf-8"), test
