"""A terminal of a given size with a program in it: tmux, with a server of its own."""

from __future__ import annotations

import os
import shutil
import subprocess
import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType

import pytest

from tests.lab import eventually

REPOSITORY = Path(__file__).parents[3]


class Terminal:
    """`send` types keys as tmux names them, `screen` is what a person sees."""

    def __init__(
        self, command: Sequence[str], width: int, height: int, environment: Mapping[str, str] | None = None
    ) -> None:
        if shutil.which("tmux") is None:
            pytest.skip("tmux is not installed")
        self._name = f"agentwatch-test-{uuid.uuid4().hex[:12]}"
        given = {"PYTHONPATH": str(REPOSITORY), "LC_ALL": "C.UTF-8", **(environment or {})}
        variables = [word for name, value in given.items() for word in ("-e", f"{name}={value}")]
        size = ["-x", str(width), "-y", str(height)]
        outside = {name: value for name, value in os.environ.items() if name not in ("TMUX", "NO_COLOR")}
        subprocess.run(
            [*self._tmux, "-f", "/dev/null", "new-session", "-d", *size, *variables, "--", *command],
            check=True,
            env=outside,
        )

    @property
    def _tmux(self) -> list[str]:
        return ["tmux", "-u", "-L", self._name]

    def send(self, *keys: str) -> None:
        """Press these keys one after the other."""
        subprocess.run([*self._tmux, "send-keys", *keys], check=True)

    def enter(self, text: str) -> None:
        """Type a text, then enter."""
        subprocess.run([*self._tmux, "send-keys", "-l", text], check=True)
        self.send("Enter")

    def screen(self, *, styled: bool = False) -> str:
        """The lines in sight; with `styled`, the escapes that colour them, too."""
        how = ["-e"] if styled else []
        done = subprocess.run(
            [*self._tmux, "capture-pane", "-p", *how], capture_output=True, text=True, check=False
        )
        return done.stdout

    def shows(self, *texts: str, seconds: float = 20) -> str:
        """Wait until all of these are in sight; what is."""

        def there() -> str:
            seen = self.screen()
            return seen if all(text in seen for text in texts) else ""

        try:
            return eventually(there, seconds)
        except pytest.fail.Exception:
            pytest.fail(f"{texts} not in sight:\n{self.screen()}")

    def hides(self, text: str, seconds: float = 20) -> None:
        """Wait until this is in sight no longer."""
        eventually(lambda: text not in self.screen(), seconds)

    def resize(self, width: int, height: int) -> None:
        size = ["-x", str(width), "-y", str(height)]
        subprocess.run([*self._tmux, "resize-window", *size], check=True)

    def close(self) -> None:
        subprocess.run([*self._tmux, "kill-server"], check=False, stderr=subprocess.DEVNULL)

    def __enter__(self) -> Terminal:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
