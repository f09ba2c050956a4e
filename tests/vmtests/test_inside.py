"""What runs in a machine: the tests that it names are there."""

from __future__ import annotations

from pathlib import Path

from vmtests.inside import ESSENTIAL, SMOKE

ROOT = Path(__file__).parents[2]


def test_the_essential_tests_exist() -> None:
    for test in (*ESSENTIAL, *SMOKE):
        path, _, name = test.partition("::")
        wanted = f"def {name.partition('[')[0]}(" if name else "def test_"
        assert wanted in (ROOT / path).read_text(encoding="utf-8"), test
