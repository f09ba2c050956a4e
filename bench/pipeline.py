"""The whole way of an event: decode, enrich, detect, match. 300,000 mixed events a second on one core.

An event is a record of the kernel's. The mix is that of an agent which builds and tests software
and trains models, at the pace at which a machine with many cores does so:

- commands (61 % of the records): fork, the exec and its three pieces, exit. Half are run again
  and again as they are (git, grep, test); half name a file of their own (compilers, python), so
  that their arguments were never seen before. A fifth runs in a shell of its own, the rest are
  run by the few processes that live long: make, shells, trainings;
- forks that run nothing (8 %): subshells, workers that load data;
- names asked for and answered over UDP (8 %), from a few hundred names;
- connections: TLS to registries, models and hubs (9 %), HTTP to a proxy and to services of the
  host's own (5 %), JSON-RPC with tools (2 %), of binary data between workers (4 %). Each is
  created, connected, heard for its first messages in both directions, and closed;
- datagrams of metrics (4 %).

Every process, socket and time is new; images, folders, names and addresses come back. Figures
are of CPU time of this process; sources of records and sinks for alerts are not part of it.
"""

from __future__ import annotations

import random
import struct
import time
from collections.abc import Callable, Iterator
from itertools import count

from agentwatch.collector import settle
from agentwatch.pipeline import Pipeline
from agentwatch.rules.engine import Engine
from agentwatch.rules.load import load_rules
from agentwatch.rules.model import RuleSet
from agentwatch.schema import decode
from agentwatch.schema.events import PayloadFlag, Piece
from agentwatch.sources.base import Batch, BatchKind, Round
from bench.figures import show
from bench.rules import real
from tests.detect import hellos
from tests.schema.records import raw

WARM = 10  # rounds before measuring: RE2 builds its automata, memories fill
ROUNDS = 30
RECORDS = 4096  # of a round, at least


def main() -> None:
    rounds = list(Agent(random.Random(7)).rounds(WARM + ROUNDS))
    measured = rounds[WARM:]
    show("decode alone, mixed events", 1e6 / cost(decode_round, measured), "/s")
    without = fold_cost(load_rules([]), rounds)
    show("mixed events, no rules", 1e6 / without, "/s")
    for name, rules in real().items():
        spent = fold_cost(rules, rounds)
        show(f"mixed events, {name}", 1e6 / spent, "/s", 300_000, at_least=True)
        show("  an event against one without rules", spent / without, "times")


def fold_cost(rules: RuleSet, rounds: list[Round]) -> float:
    """Microseconds of CPU time for an event with these rules in force, the first rounds left out."""
    pipeline = Pipeline(Engine(rules))
    settle()
    for batches in rounds[:WARM]:
        pipeline.process(batches)
    return cost(pipeline.process, rounds[WARM:])


def cost(process: Callable[[Round], object], rounds: list[Round]) -> float:
    """Microseconds of CPU time for an event, in the best of the rounds: they are all alike."""
    spent = []
    for batches in rounds:
        started = time.process_time()
        process(batches)
        spent.append((time.process_time() - started) * 1e6 / records(batches))
    return min(spent)


def decode_round(batches: Round) -> None:
    """What every event costs before it is looked at."""
    for batch in batches:
        decode.rows_of_batch(batch)


def records(batches: Round) -> int:
    """How many records a round has."""
    return sum(len(decode.rows_of_batch(batch)) for batch in batches)


_SLOTS = frozenset(("fork", "exit", "socket", "connect", "connected", "send", "close"))


