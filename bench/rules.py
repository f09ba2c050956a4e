"""What matching costs an event: with ten rules and with a thousand, and with arguments made to hurt.

Goal: with 1,000 rules an event costs at most twice what it costs with 10 (a ratio within one run); a
hostile argv of 128 KiB costs at most 1 ms; and 300,000 mixed events a second go through decode,
detect and match with all shipped and all SigmaHQ rules, so that matching alone must do far more.

Rules and events are made up from a fixed seed, in the proportions of SigmaHQ's Linux rules and of
an agent's work. SigmaHQ's own rules are measured where AGENTWATCH_SIGMA_DIR, or ../shared/sigma,
has them.
"""

from __future__ import annotations

import os
import random
import string
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from agentwatch.event import Event, Value
from agentwatch.rules.engine import Engine
from agentwatch.rules.load import load_rules
from agentwatch.rules.model import RuleSet
from bench.figures import percentile, show

ROOT = Path(__file__).resolve().parent.parent
ARGV_LIMIT = 128 << 10
ROUNDS = 7
EVENTS = 4000
WARM = 60


def main() -> None:
    few, many = made_up(10), made_up(1000)
    for name, events in (
        ("5 % never seen before", mixed_events(new=0.05)),
        ("all new", mixed_events(new=1.0)),
    ):
        ten, thousand = cost(few, events), cost(many, events)
        show(f"an event, 10 rules, {name}", ten, "us")
        show(f"an event, 1000 rules, {name}", thousand, "us")
        show(f"1000 rules against 10, {name}", thousand / ten, "times", 2)
    for name, rules in real().items():
        spent = cost(rules, mixed_events(new=0.05))
        show(f"events a second, {name}", 1e6 / spent, "/s", 300_000, at_least=True)
        show(f"an event never seen before, {name}", cost(rules, mixed_events(new=1.0)), "us")
        for kind, argv in hostile(rules).items():
            first, later = hostile_cost(rules, argv)
            show(f"argv of 128 KiB, {kind}, {name}", later, "us", 1000)
            show("  the very first", first, "us")


def cost(rules: RuleSet, events: Callable[[int], Sequence[Event]]) -> float:
    """Microseconds of CPU time an event in the best of some rounds, each with events of its own.

    RE2 builds its automata as it meets values, so some rounds of new values go before.
    """
    engine = Engine(rules)
    for number in range(ROUNDS):
        for event in mixed_events(new=1.0)(-1 - number):
            engine.evaluate(event)
    best = float("inf")
    for number in range(ROUNDS):
        batch = events(number)
        started = time.process_time()
        for event in batch:
            engine.evaluate(event)
        best = min(best, (time.process_time() - started) / len(batch) * 1e6)
    return best


def hostile_cost(rules: RuleSet, argv: Callable[[random.Random], str]) -> tuple[float, float]:
    """Microseconds of CPU time for one exec with a huge argument list: the first one, and the
    median later on."""
    engine = Engine(rules)
    spent = []
    for seed in range(WARM + 31):
        text = argv(random.Random(seed))
        fields: dict[str, Value] = {"Image": "/usr/bin/python3", "CommandLine": text}
        fields["Argv"] = tuple(text.split(" "))
        event = Event("process_creation", seed, seed, "agent", fields)
        started = time.process_time()
        engine.evaluate(event)
        spent.append((time.process_time() - started) * 1e6)
    return spent[0], percentile(spent[WARM:], 0.5)


# Made-up rules and events


def made_up(count: int) -> RuleSet:
    """A rule set of `count` rules in the proportions of SigmaHQ's Linux rules."""
    dice = random.Random(count)
    documents = [_rule(dice, number) for number in range(count)]
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "rules.yml"
        file.write_text("---\n".join(documents))
        return load_rules([file], cache=Path(folder) / "cache")


def _rule(dice: random.Random, number: int) -> str:
    kind = dice.choices(["process_creation", "network_connection", "file_event"], [8, 1, 1])[0]
    if kind == "process_creation":
        lines = _process_lines(dice)
    elif kind == "network_connection":
        lines = [f"DestinationHostname|endswith: '.{_word(dice)}.example'"]
    else:
        lines = [f"TargetFilename|startswith: '/etc/{_word(dice)}'"]
    body = "".join(f"    {line}\n" for line in lines)
    return (
        f"title: made up {number}\nid: {uuid.UUID(int=dice.getrandbits(128), version=4)}\n"
        f"logsource:\n  product: linux\n  category: {kind}\n"
        f"detection:\n  selection:\n{body}  condition: selection\nlevel: low\n"
    )


