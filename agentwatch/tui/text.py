"""Text for terminals from strings that an agent chose."""

from __future__ import annotations

import unicodedata
from collections.abc import Mapping
from typing import Any

# Invisible, reordering or without agreed meaning: controls, formats (bidi, zero width, tags),
# surrogates, private use, unassigned, line and paragraph separators, spaces that are not a space.
_HIDDEN = frozenset({"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp", "Zs"})
_MARKS = frozenset({"Mn", "Me"})
_MARKS_IN_A_ROW = 2
PROGRAM_SHOWN = 24  # characters of a program's path
_UNITS = ("B", "kB", "MB", "GB", "TB", "PB", "EB")


def printable(text: str, limit: int = 512) -> str:
    """`text` as one line that changes nothing about the terminal and looks like what it is.

    What cannot be seen, reorders what can (Unicode TR 36), or makes terminals disagree about
    width is written as an escape (`\\x1b`, `\\u202e`, `\\U000e0041`). Beyond `limit`
    characters the rest is dropped and an ellipsis says so.
    """
    if len(text) > limit:
        text = text[:limit] + "…"
    if text.isascii() and text.isprintable():
        return text
    marks = 0
    parts = []
    for character in unicodedata.normalize("NFC", text):
        category = unicodedata.category(character)
        marks = marks + 1 if category in _MARKS else 0
        unsafe = (
            (category in _HIDDEN and character != " ")
            or marks > _MARKS_IN_A_ROW
            or "\ufe00" <= character <= "\ufe0f"  # variation selectors: width in dispute
        )
        parts.append(_escape(character) if unsafe else character)
    return "".join(parts)


def _escape(character: str) -> str:
    code = ord(character)
    if code <= 0xFF:
        return f"\\x{code:02x}"
    return f"\\u{code:04x}" if code <= 0xFFFF else f"\\U{code:08x}"


def short_program(path: str) -> str:
    """A program's path; of a long one the beginning and the end: `/usr/…/python3`."""
    parts = path.split("/")
    if len(path) > PROGRAM_SHOWN and len(parts) > 3 and not parts[0]:
        return f"/{parts[1]}/…/{parts[-1]}"
    return path


def byte_count(count: int) -> str:
    """A count of bytes in at most three digits and a decimal unit: `999 B`, `1.2 kB`, `34 MB`."""
    value = float(count)
    for unit in _UNITS:
        if value < 999.5 or unit == _UNITS[-1]:
            break
        value /= 1000
    return f"{value:.1f} {unit}" if value < 9.95 and unit != "B" else f"{value:.0f} {unit}"


def gpu_share(use: Mapping[str, Any] | None) -> str:
    """How much of GPUs is used, as the control socket tells it, in a cell: the share; where drivers tell
    none, as of MIG instances, the memory. Empty where nothing is used."""
    if use is None:
        return ""
    return byte_count(use["memory"]) if use["percent"] is None else f"{use['percent']} %"


def gpu_words(use: Mapping[str, Any] | None) -> str:
    """All of it: `GPU 0/1: 97 %, 2.1 GB`. Empty where nothing is used."""
    if use is None:
        return ""
    share = "" if use["percent"] is None else f"{use['percent']} %, "
    return f"GPU {','.join(use['on'])}: {share}{byte_count(use['memory'])}"
