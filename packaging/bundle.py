"""Puts the probes' sources and the shipped rules into a built package, as `agentwatch/data`.

In the checkout they lie beside the package; `agentwatch.resources` finds them in both places.
"""

from __future__ import annotations

import shutil
from pathlib import Path

from setuptools.command.build_py import build_py

_ROOT = Path(__file__).parent.parent
_FOLDERS = {"probes": "*.[ch]", "rules": "*.*"}


class BuildPy(build_py):
    """build_py, and the data."""

    def run(self) -> None:
        super().run()
        if self.editable_mode:
            return
        for folder, pattern in _FOLDERS.items():
            for source in sorted((_ROOT / folder).rglob(pattern)):
                target = Path(self.build_lib, "agentwatch/data", source.relative_to(_ROOT))
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(source, target)
