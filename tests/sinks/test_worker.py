"""The thread for calls that may hang."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from agentwatch.sinks.worker import Worker
from tests.sinks.samples import run

ROOT = Path(__file__).parent.parent.parent
HANGS = """
import asyncio, os, sys
from agentwatch.sinks.worker import Worker
async def main():
    worker = Worker()
    asyncio.ensure_future(worker.submit(open, sys.argv[1]))  # nobody ever opens the other end
    await asyncio.sleep(0.05)
    worker.close()
asyncio.run(main())
"""


def test_calls_are_made_one_after_the_other() -> None:
    async def scenario() -> None:
        worker, order = Worker(), list[int]()
        await asyncio.gather(*(worker.submit(order.append, number) for number in range(100)))
        assert order == list(range(100))
        assert await worker.submit(threading.get_ident) != threading.get_ident()
        worker.close()

    run(scenario)


def test_an_error_reaches_who_awaits() -> None:
    async def scenario() -> None:
        worker = Worker()
        with pytest.raises(FileNotFoundError):
            await worker.submit(os.stat, "/nonexistent")
        assert await worker.submit(int, "7") == 7
        worker.close()

    run(scenario)


def test_what_was_given_up_before_its_turn_is_left_out() -> None:
    async def scenario() -> None:
        worker, release, made = Worker(), threading.Event(), list[int]()
        first = worker.submit(release.wait)
        second = worker.submit(made.append, 2)
        third = worker.submit(made.append, 3)
        second.cancel()
        release.set()
        await asyncio.gather(first, third)
        assert made == [3]
        worker.close()

    run(scenario)


def test_a_call_that_hangs_keeps_no_process_from_ending(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    subprocess.run([sys.executable, "-c", HANGS, str(tmp_path / "pipe")], cwd=ROOT, check=True, timeout=30)
