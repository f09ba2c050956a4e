"""What a run comes to where machines cannot be had, or end too soon."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

import pytest
from vmtests import __main__ as command
from vmtests import report
from vmtests.kernels import Kernel, Unavailable, Unpacked, VmError

pytestmark = pytest.mark.skipif(sys.version_info < (3, 11), reason="the table is TOML: Python 3.11")

FAILED = {"test": "a::b", "outcome": "failed", "seconds": 1, "why": "not so"}


@pytest.fixture
def kept(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Kernels whose results are kept; none is fetched."""
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setattr(command, "unpacked", lambda kernel, cache: Unpacked("1", Path("i"), Path("m")))
    monkeypatch.setattr(command, "probes", lambda image, cache: cache)
    names: list[str] = []

    def keep(kernel: str, mode: str, summary: report.Summary) -> list[str]:
        names.append(kernel)
        return []

    monkeypatch.setattr(report, "keep", keep)
    return names


def machine(error: VmError, *messages: dict[str, Any]) -> Callable[..., None]:
    """One that says so much and ends like this."""

    def boot(*_: object, hear: Callable[[dict[str, Any]], None], **__: object) -> None:
        for message in messages:
            hear(message)
        raise error

    return boot


def unavailable(kernel: Kernel, cache: Path) -> NoReturn:
    raise Unavailable("no network")


def test_a_machine_that_cannot_be_had_fails_no_smoke_run_and_changes_no_result(
    kept: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(command, "unpacked", unavailable)
    assert command.main(["--smoke"]) == 0
    assert capsys.readouterr().err.count("left out: no network") == 2
    assert command.main([]) == 1
    assert kept == []


def test_what_failed_before_a_machine_was_too_slow_is_a_failure(
    kept: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(command, "boot", machine(Unavailable("too slow"), FAILED))
    assert command.main(["--smoke"]) == 1
    assert "until then: 0 passed, 1 failed" in capsys.readouterr().err


def test_a_machine_that_ends_before_its_job_is_a_failure(
    kept: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(command, "boot", machine(VmError("it ended")))
    assert command.main(["--smoke"]) == 1
    assert kept == []
    assert command.main(["--kernel", "6.1-rt"]) == 1
    assert kept == ["6.1-rt"]
