"""Where the probes' sources and the shipped rules lie: in an installed package, or in the checkout."""

from __future__ import annotations

from pathlib import Path

_PACKAGE = Path(__file__).parent
_ROOT = _PACKAGE / "data" if (_PACKAGE / "data").is_dir() else _PACKAGE.parent

PROBES = _ROOT / "probes"
RULES = _ROOT / "rules"