def _process_lines(dice: random.Random) -> list[str]:
    some = ", ".join(f"'{_word(dice)} {_word(dice)}'" for _ in range(3))
    image = f"Image|endswith: '/{_word(dice)}'"
    return dice.choice(
        [
            [image, f"CommandLine|contains: [{some}]"],
            [image, f"CommandLine|contains|all: [{some}]"],
            [f"CommandLine|contains: [{some}]"],
            [f"CommandLine|contains|all: [{some}]", f"ParentImage|endswith: '/{_word(dice)}'"],
            [f"CommandLine|re: '{_word(dice)}\\s+-[a-z]+ {_word(dice)}'"],
        ]
    )


def _word(dice: random.Random) -> str:
    return "".join(dice.choices(string.ascii_lowercase, k=dice.randint(4, 9)))


def mixed_events(new: float) -> Callable[[int], Sequence[Event]]:
    """Batches of events of all kinds; the share `new` of them has content never seen before."""

    def batch(number: int) -> Sequence[Event]:
        dice = random.Random(number)
        known = list(_events(random.Random(0), 200))
        fresh = list(_events(random.Random(number + 1), EVENTS))
        chosen = (one if dice.random() < new else dice.choice(known) for one in fresh)
        return [Event(one.category, i, i, one.agent, one.fields) for i, one in enumerate(chosen)]

    return batch


def _events(dice: random.Random, count: int) -> Iterator[Event]:
    for _ in range(count):
        words = [_word(dice) for _ in range(dice.randint(2, 12))]
        who: dict[str, Value] = {
            "Image": f"/usr/bin/{dice.choice(['python3', 'bash', 'git', 'cc1', words[0]])}",
            "CommandLine": " ".join(words),
            "User": "agent",
            "ProcessId": dice.randint(2, 1 << 22),
        }
        kind = dice.choices(list(_MORE), [3, 3, 3, 1])[0]
        yield Event(kind, 0, 0, "agent", {**who, **_MORE[kind](dice, words)})


_MORE: dict[str, Callable[[random.Random, list[str]], dict[str, Value]]] = {
    "process_creation": lambda dice, words: {
        "Argv": tuple(words),
        "ParentImage": "/usr/bin/bash",
        "ParentCommandLine": "bash -c make",
        "CurrentDirectory": f"/home/agent/{words[0]}",
    },
    "network_connection": lambda dice, words: {
        "DestinationIp": f"10.0.{dice.randint(0, 255)}.{dice.randint(0, 255)}",
        "DestinationPort": dice.choice([443, 80, 22, 8080]),
        "DestinationHostname": f"{words[0]}.example",
        "Initiated": True,
    },
    "file_event": lambda dice, words: {"TargetFilename": f"/home/agent/{words[0]}/{words[1]}.py"},
    "flow": lambda dice, words: {"Protocol": dice.choice(["tls", "http", "ssh"]), "Transport": "tcp"},
}


# Real rules, and arguments made to hurt them


def real() -> dict[str, RuleSet]:
    """The shipped rules, alone and with SigmaHQ's where they are at hand."""
    found = {"shipped": load_rules([ROOT / "rules"])}
    folder = Path(os.environ.get("AGENTWATCH_SIGMA_DIR") or ROOT.parent / "shared" / "sigma")
    if folder.is_dir():
        found["shipped and SigmaHQ"] = load_rules([ROOT / "rules", folder])
    return found


def hostile(rules: RuleSet) -> dict[str, Callable[[random.Random], str]]:
    """Kinds of huge arguments: noise, the rules' own literals, and literals all but complete."""
    conditions = [rule.conditions.get("process_creation", ()) for rule in rules.rules]
    literals = sorted({word for condition in conditions for word in _literals(condition)}) or ["stratum"]

    def of(pieces: Callable[[random.Random], str]) -> Callable[[random.Random], str]:
        def argv(dice: random.Random) -> str:
            parts: list[str] = []
            length = 0
            while length < ARGV_LIMIT:
                parts.append(pieces(dice))
                length += len(parts[-1]) + 1
            return " ".join(parts)[:ARGV_LIMIT]

        return argv

    return {
        "noise": of(_word),
        "literals": of(lambda dice: dice.choice(literals)),
        "near literals": of(lambda dice: dice.choice(literals)[:-1]),
        "one letter": of(lambda dice: "a" * 4096),
    }


def _literals(condition: tuple[object, ...]) -> tuple[str, ...]:
    """Literals that a condition looks for in command lines."""
    if not condition:
        return ()
    if condition[0] == "atom":
        _, name, op, value = condition
        return tuple(value) if name == "CommandLine" and op == "contains" and isinstance(value, tuple) else ()
    return tuple(word for part in condition if isinstance(part, tuple) for word in _literals(part))


if __name__ == "__main__":
    main()
