"""Fork bombs in records, and what forks much for good reasons."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from agentwatch.detect import fork_storm
from agentwatch.detect.fork_storm import Forks
from tests.detect.test_chain import Fold
from tests.schema.records import raw

MILLISECOND = 1_000_000


class Tree:
    """Processes of an agent: forks, ends and programs, a millisecond apart unless said."""

    def __init__(self, step: int = MILLISECOND) -> None:
        self.fold = Fold(wanted=("process_behaviour",))
        self.found: list[dict[str, Any]] = []
        self._pids = iter(range(1000, 10**9))
        self._step = step
        self._time = 0
        self._starts: dict[int, int] = {}
        self.root = self.run(self.fork(1))

    def _say(self, name: str, pid: int, **fields: Any) -> None:
        self._time += self._step
        start = self._starts.setdefault(pid, self._time)
        record = raw(name, time=self._time, tgid=pid, start=start, **fields)
        self.found += (dict(event.fields) for event in self.fold(record))

    def fork(self, parent: int) -> int:
        child = next(self._pids)
        self._say("fork", child, parent=parent, parent_start=self._starts.get(parent, 1))
        return child

    def run(self, pid: int) -> int:
        self._say("exec", pid)
        return pid

    def end(self, pid: int) -> None:
        self._say("exit", pid)


def test_bomb_of_a_shell() -> None:
    """`:(){ :|:& };:`: each call makes two, and ends."""
    tree = Tree()
    generation = [tree.root]
    while len(generation) < 300:
        children = [tree.fork(parent) for parent in generation for _ in range(2)]
        for parent in generation[1:]:
            tree.end(parent)
        generation = children
    first = tree.found[0]
    assert first["Kind"] == "fork_storm"
    assert first["Forks"] <= 256
    assert first["Depth"] >= fork_storm.DEEPEST


def test_bomb_held_down_by_a_limit_on_processes() -> None:
    """`while (1) fork();` where no more than 200 may live: 199 forks, and no more."""
    tree = Tree()
    processes = [tree.root]
    while len(processes) < 200:
        processes += [tree.fork(parent) for parent in processes[: 200 - len(processes)]]
    assert [event["Forks"] for event in tree.found] == [128]


def test_children_without_end() -> None:
    tree = Tree()
    for _ in range(1500):
        tree.run(tree.fork(tree.root))
    assert tree.found[0]["Living"] >= fork_storm.WIDE
    assert len(tree.found) == 1


def test_a_storm_is_told_at_each_doubling() -> None:
    tree = Tree(step=1000)
    pid = tree.root
    for _ in range(20_000):
        pid = tree.fork(pid)
    assert 5 <= len(tree.found) <= 9


def build(tree: Tree) -> None:
    """make -j64: 64 compilers at a time, each below a shell below make."""
    running: list[int] = []
    for _ in range(1000):
        shell = tree.run(tree.fork(tree.root))
        running += [shell, tree.run(tree.fork(shell))]
        while len(running) > 128:
            tree.end(running.pop(0))


def training(tree: Tree) -> None:
    """torchrun: eight workers, each with 32 loaders for data, twice, none of which runs a program."""
    workers = [tree.run(tree.fork(tree.root)) for _ in range(8)]
    for worker in workers * 64:
        tree.fork(worker)


def runner_of_tests(tree: Tree) -> None:
    """pytest-xdist: 64 workers, each of which runs commands and forks once or twice."""
    for worker in [tree.run(tree.fork(tree.root)) for _ in range(64)]:
        for _ in range(30):
            child = tree.fork(worker)
            grandchild = tree.fork(child)
            tree.end(grandchild)
            tree.end(child)


def subshells(tree: Tree) -> None:
    """A script whose loops are pipelines: shells in shells, three deep."""
    for _ in range(500):
        one = tree.fork(tree.root)
        two = tree.fork(one)
        three = tree.fork(two)
        for pid in (three, two, one):
            tree.end(pid)


def test_honest_work() -> None:
    for work in (build, training, runner_of_tests, subshells):
        tree = Tree()
        work(tree)
        assert tree.found == [], work.__name__


def test_slow_growth_is_none() -> None:
    tree = Tree(step=300 * MILLISECOND)
    pid = tree.root
    for _ in range(3000):
        pid = tree.fork(pid)
    assert tree.found == []


def test_processes_found_running_are_no_generations() -> None:
    tree = Tree()
    pid = 1
    for number in range(12):
        note = (
            64,
            number,
            1,
            2000 + number,
            2000 + number,
            pid,
            pid,
            f"/bin/{number}",
            (),
            "/",
            0,
            0,
            0,
            0,
            0,
        )
        tree.fold.note(*note)
        pid = 2000 + number
    for _ in range(500):
        tree.end(tree.fork(pid))
    assert tree.found == []


def _steps() -> Iterator[str]:
    yield from ("fork", "fork", "exec", "exit")


@given(
    st.lists(
        st.tuples(st.sampled_from(tuple(_steps())), st.integers(1, 40), st.integers(1, 40)), max_size=300
    )
)
def test_any_order(steps: list[tuple[str, int, int]]) -> None:
    fold = Fold(wanted=("process_behaviour",))
    for time, (name, pid, parent) in enumerate(steps):
        fields: dict[str, Any] = {"parent": parent, "parent_start": 1} if name == "fork" else {}
        fold(raw(name, time=time, tgid=pid, start=1, **fields))


def test_tables_are_bounded() -> None:
    tree = Tree(step=1)
    for _ in range(6000):
        tree.fork(tree.root)
    machine = Forks(tree.fold.state.processes)
    children = tree.fold.state.processes.all()
    for place in range(0, len(children) - fork_storm.BATCH, fork_storm.BATCH):
        machine.batch += children[place : place + fork_storm.BATCH]
        machine.look()
    assert len(machine._alive) <= 2 * fork_storm.WIDE + fork_storm.BATCH
