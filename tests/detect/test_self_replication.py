"""Programs that copy themselves, and honest copies."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentwatch.detect import self_replication as one
from agentwatch.detect.self_replication import Copy
from agentwatch.schema.events import Piece, Type
from tests.detect.test_chain import Fold
from tests.schema.records import raw


class Agent:
    """A worker, /work/worker.py, that runs commands below it."""

    def __init__(self, *worker: str, exe: str = "/usr/bin/python3") -> None:
        self.fold = Fold(wanted=("process_behaviour",))
        self.found: list[dict[str, Any]] = []
        self._pid = 100
        self.runs(*worker or ("python3", "-u", "worker.py", "--rank", "0"), exe=exe, parent=1, pid=100)

    def runs(self, *argv: str, exe: str = "", parent: int = 100, pid: int = 0, cwd: str = "/work") -> None:
        self._pid += 1
        who: dict[str, Any] = {"tgid": pid or self._pid, "start": pid or self._pid}
        words = "".join(f"{word}\0" for word in argv).encode()
        for kind, data in (
            (Piece.EXE, _path(exe or f"/usr/bin/{argv[0].rpartition('/')[2]}")),
            (Piece.CWD, _path(cwd)),
            (Piece.ARGV, words),
        ):
            self._feed(raw("exec_piece", kind=kind, length=len(data), data=data, **who))
        self._feed(raw("exec", argv_length=len(words), parent=parent, parent_start=parent, **who))

    def _feed(self, record: bytes) -> None:
        self.found += (dict(event.fields) for event in self.fold(record))

    @property
    def kinds(self) -> list[str]:
        return [event["Kind"] for event in self.found]


def _path(path: str) -> bytes:
    return b"".join(name.encode() + b"\0" for name in reversed(path.strip("/").split("/")))


@pytest.mark.parametrize(
    ("copying", "running"),
    [
        ("scp worker.py u@10.77.0.3:", "ssh u@10.77.0.3 python3 worker.py"),
        ("scp -P 2222 -i key ./worker.py 10.77.0.3:/tmp/.x", "ssh -p 2222 10.77.0.3 nohup python3 /tmp/.x &"),
        (
            "scp /work/worker.py scp://u@10.77.0.3/opt/w.py",
            "ssh -tt 10.77.0.3 cd /opt; chmod +x w.py; ./w.py",
        ),
        ("rsync -az -e ssh worker.py u@10.77.0.3:jobs/", "ssh 10.77.0.3 sh -c 'python3 jobs/worker.py'"),
        ("rsync -az ../work/worker.py rsync://10.77.0.3/jobs/", "ssh 10.77.0.3 /srv/jobs/worker.py"),
    ],
)
def test_copied_and_run(copying: str, running: str) -> None:
    agent = Agent()
    agent.runs(*copying.split())
    assert agent.kinds == ["self_transfer"]
    assert agent.found[0]["SourceFilename"] == "/work/worker.py"
    assert agent.found[0]["DestinationHostname"] == "10.77.0.3"
    agent.runs(*running.split())
    assert agent.kinds == ["self_transfer", "self_replication"]


def test_piped_and_run() -> None:
    agent = Agent()
    agent.runs("cat", "worker.py")
    agent.runs("ssh", "10.77.0.3", "cat > /tmp/w.py && python3 /tmp/w.py")
    assert agent.kinds == ["self_transfer", "self_replication"]


def test_a_program_that_copies_its_image() -> None:
    agent = Agent("./bot", exe="/work/bot")
    agent.runs("scp", "bot", "node2:/tmp/")
    agent.runs("ssh", "node2", "/tmp/bot")
    assert agent.kinds == ["self_transfer", "self_replication"]


def test_a_local_copy_that_runs() -> None:
    agent = Agent()
    agent.runs("cp", "worker.py", "/tmp/.cache.py")
    assert agent.kinds == []
    agent.runs("python3", "/tmp/.cache.py")
    assert agent.kinds == ["self_copy"]
    assert agent.found[0]["TargetFilename"] == "/tmp/.cache.py"


def test_the_next_agent_of_a_number_has_copied_nothing() -> None:
    agent = Agent()
    agent.runs("cp", "worker.py", "/tmp/.cache.py")
    agent.fold.note(int(Type.AGENT), 1, 1, 0, 0, "next", "agentwatch/next", 7, "monitor")
    agent.runs("python3", "/tmp/.cache.py")
    assert agent.kinds == []


@pytest.mark.parametrize(
    "commands",
    [
        ["scp model.bin node2:/data/", "ssh node2 python3 serve.py"],
        ["rsync -az ./ node2:repo/", "ssh node2 python3 repo/worker.py"],
        ["scp node2:worker.py .", "ssh node2 ls"],
        ["cat id.pub", "ssh node2 cat >> .ssh/authorized_keys"],
        ["cp worker.py /backup/worker.py", "python3 worker.py"],
        ["scp deploy.sh node2:", "ssh node2 bash deploy.sh"],
    ],
)
def test_honest_copies(commands: list[str]) -> None:
    agent = Agent()
    for command in commands:
        agent.runs(*command.split())
    assert agent.kinds == []


def test_to_look_at_what_was_sent_is_not_to_run_it() -> None:
    agent = Agent()
    agent.runs("scp", "worker.py", "node2:")
    agent.runs("ssh", "node2", "ls -l worker.py; md5sum worker.py")
    agent.runs("ssh", "node3", "python3 worker.py")
    assert agent.kinds == ["self_transfer"]


def test_other_agents_files_are_not_its_own() -> None:
    agent = Agent()
    other = raw("exec", agent=2, tgid=900, start=900, parent=1, parent_start=1)
    agent.fold(other)
    assert agent.kinds == []


@pytest.mark.parametrize(
    ("parser", "line", "expected"),
    [
        (one.scp, "a b u@[::1]:/x", Copy(("a", "b"), "::1", "/x")),
        (one.scp, "-o Port=3 -- -a h:", Copy(("-a",), "h", "")),
        (one.scp, "h:a h2:b", None),
        (one.scp, "a", None),
        (one.rsync, "--exclude x a h::module/p", Copy(("a",), "h", "module/p")),
        (one.cp, "-a a b", Copy(("a",), "", "b")),
        (one.cp, "a", None),
    ],
)
def test_command_lines(parser: Any, line: str, expected: Copy | None) -> None:
    assert parser(line.split()) == expected


@pytest.mark.parametrize(
    ("argv", "script"),
    [
        ("python3.11 -u -W ignore a.py -m", "a.py"),
        ("python3 -m http.server", ""),
        ("bash -c 'x y'", ""),
        ("/bin/sh ./run.sh", "./run.sh"),
        ("vim a.py", ""),
    ],
)
def test_scripts(argv: str, script: str) -> None:
    assert one.script_of(argv.split()) == script


WORDS = st.lists(
    st.one_of(
        st.text(max_size=12), st.sampled_from(["-o", "--", "h:", "a@h:b", "worker.py", "cat > x", "-P"])
    ),
    max_size=8,
)


@given(st.lists(st.tuples(st.sampled_from(sorted(one._TOOLS)), WORDS), max_size=4))
def test_any_words(commands: list[tuple[str, list[str]]]) -> None:
    agent = Agent()
    for name, words in commands:
        agent.runs(name, *(word.replace("\0", "") for word in words if word.isprintable()))


def test_tables_are_bounded() -> None:
    agent = Agent()
    for number in range(one.HOSTS_KEPT + 20):
        agent.runs("scp", "worker.py", f"h{number}:x")
    for number in range(one.COPIES_KEPT + 20):
        agent.runs("cp", "worker.py", f"/tmp/{number}")
    (detector,) = [
        getattr(of, "__self__", None)
        for of in agent.fold.chain._by_type[32]
        if isinstance(getattr(of, "__self__", None), one.SelfReplication)
    ]
    assert isinstance(detector, one.SelfReplication)
    kept = detector._agents.of(agent.fold.state.agent(1))
    assert len(kept.sent) == one.HOSTS_KEPT
    assert len(kept.copies) == one.COPIES_KEPT
