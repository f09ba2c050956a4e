"""What an agent's policy names as the registered training job."""

from __future__ import annotations

from typing import Any

from agentwatch.enrich.state import State
from agentwatch.schema import decode
from agentwatch.schema.events import Type
from agentwatch.trace.past import told

# A harness, the shell of a tool, and a training script that the shell runs.
TREE = (
    (10, 0, "/usr/bin/harness", ("harness",), "/"),
    (11, 10, "/bin/sh", ("sh", "-c", "..."), "/"),
    (12, 11, "/usr/bin/python3", ("python3", "train.py"), "/work"),
)


def state(*notes: tuple[Any, ...]) -> State:
    made = State()
    fold(made, *notes)
    return made


def fold(made: State, *notes: tuple[Any, ...]) -> None:
    rows = decode.notes(decode.pack_notes(list(notes)))
    for seq, row in enumerate(rows, 1):
        made.apply(seq, row)


def agent(number: int = 1) -> tuple[Any, ...]:
    return (Type.AGENT, 1, number, 0, 0, "job", "jobs/job", 7, "monitor")


def training(*paths: str, number: int = 1) -> tuple[Any, ...]:
    return (Type.TRAINING, 2, number, 0, 0, paths)


def tree(number: int = 1) -> list[tuple[Any, ...]]:
    return [
        (Type.PROCESS, 3, number, pid, pid, parent, parent, exe, argv, cwd, 0, 0, 0, 0, 0)
        for pid, parent, exe, argv, cwd in TREE
    ]


def registered(made: State) -> list[int]:
    return [process.pid for process in made.processes.all() if process.registered]


def test_what_a_shell_runs_is_registered_where_a_policy_names_it() -> None:
    assert registered(state(agent(), *tree())) == [10]
    assert registered(state(agent(), training("/work/train.py"), *tree())) == [10, 12]
    assert registered(state(agent(), training("*"), *tree())) == [10, 11, 12]


def test_another_policy_holds_for_what_runs_already() -> None:
    made = state(agent(), *tree(), training("/work/train.py"))
    assert registered(made) == [10, 12]
    fold(made, training())
    assert registered(made) == [10]


def test_it_is_of_one_agent_and_ends_with_it() -> None:
    assert registered(state(agent(), agent(2), training("*", number=2), *tree())) == [10]
    assert registered(state(agent(), training("*"), agent(), *tree())) == [10]


def test_a_trace_that_begins_later_knows_it() -> None:
    made, again = state(agent(), training("/work/train.py"), *tree()), State()
    for batches in told(made, 9):
        for batch in batches:
            for seq, row in enumerate(decode.notes(batch.data), 1):
                again.apply(seq, row)
    assert registered(again) == [10, 12]


def test_a_trace_that_begins_later_knows_which_rules_speak() -> None:
    policy = (Type.POLICY, 2, 1, 0, 0, "jobs", "enforce", "kill", ("impact",), ("x",), (), "a test")
    made, again = state(agent(), policy), State()
    for batches in told(made, 9):
        for batch in batches:
            for seq, row in enumerate(decode.notes(batch.data), 1):
                again.apply(seq, row)
    found = again.agent(1)
    assert (found.mode, found.only, found.without) == ("enforce", ("impact",), ("x",))
