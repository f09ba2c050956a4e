"""`agentwatch top` under a flood: how soon a key is answered, and what it costs the process that draws.

A real daemon watches an agent that makes 100,000 events a second, or none; `top` runs in a pseudo
terminal of 80x24 cells and shows the events. Goal: a key is answered within 100 ms. A machine that has
other work makes every process wait, so the time is told with and without that in which the drawing
thread was ready but had no CPU (schedstat(5) of the kernel), and CPU time beside it.
"""

from __future__ import annotations

import fcntl
import os
import pty
import random
import select
import signal
import statistics
import struct
import subprocess
import sys
import tempfile
import termios
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from bench.figures import percentile, show
from tests.daemon.service import service
from tests.lab import Cgroup, compiled

LOAD = 100_000
KEYS = 100
SWITCHES = 15  # there and back
PAUSE = 0.12  # seconds between two keys, about
WIDTH, HEIGHT = 80, 24
ROW = "row {} of"


class Sample(NamedTuple):
    """A key: seconds until it was answered, and of these without a CPU."""

    took: float
    waited: float


class Screen:
    """A program in a pseudo terminal; what it writes is read and, but for what is waited for, dropped."""

    def __init__(self, command: list[str]) -> None:
        self.pid, self._terminal = pty.fork()
        if self.pid == 0:
            os.environ.update(TERM="xterm-256color", COLUMNS=str(WIDTH), LINES=str(HEIGHT))
            os.execvp(command[0], command)
        fcntl.ioctl(self._terminal, termios.TIOCSWINSZ, struct.pack("4H", HEIGHT, WIDTH, 0, 0))

    def press(self, key: str) -> None:
        os.write(self._terminal, key.encode())

    def until(self, text: str, seconds: float = 60) -> None:
        """Read until this is written. Raises TimeoutError."""
        wanted, seen, end = text.encode(), b"", time.monotonic() + seconds
        while wanted not in seen:
            self._wait(end)
            seen = seen[-len(wanted) :] + os.read(self._terminal, 65536)

    def _wait(self, end: float) -> None:
        if not select.select([self._terminal], [], [], max(0.0, end - time.monotonic()))[0]:
            raise TimeoutError("the screen does not come")

    def drain(self, seconds: float) -> None:
        """Read for so long."""
        end = time.monotonic() + seconds
        while select.select([self._terminal], [], [], max(0.0, end - time.monotonic()))[0]:
            os.read(self._terminal, 65536)

    def cpu(self) -> float:
        """CPU seconds of all its threads (clock_getcpuclockid(3))."""
        return time.clock_gettime(~self.pid << 3 | 2)

    def waited(self) -> float:
        """Seconds that its main thread was ready without a CPU."""
        return int(Path(f"/proc/{self.pid}/schedstat").read_text(encoding="ascii").split()[1]) / 1e9

    def close(self) -> None:
        os.kill(self.pid, signal.SIGTERM)
        os.close(self._terminal)
        os.waitpid(self.pid, 0)


@contextmanager
def _shown(load: int) -> Iterator[Screen]:
    """`top` over a daemon that watches an agent; on its screen of events."""
    command = [str(compiled("flood")), "udp-connect", str(load), "3600"] if load else ["sleep", "3600"]
    with tempfile.TemporaryDirectory() as folder, service(Path(folder)) as daemon, Cgroup("top") as cgroup:
        # What the agent did at first gives rows to move over where it does nothing more.
        shell = 'for i in $(seq 30); do /bin/true; done; exec "$@"'
        with cgroup.popen(["sh", "-c", f"read _; {shell}", "sh", *command], stdin=subprocess.PIPE) as agent:
            daemon.attach(cgroup, name="job")
            assert agent.stdin is not None
            agent.stdin.write(b"\n")
            agent.stdin.flush()
            screen = Screen([sys.executable, "-m", "agentwatch", "top", "--socket", str(daemon.socket)])
            try:
                screen.until("row 1 of 1")
                screen.press("5")
                screen.until(f"{ROW.format(1)} 2" if load else ROW.format(1))
                screen.drain(3)
                yield screen
            finally:
                screen.close()
                agent.kill()


def switch(screen: Screen) -> list[float]:
    """Seconds from the key of a screen until what the daemon says for it is shown."""
    took = []
    for _ in range(SWITCHES):
        for key in "85":
            pressed = time.monotonic()
            screen.press(key)
            screen.until(ROW.format(1))
            took.append(time.monotonic() - pressed)
            screen.drain(PAUSE)
    return took


def measure(screen: Screen) -> tuple[list[Sample], float, float]:
    """Keys one after the other; CPU seconds of the whole a key, and a second without keys."""
    shuffle = random.Random(1)
    at, samples = 1, []
    for _ in range(2):  # warm
        screen.press("j")
        at += 1
        screen.until(ROW.format(at))
    began, rest = screen.cpu(), 5.0
    screen.drain(rest)
    idle = (screen.cpu() - began) / rest
    start, began = time.monotonic(), screen.cpu()
    for number in range(KEYS):
        key, step = ("j", 1) if number // 10 % 2 == 0 else ("k", -1)
        at += step
        before, pressed = screen.waited(), time.monotonic()
        screen.press(key)
        screen.until(ROW.format(at))
        samples.append(Sample(time.monotonic() - pressed, screen.waited() - before))
        screen.drain(PAUSE * shuffle.uniform(0.5, 1.5))
    spent = screen.cpu() - began - idle * (time.monotonic() - start)
    return samples, spent / KEYS, idle


def main() -> None:
    medians = []
    for name, load in (("without", 0), (f"under {LOAD:,} events/s", LOAD)):
        with _shown(load) as screen:
            samples, each, idle = measure(screen)
            answered = [1e3 * one for one in switch(screen)]
        times = [1e3 * one.took for one in samples]
        own = [1e3 * (one.took - one.waited) for one in samples]
        medians.append(statistics.median(own))
        goal = 100 if load else None
        show(f"{name}: key to its answer on the screen, median", statistics.median(times), "ms", goal)
        show("  90th percentile", percentile(times, 0.9), "ms", goal)
        show("  without waiting for a CPU, median", statistics.median(own), "ms", goal)
        show("  90th percentile", percentile(own, 0.9), "ms", goal)
        show("  CPU for a key", 1e3 * each, "ms")
        show("  another screen with what the daemon says, median", statistics.median(answered), "ms")
        show("  90th percentile", percentile(answered, 0.9), "ms")
        show("  CPU while no key is pressed", 100 * idle, "% of a CPU")
    show("key under the flood to key without, medians", medians[1] / medians[0], "")


if __name__ == "__main__":
    main()
