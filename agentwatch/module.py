"""Modules of this package as processes of their own."""

from __future__ import annotations

import os
import sys
from pathlib import Path

HOME = "/"
"""Where they are started: Python looks there first for what they import, and only root can put it there.

The folder that agentwatch itself was started in may be an agent's.
"""

_PACKAGE_PARENT = Path(__file__).absolute().parent.parent


def command(module: str, *arguments: str) -> list[str]:
    """Runs a module of this package, as isolated as this process is, with `environment` in `HOME`."""
    return [sys.executable, *(["-I"] if sys.flags.isolated else []), "-m", module, *arguments]


def environment() -> dict[str, str]:
    """This process's, in which Python finds this very package: it need not be installed."""
    paths = [str(_PACKAGE_PARENT), os.environ.get("PYTHONPATH", "")]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, paths))}