class Agent:
    """Makes the records of an agent's work, with numbers and times that only go up."""

    def __init__(self, dice: random.Random) -> None:
        self._dice = dice
        self._ticks = count(1_000_000_000_000, 1000)
        self._pids = count(1000)
        self._cookies = count(1)
        self._files = count(1)
        self._slots: list[bytes] = []
        self._records: list[bytes] = []
        self._names = [f"host{number}.{zone}" for number in range(100) for zone in ("example", "test", "lan")]
        self._addresses = [bytes((10, *dice.randbytes(3))) for _ in self._names]
        self._repeated = [tuple(words) for words in self._commands(64)]
        self._alive = [(next(self._pids), next(self._ticks)) for _ in _LONG_LIVED]

    def rounds(self, number: int) -> Iterator[Round]:
        """Rounds of at least RECORDS records."""
        work: list[tuple[Callable[[], None], int]] = [
            (self._command, 60),
            (self._subshell, 24),
            (self._lookup, 10),
            (self._tls, 6),
            (self._http, 5),
            (self._json_rpc, 1),
            (self._workers, 4),
            (self._metrics, 8),
        ]
        steps, weights = zip(*work, strict=True)
        for who, words in zip(self._alive, _LONG_LIVED, strict=True):
            self._exec(who, tuple(words.split()), parent=self._alive[0])
        for _ in range(number):
            while len(self._slots) + len(self._records) < RECORDS:
                self._dice.choices(steps, weights)[0]()
            yield (
                Batch(BatchKind.SLOTS, b"".join(self._slots)),
                Batch(BatchKind.RECORDS, b"".join(self._records)),
            )
            self._slots, self._records = [], []

    def _say(self, name: str, who: tuple[int, int], **more: object) -> None:
        record = raw(name, time=next(self._ticks), tgid=who[0], start=who[1], **more)  # type: ignore[arg-type]
        (self._slots if name in _SLOTS else self._records).append(record)

    # Processes

    def _commands(self, number: int) -> Iterator[list[str]]:
        for _ in range(number):
            yield [
                *self._dice.choice(_RUN_AGAIN).split(),
                *self._dice.choices(_WORDS, k=self._dice.randint(0, 4)),
            ]

    def _fork(self, parent: tuple[int, int]) -> tuple[int, int]:
        child = (next(self._pids), next(self._ticks))
        self._say("fork", child, parent=parent[0], parent_start=parent[1])
        return child

    def _exit(self, who: tuple[int, int]) -> None:
        self._say("exit", who, status=self._dice.choice((0, 0, 0, 256)))

    def _subshell(self) -> None:
        self._exit(self._fork(self._dice.choice(self._alive)))

    def _command(self) -> None:
        parent = self._dice.choice(self._alive)
        if self._dice.random() < 0.8:
            self._run(parent, self._words())
            return
        shell = self._fork(parent)
        self._exec(shell, (*"/bin/sh -c".split(), " ".join(self._words())), parent)
        self._run(shell, self._words())
        self._exit(shell)

    def _run(self, parent: tuple[int, int], words: tuple[str, ...]) -> None:
        child = self._fork(parent)
        self._exec(child, words, parent)
        self._exit(child)

    def _words(self) -> tuple[str, ...]:
        if self._dice.random() < 0.5:
            return self._dice.choice(self._repeated)
        template = self._dice.choice(_OWN_FILE)
        return tuple(template.format(f"{self._dice.choice(_WORDS)}{next(self._files)}").split())

    def _exec(self, who: tuple[int, int], words: tuple[str, ...], parent: tuple[int, int]) -> None:
        folder = self._dice.choice(_FOLDERS)
        argv = "\0".join((words[0].rpartition("/")[2], *words[1:])).encode() + b"\0"
        self._piece(who, Piece.EXE, b"\0".join(reversed(words[0].encode().split(b"/")[1:])) + b"\0")
        self._piece(who, Piece.CWD, b"\0".join(reversed(folder.encode().split(b"/")[1:])) + b"\0")
        self._piece(who, Piece.ARGV, argv)
        ids = {"uid": 1000, "euid": 1000, "gid": 1000}
        self._say("exec", who, parent=parent[0], parent_start=parent[1], argv_length=len(argv), **ids)

    def _piece(self, who: tuple[int, int], kind: Piece, data: bytes) -> None:
        room = next(size for size in (256, 1280, 4096) if size >= len(data))
        self._say("exec_piece", who, kind=kind, length=len(data), data=data.ljust(room, b"\0"))

    # Flows

    def _lookup(self) -> None:
        place = self._dice.randrange(len(self._names))
        name = (
            b"".join(bytes((len(part),)) + part for part in self._names[place].encode().split(b".")) + b"\0"
        )
        number = self._dice.randbytes(2)
        question = name + struct.pack("!HH", 1, 1)
        asked = number + struct.pack("!5H", 0x0100, 1, 0, 0, 0) + question
        answer = number + struct.pack("!5H", 0x8180, 1, 1, 0, 0) + question
        answer += b"\xc0\x0c" + struct.pack("!HHIH", 1, 1, 300, 4) + self._addresses[place]
        self._talk(bytes((127, 0, 0, 53)), 53, (asked, answer), flags=int(PayloadFlag.DNS), protocol=17)

    def _tls(self) -> None:
        place = self._dice.randrange(len(self._names))
        hello = hellos.records(hellos.client_hello(_CIPHERS, _extensions(self._names[place])))
        answer = hellos.records(hellos.server_hello(0x1301, [hellos.extension(0x002B, b"\3\4")]))
        answer += b"\x14\x03\x03\x00\x01\x01\x17\x03\x03\x04\x00" + self._dice.randbytes(400)
        secret = [b"\x17\x03\x03\x00\xc8" + self._dice.randbytes(200) for _ in range(3)]
        self._talk(self._addresses[place], 443, (hello, answer, *secret))

    def _http(self) -> None:
        path = f"/{self._dice.choice(_WORDS)}/{next(self._files)}"
        asked = f"GET {path} HTTP/1.1\r\nHost: {self._dice.choice(self._names)}\r\nAccept: */*\r\n\r\n"
        answer = "HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 40\r\n\r\n" + "x" * 40
        self._talk(bytes((127, 0, 0, 1)), 8080, (asked.encode(), answer.encode()))

    def _json_rpc(self) -> None:
        asked, answer = (
            b'{"jsonrpc":"2.0","id":%d,"method":"tools/call","params":{"name":"search","arguments":{"q":"x"}}}\n',
            b'{"jsonrpc":"2.0","id":%d,"result":{"content":[{"type":"text","text":"found nothing"}]}}\n',
        )
        self._talk(
            bytes((127, 0, 0, 1)), 9000, [text % number for number in range(3) for text in (asked, answer)]
        )

    def _workers(self) -> None:
        messages = [self._dice.randbytes(self._dice.choice((64, 512))) for _ in range(6)]
        self._talk(self._dice.choice(self._addresses), self._dice.randint(30000, 60000), messages)

    def _metrics(self) -> None:
        self._talk(bytes((127, 0, 0, 1)), 8125, (), protocol=17)

    def _talk(self, remote: bytes, port: int, messages: list[bytes] | tuple[bytes, ...], flags: int = 0,
              protocol: int = 6) -> None:  # fmt: skip
        """A connection of a process that lives long; messages go to and fro, its own first."""
        who = self._dice.choice(self._alive)
        block: dict[str, object] = {
            "cookie": next(self._cookies),
            "family": 2,
            "socktype": 1 if protocol == 6 else 2,
            "protocol": protocol,
        }
        self._say("socket", who, **block)
        block.update(remote=remote, remote_port=port)
        self._say("connect", who, **block)
        block.update(local=bytes((10, 0, 0, 1)), local_port=self._dice.randint(32768, 60999))
        if protocol == 6:
            self._say("connected", who, **block, elapsed=100_000)
        sequence, sizes = [1000, 5000], [0, 0]
        for place, message in enumerate(messages):
            way = place % 2
            data = message[:512]
            room = 64 if len(data) <= 64 else 512
            self._say(
                "payload", who, flags=flags | way, **block, sequence=sequence[way] * (protocol == 6),
                packet_length=len(message), message=place // 2 + 1, length=len(data),
                data=data.ljust(room, b"\0"),
            )  # fmt: skip
            sequence[way] += len(message)
            sizes[way] += len(message)
        self._say("close", who, **block, bytes_out=sizes[0], bytes_in=sizes[1], elapsed=1_000_000)


