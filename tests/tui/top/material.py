"""A small recording with all that screens show, and names that an enemy chose."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from agentwatch.rules.model import RuleSet
from agentwatch.schema import decode
from agentwatch.schema.events import PayloadFlag, Piece, Type
from agentwatch.sources.base import Batch, BatchKind, Round
from tests.recordings import BEGAN, SECOND, record
from tests.rules.helpers import rule, rules
from tests.schema.records import raw

MINER = "11111111-1111-4111-8111-111111111111"
SEEN = "22222222-1111-4111-8111-111111111111"
EVIL = "\x1b[2J\x1b]0;owned\x07\u202etxt [bold]x[/bold] [/] [@click=app.quit]y"
LOST = 7
EVENTS = 7
HELLO = b'{"id":1,"method":"mining.subscribe"}\n\x1b[2J\x00\xff'


def rule_set() -> RuleSet:
    """A miner pauses, a connection is told of, programs are looked at."""
    head = "title: Mines\nid: {}\nlevel: critical\nagentwatch:\n  response: pause"
    seen = f"title: Connects\nid: {SEEN}\nlevel: low\nlogsource: {{category: network_connection}}"
    return rules(
        rule("words:\n  CommandLine|contains: mine\ncondition: words", head.format(MINER)),
        f"{seen}\ndetection:\n  port: {{DestinationPort: 3333}}\n  condition: port\n",
    )


def at(second: int) -> int:
    return BEGAN + second * SECOND


def notes(*rows: tuple[Any, ...]) -> Round:
    return (Batch(BatchKind.NOTES, decode.pack_notes(list(rows))),)


def run(argv: str, tgid: int, time: int) -> Round:
    """A process runs a program."""
    words = argv.encode() + b"\0"
    pieces = (
        raw("exec_piece", tgid=tgid, time=time, kind=Piece.EXE, length=7, data=b"job\0bin\0"),
        raw("exec_piece", tgid=tgid, time=time, kind=Piece.CWD, length=4, data=b"tmp\0"),
        raw("exec_piece", tgid=tgid, time=time, kind=Piece.ARGV, length=len(words), data=words),
        raw("exec", tgid=tgid, time=time, argv_length=len(words), uid=5),
    )
    return (Batch(BatchKind.RECORDS, b"".join(pieces)),)


def connect(tgid: int, time: int, port: int) -> Round:
    """A process connects to a port of 127.0.0.1."""
    fields: dict[str, Any] = {"cookie": tgid, "remote": bytes((127, 0, 0, 1)).ljust(16, b"\0"), "family": 2}
    content = raw("connect", tgid=tgid, time=time, remote_port=port, protocol=6, socktype=1, **fields)
    return (Batch(BatchKind.SLOTS, content),)


def say(tgid: int, time: int, data: bytes, *, incoming: bool = False) -> Round:
    """Bytes over the connection of a process."""
    flags = int(PayloadFlag.IN) if incoming else 0
    content = raw(
        "payload", tgid=tgid, time=time, cookie=tgid, family=2, protocol=6, socktype=1, flags=flags,
        packet_length=len(data), message=1, length=len(data), data=data,
    )  # fmt: skip
    return (Batch(BatchKind.RECORDS, content),)


def rounds() -> list[Round]:
    """What happened: one agent, hostile names, a connection, a miner that was frozen, losses."""
    frozen = (int(Type.ACTION), at(5), 1, 0, 0, 16, MINER, "pause", "done", "", at(5), at(5))
    return [
        notes((int(Type.AGENT), at(0), 1, 0, 0, "tester", "agentwatch/tester", 5, "enforce")),
        notes((int(Type.COVERAGE), at(0), 1, 0, 0, "io_uring", "no hook", "io_uring is not seen")),
        run("train.py", 100, at(1)),
        run(EVIL, 101, at(2)),
        connect(101, at(3), 3333),
        say(101, at(3), HELLO),
        run("mine --fast", 102, at(4)),
        notes(frozen),
        connect(102, at(6), 4444),
        notes((int(Type.LOSS), at(7), 1, 0, 0, int(Type.EXEC), LOST, "ring full")),
        run("train.py again", 103, at(8)),
    ]


def trace(folder: Path) -> Path:
    """All of it as a file."""
    return record(folder / "job.trace", rounds(), rule_set())
