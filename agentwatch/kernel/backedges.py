"""Make loops in compiled bytecode acceptable to kernels before 6.2 or so.

Their verifier walks a program's flow depth first and lets only a jump lead back into what it is
walking through: "back-edge from insn 169 to 170" means that an instruction falls through into such
a place. Which block of a loop comes first is the compiler's choice, so the C cannot avoid it; a
jump of no length in between can.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator

_INSTRUCTION = struct.Struct("<BBhi")  # struct bpf_insn: code, registers, off, imm
_CLASS, _JMP, _JMP32 = 0x07, 0x05, 0x06
_JA, _CALL, _EXIT = 0x05, 0x85, 0x95
_NO_JUMP = _INSTRUCTION.pack(_JA, 0, 0, 0)


def jumped_back(code: bytes) -> bytes:
    """The program with a jump in front of every instruction that is fallen back into.

    Raises `OverflowError` where that makes a jump longer than an instruction can say.
    """
    while places := {target for _, target in falls_back(code)}:
        code = _with_jumps(code, places)
    return code


def falls_back(code: bytes) -> Iterator[tuple[int, int]]:
    """(instruction, next one) where the program falls through into what is still being walked.

    The walk of `check_cfg` (kernel/bpf/verifier.c): the next instruction first, then the jump's.
    """
    instructions = list(_INSTRUCTION.iter_unpack(code))
    walking, walked = {0}, set()
    path = [(0, _followers(instructions[0], 0))]
    while path:
        number, followers = path[-1]
        target = next(followers, None)
        if target is None:
            path.pop()
            walking.remove(number)
            walked.add(number)
        elif target in walking:
            if not _jumps(instructions[number][0]):
                yield number, target
        elif target not in walked:
            walking.add(target)
            path.append((target, _followers(instructions[target], target)))


def _jumps(opcode: int) -> bool:
    return opcode & _CLASS in (_JMP, _JMP32) and opcode not in (_CALL, _EXIT)


def _followers(instruction: tuple[int, int, int, int], number: int) -> Iterator[int]:
    opcode, _, offset, _ = instruction
    if opcode not in (_JA, _EXIT):
        yield number + 1
    if _jumps(opcode):
        yield number + 1 + offset


def _with_jumps(code: bytes, places: set[int]) -> bytes:
    """Insert a jump before each place; who jumped to the place still does, past the new one."""
    instructions = list(_INSTRUCTION.iter_unpack(code))
    moved, now = [], 0  # where the instructions, and the end, come to lie
    for number in range(len(instructions) + 1):
        now += number in places
        moved.append(now)
        now += 1
    out = bytearray()
    for number, (opcode, registers, offset, immediate) in enumerate(instructions):
        if number in places:
            out += _NO_JUMP
        new = moved[number + 1 + offset] - moved[number] - 1 if _jumps(opcode) else offset
        if not -(1 << 15) <= new < 1 << 15:
            raise OverflowError(f"the jump of instruction {number} becomes too long")
        out += _INSTRUCTION.pack(opcode, registers, new, immediate)
    return bytes(out)
