"""What the words of a command say about shells: is this one, does it take orders from its input?"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

_SHELLS: Final = frozenset("sh bash dash ash zsh ksh ksh93 mksh lksh fish csh tcsh rbash pwsh".split())
_BOXES: Final = frozenset(("busybox", "toybox"))
_INTERPRETERS: Final = ("python", "perl", "ruby", "node", "php", "lua", "tclsh")
_WITH_VALUE: Final = frozenset(("-o", "+o", "-O", "+O", "--rcfile", "--init-file"))
_EXEC_OPTIONS: Final = frozenset(("-e", "-c", "--exec", "--sh-exec", "--lua-exec"))
_EXEC_ADDRESSES: Final = ("exec:", "system:", "shell:")


def base(path: str) -> str:
    """The last part of a path; of a login shell's name, without the dash."""
    return path.rpartition("/")[2].removeprefix("-")


def is_shell(exe: str, argv: Sequence[str]) -> bool:
    """Whether the file or the name that it was called by is a shell's."""
    names = {base(exe), base(argv[0]) if argv else ""}
    return not names.isdisjoint(_SHELLS) or (not names.isdisjoint(_BOXES) and base(_at(argv, 1)) in _SHELLS)


def is_interpreter(exe: str) -> bool:
    """Whether the file is called as a common interpreter is."""
    return base(exe).startswith(_INTERPRETERS)


def takes_orders(exe: str, argv: Sequence[str]) -> bool:
    """Whether a program reads what it is to do from its standard input, as far as its words tell.

    A shell does unless it has a command (`-c`) or a script. Any other program is taken to do so
    if it is told `-i`, or told nothing.
    """
    if not is_shell(exe, argv):
        return len(argv) <= 1 or "-i" in argv[1:]
    words = iter(argv[2 if base(argv[0]) in _BOXES else 1 :]) if argv else iter(())
    for word in words:
        if word in _WITH_VALUE:
            next(words, None)
        elif word[:1] not in ("-", "+") or word in ("-", "--"):
            return word in ("-", "--") and next(words, None) is None
        elif word[:2] != "--" and "s" in word:
            return True
        elif word[:2] != "--" and "c" in word:
            return False
    return True


def command_of(exe: str, argv: Sequence[str]) -> str | None:
    """What a shell is given to do with `-c`."""
    if not is_shell(exe, argv):
        return None
    for place, word in enumerate(argv[1:], 2):
        if word[:1] == "-" and word[:2] != "--" and "c" in word:
            return _at(argv, place) or None
    return None


def connects_to_program(argv: Sequence[str], program: str, port: int) -> bool:
    """Whether these words join a port and a program, as nc, ncat and socat are told to.

    `nc host PORT -e PROGRAM`, `ncat host PORT -c PROGRAM`, `socat TCP:host:PORT EXEC:PROGRAM`.
    """
    number, name = str(port), base(program)
    if not name or not any(word == number or f":{number}" in word for word in argv[1:]):
        return False
    for place, word in enumerate(argv[1:], 2):
        lowered = word.lower()
        told = _at(argv, place) if word in _EXEC_OPTIONS else ""
        if lowered.startswith(_EXEC_ADDRESSES):
            told = word.partition(":")[2].partition(",")[0]
        first = told.split(maxsplit=1)
        if first and base(first[0].strip("'\"")) == name:
            return True
    return False


def _at(words: Sequence[str], place: int) -> str:
    return words[place] if place < len(words) else ""