_CIPHERS = (0x1302, 0x1303, 0x1301, 0xC02C, 0xC030, 0xCCA9, 0xCCA8, 0xC02B, 0xC02F, 0x009F, 0x009E, 0x00FF)


def _extensions(name: str) -> list[bytes]:
    """Those of a hello as OpenSSL makes them."""
    return [
        hellos.server_name(name.encode()),
        hellos.extension(0x000B, b"\3\0\1\2"),
        hellos.extension(0x000A, hellos.vector(hellos.numbers((0x001D, 0x0017, 0x0019, 0x0018)))),
        hellos.alpn(b"http/1.1"),
        hellos.extension(0x0017, b""),
        hellos.extension(0x000D, hellos.vector(hellos.numbers((0x0403, 0x0503, 0x0804, 0x0805, 0x0401)))),
        hellos.extension(0x002B, hellos.vector(hellos.numbers((0x0304, 0x0303)), 1)),
        hellos.extension(0x002D, b"\1\1"),
        hellos.extension(0x0033, b"\0\x26\0\x24\0\x1d\0\x20" + bytes(32)),
    ]


_WORDS = (
    "model", "train", "data", "loader", "token", "config", "layer", "batch", "metric", "store", "cache",
    "test", "util", "index", "graph", "kernel", "merge", "plan", "queue", "shard",
)  # fmt: skip
_LONG_LIVED = (
    "/usr/bin/python3 agent.py --serve",
    "/bin/bash",
    "/usr/bin/make -j16 all",
    "/usr/bin/ninja -C build",
    "/usr/bin/python3 -m pytest -q tests",
    *(f"/usr/bin/python3 train.py --rank {rank} --config config/base.yml" for rank in range(8)),
)
_FOLDERS = tuple(f"/home/agent/work/{name}" for name in ("project", "project/build", "project/tests", "data"))
_RUN_AGAIN = (
    "/usr/bin/git status --porcelain",
    "/usr/bin/git diff --stat",
    "/bin/sh -c",
    "/usr/bin/test -d",
    "/usr/bin/grep -rn",
    "/usr/bin/ls -la",
    "/usr/bin/make -j16",
    "/usr/bin/nvidia-smi --query-gpu=utilization.gpu --format=csv",
    "/usr/bin/python3 -m pytest -q",
)
_OWN_FILE = (
    "/usr/lib/gcc/x86_64-linux-gnu/12/cc1plus -quiet -I include -imultiarch x86_64-linux-gnu "
    "-D_GNU_SOURCE src/{0}.cpp -quiet -dumpbase {0}.cpp -mtune=generic -march=x86-64 -O2 -Wall -o /tmp/{0}.s",
    "/usr/bin/x86_64-linux-gnu-as --64 -o build/{0}.o /tmp/{0}.s",
    "/usr/bin/python3 tools/{0}.py --out build/{0}.json",
    "/bin/sh -c cd build && ./{0} --check",
)

if __name__ == "__main__":
    main()
