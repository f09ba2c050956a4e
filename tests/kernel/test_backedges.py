"""Loops that a verifier before 6.2 refuses, and how they come to be accepted."""

from __future__ import annotations

import struct

from hypothesis import given
from hypothesis import strategies as st

from agentwatch.kernel.backedges import falls_back, jumped_back
from agentwatch.kernel.cache import cached_object
from agentwatch.kernel.probes import recipe
from tests.kernel.conftest import needs_bcc

_INSTRUCTION = struct.Struct("<BBhi")
EXIT, SET, JA, JNE = (0x95, 0, 0), (0xB7, 0, 7), (0x05, 0, 0), (0x55, 0, 0)


def program(*instructions: tuple[int, int, int]) -> bytes:
    return b"".join(_INSTRUCTION.pack(code, 0, offset, value) for code, offset, value in instructions)


def jump(opcode: tuple[int, int, int], offset: int) -> tuple[int, int, int]:
    return opcode[0], offset, 0


# The loop's end (1) lies before its head (2), which is entered by a jump (0): 1 falls into 2.
ROTATED = program(jump(JA, 1), SET, SET, jump(JNE, -3), EXIT)


def test_a_jump_is_put_where_a_program_falls_back() -> None:
    assert list(falls_back(ROTATED)) == [(1, 2)]
    mended = jumped_back(ROTATED)
    assert mended == program(jump(JA, 2), SET, jump(JA, 0), SET, jump(JNE, -4), EXIT)
    assert not list(falls_back(mended))


def test_a_loop_closed_by_a_jump_stays_as_it_is() -> None:
    code = program(SET, SET, jump(JNE, -2), EXIT)
    assert jumped_back(code) == code


def steps(code: bytes, choices: list[bool]) -> list[tuple[int, int]]:
    """What a run executes, jumps left out, where the n-th conditional jump goes as `choices` says."""
    instructions = list(_INSTRUCTION.iter_unpack(code))
    done: list[tuple[int, int]] = []
    taken, at = iter(choices), 0
    while at < len(instructions):
        opcode, _, offset, value = instructions[at]
        if opcode == EXIT[0]:
            break
        at += 1
        if opcode == JA[0]:
            at += offset
        elif opcode == JNE[0]:
            choice = next(taken, None)
            if choice is None:
                break
            at += offset if choice else 0
            done.append((opcode, choice))
        else:
            done.append((opcode, value))
    return done


@st.composite
def programs(draw: st.DrawFn) -> bytes:
    """Any flow without endless loops of bare jumps: `goto` leads forward only."""
    size = draw(st.integers(2, 24))
    out = []
    for number in range(size - 1):
        kind = draw(st.sampled_from("set set set goto if if".split()))
        if kind == "goto":
            out.append(jump(JA, draw(st.integers(number + 1, size - 1)) - number - 1))
        elif kind == "if":
            out.append(jump(JNE, draw(st.integers(0, size - 1)) - number - 1))
        else:
            out.append((SET[0], 0, number))
    return program(*out, EXIT)


@given(programs(), st.lists(st.booleans(), max_size=40))
def test_the_program_does_what_it_did(code: bytes, choices: list[bool]) -> None:
    mended = jumped_back(code)
    assert not list(falls_back(mended))
    assert steps(mended, choices) == steps(code, choices)


@needs_bcc
def test_no_probe_falls_back() -> None:
    assert not {name for name, one in cached_object(recipe()).programs.items() if list(falls_back(one.code))}
