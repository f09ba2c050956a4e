"""The worked examples in the documentation: each command is run, over the recording that they name."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.forensics.samples import DEMO

ROOT = Path(__file__).parents[2]
PAGES = ("forensics", "incidents")
LEFT_OUT = "[…]"
_BLOCK = re.compile(r"^```\n(\$ .*?)^```$", re.DOTALL | re.MULTILINE)


def examples(page: str) -> Iterator[tuple[str, str]]:
    """Each command and what it prints; a command goes on while a quote is open or a pipe is at its end."""
    for block in _BLOCK.findall((ROOT / "docs" / f"{page}.md").read_text(encoding="utf-8")):
        for example in re.split(r"^\$ ", block, flags=re.MULTILINE)[1:]:
            lines = example.splitlines()
            count = next(n for n in range(1, len(lines) + 1) if is_whole("\n".join(lines[:n])))
            yield "\n".join(lines[:count]), "\n".join(lines[count:])


def is_whole(command: str) -> bool:
    try:
        return bool(shlex.split(command)) and not command.endswith(("|", "\\"))
    except ValueError:
        return False


def matches(told: str, printed: str) -> bool:
    parts = (re.escape(part) for part in told.split(LEFT_OUT))
    return re.fullmatch(".*".join(parts), printed) is not None


@pytest.mark.parametrize("page", PAGES)
def test_what_the_page_shows_is_what_is_printed(page: str, tmp_path: Path) -> None:
    shutil.copy(DEMO, tmp_path / "demo.trace")
    program = tmp_path / "bin" / "agentwatch"
    program.parent.mkdir()
    keep_nothing = '[ "$1" = query ] && set -- "$@" --no-cache'
    program.write_text(f'#!/bin/sh\n{keep_nothing}\nexec {sys.executable} -m agentwatch "$@"\n')
    program.chmod(0o755)
    environment = {**os.environ, "PATH": f"{program.parent}:{os.environ['PATH']}", "PYTHONPATH": str(ROOT)}
    lacking = set()
    for command, told in examples(page):
        if needed := missing(command):
            lacking.add(needed)
            continue
        done = subprocess.run(
            ["bash", "-c", command],
            cwd=tmp_path,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )
        printed = "\n".join(line.rstrip() for line in done.stdout.splitlines())
        assert done.returncode == 0 and matches(told, printed), f"{command}\n{printed}\n{done.stderr}"
    if lacking:
        pytest.skip(f"some examples were not run: there is no {', '.join(sorted(lacking))}")


def missing(command: str) -> str:
    """What a command needs and is not there."""
    for tool in ("jq", "tshark"):
        if re.search(rf"(^|\| *)\s*{tool}\b", command) and shutil.which(tool) is None:
            return tool
    if "agentwatch query" in command or "parquet" in command:
        try:
            import duckdb  # noqa: F401, PLC0415
            import pyarrow  # noqa: F401, PLC0415
        except ImportError:
            return "DuckDB or PyArrow"
    return ""
