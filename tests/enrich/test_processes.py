from __future__ import annotations

import struct

from hypothesis import given
from hypothesis import strategies as st

from agentwatch.enrich import processes
from agentwatch.enrich.processes import ProcessTable, Stream, arguments, path_of, streams_of
from agentwatch.schema import decode
from agentwatch.schema.events import Piece, PieceFlag, StreamKind
from tests.schema.records import raw


def feed(table: ProcessTable, *records: bytes) -> None:
    for row in decode.records(b"".join(records)):
        if row[decode.TYPE] == 33:
            table.piece(row)
        else:
            table.exec(row, 1, 1)


def pieces(exe: bytes, cwd: bytes, argv: bytes, tgid: int = 100) -> list[bytes]:
    return [
        raw("exec_piece", tgid=tgid, kind=Piece.EXE, length=len(exe), data=exe),
        raw("exec_piece", tgid=tgid, kind=Piece.CWD, length=len(cwd), data=cwd),
        raw("exec_piece", tgid=tgid, kind=Piece.ARGV, length=len(argv), data=argv),
    ]


def test_path_is_turned_round() -> None:
    assert path_of(b"ssh\0bin\0usr\0") == "/usr/bin/ssh"
    assert path_of(b"") == "/"


def test_arguments_may_be_empty_and_are_kept_apart() -> None:
    assert arguments(b"sh\0-c\0\0") == ("sh", "-c", "")
    assert arguments(b"caf\xe9\0") == ("caf\\xe9",)


@given(st.binary())
def test_each_argument_is_read_on_its_own(data: bytes) -> None:
    """A damaged character ends with its argument."""
    parts = data.split(b"\0")
    if not parts[-1]:
        parts.pop()
    assert arguments(data) == tuple(part.decode("utf-8", "backslashreplace") for part in parts)


def test_exec_is_put_together_from_its_pieces() -> None:
    table = ProcessTable()
    feed(table, *pieces(b"ssh\0bin\0", b"tmp\0", b"ssh\0h\0"), raw("exec", argv_length=6, uid=5, parent=1))
    process = table.known((100, 7))
    assert process is not None
    assert (process.exe, process.cwd, process.argv) == ("/bin/ssh", "/tmp", ("ssh", "h"))
    assert process.uid == 5
    assert process.truncated == frozenset()


def test_missing_pieces_are_said() -> None:
    table = ProcessTable()
    feed(table, raw("exec", argv_length=6))
    process = table.known((100, 7))
    assert process is not None
    assert process.truncated == {"CommandLine", "Argv", "Image", "CurrentDirectory"}


def test_a_hole_in_argv_ends_it_and_is_said() -> None:
    table = ProcessTable()
    first, third = b"a\0".ljust(4096, b"x"), b"z\0"
    feed(
        table,
        raw("exec_piece", kind=Piece.ARGV, offset=0, length=4096, data=first),
        raw("exec_piece", kind=Piece.ARGV, offset=8192, length=2, data=third),
        raw("exec_piece", kind=Piece.EXE, flags=int(PieceFlag.CUT), length=2, data=b"x\0"),
        raw("exec", argv_length=8194),
    )
    process = table.known((100, 7))
    assert process is not None
    assert process.argv[0] == "a"
    assert "CommandLine" in process.truncated
    assert "Image" in process.truncated


def test_child_is_what_its_creator_is_until_it_execs() -> None:
    table = ProcessTable()
    feed(table, *pieces(b"sh\0bin\0", b"", b"sh\0"), raw("exec", argv_length=3))
    (row,) = decode.slots(raw("fork", tgid=200, start=8, parent=100, parent_start=7))
    child = table.fork(row, (100, 7), 1)
    assert child.exe == "/bin/sh"
    assert [p.pid for p in table.ancestors(child)] == [100]


def test_a_reused_process_id_is_another_process() -> None:
    table = ProcessTable()
    assert table.get(5, 1, 1) is not table.get(5, 2, 1)


def test_ancestry_survives_exits() -> None:
    table = ProcessTable()
    table.get(1, 1, 1)
    (fork,) = decode.slots(raw("fork", tgid=2, start=2, parent=1, parent_start=1))
    child = table.fork(fork, (1, 1), 1)
    (gone,) = decode.slots(raw("exit", tgid=1, start=1, status=9))
    table.exit(gone, 1)
    assert [(p.pid, p.status) for p in table.ancestors(child)] == [(1, 9)]


def test_ended_processes_are_forgotten_oldest_first() -> None:
    table = ProcessTable()
    for pid in range(1, processes.ENDED_KEPT + 3):
        (row,) = decode.slots(raw("exit", tgid=pid, start=1))
        table.exit(row, 1)
    assert table.known((1, 1)) is None
    assert table.known((2, 1)) is None
    assert table.known((3, 1)) is not None


def test_a_cycle_of_parents_ends() -> None:
    table = ProcessTable()
    one, two = table.get(1, 1, 1), table.get(2, 1, 1)
    one.parent, two.parent = two.key, one.key
    assert [p.pid for p in table.ancestors(one)] == [2]


def test_no_process_is_nobodys_process() -> None:
    table = ProcessTable()
    assert table.get(0, 0, 1).pid == 0
    assert table.all() == []


def test_arguments_of_ended_processes_are_cut_and_that_is_said() -> None:
    table = ProcessTable()
    process = table.get(1, 1, 1)
    process.argv = ("sh", "x" * processes.ENDED_ARGV, "end")
    (row,) = decode.slots(raw("exit", tgid=1, start=1))
    table.exit(row, 1)
    assert list(process.argv) == ["sh"]
    assert process.truncated == {"CommandLine", "Argv"}


def variable(text: bytes, flags: int = 0) -> bytes:
    return raw("exec_piece", kind=Piece.ENVIRONMENT, flags=flags, length=len(text), data=text)


def test_variables_that_load_code_are_of_the_new_program_alone() -> None:
    table = ProcessTable()
    feed(table, variable(b"LD_PRELOAD=/x.so\0"), variable(b"ENV=/y\0"), raw("exec"))
    process = table.known((100, 7))
    assert process is not None
    assert process.environment == ("LD_PRELOAD=/x.so", "ENV=/y")
    assert "LoaderEnvironment" not in process.truncated
    feed(table, raw("exec"))
    assert not process.environment


def test_an_environment_too_long_to_look_through_is_said() -> None:
    table = ProcessTable()
    feed(table, variable(b"", int(PieceFlag.CUT)), raw("exec"))
    process = table.known((100, 7))
    assert process is not None
    assert (process.environment, "LoaderEnvironment" in process.truncated) == ((), True)


def test_variables_kept_are_bounded() -> None:
    table = ProcessTable()
    feed(table, *[variable(b"ENV=x\0")] * (processes.VARIABLES_KEPT + 1), raw("exec"))
    process = table.known((100, 7))
    assert process is not None
    assert len(process.environment) == processes.VARIABLES_KEPT
    assert "LoaderEnvironment" in process.truncated


def streams(*triples: tuple[int, int, int]) -> bytes:
    return b"".join(struct.pack("<QQI4x", identity, peer, kind) for kind, identity, peer in triples)


def test_standard_streams_are_those_of_the_exec() -> None:
    table = ProcessTable()
    data = streams((StreamKind.INET, 5, 0), (StreamKind.UNIX, 6, 7), (StreamKind.CLOSED, 0, 0))
    piece = raw("exec_piece", kind=Piece.STREAMS, length=len(data), data=data)
    feed(table, piece, raw("exec"))
    process = table.known((100, 7))
    assert process is not None
    assert process.streams == (Stream(StreamKind.INET, 5), Stream(StreamKind.UNIX, 6, 7), Stream(0))
    feed(table, raw("exec"))
    assert process.streams is None, "another exec, whose piece was lost"


@given(st.binary(max_size=100))
def test_streams_of_any_bytes(data: bytes) -> None:
    assert (streams_of(data) is not None) == (len(data) == 72)


def test_lineage_ends_where_another_program_was_run() -> None:
    table = ProcessTable()
    feed(table, *pieces(b"sh\0", b"", b"sh\0", tgid=1), raw("exec", tgid=1, argv_length=3))
    for pid in (2, 3):
        row = decode.slots(raw("fork", tgid=pid, parent=pid - 1, parent_start=7))[0]
        table.fork(row, (pid - 1, 7), 1)
    grandchild = table.get(3, 7, 1)
    assert [one.pid for one in table.lineage(grandchild)] == [3, 2, 1]
    for row in decode.records(b"".join([*pieces(b"ls\0", b"", b"ls\0", tgid=3), raw("exec", tgid=3)])):
        if row[decode.TYPE] == 33:
            table.piece(row)
        else:
            table.exec(row, 2, 1)
    assert table.origin(grandchild) is grandchild


def start_program(
    table: ProcessTable, pid: int, parent: int, exe: str, *argv: str, cwd: str = "/work"
) -> None:
    """A process is forked and runs a program."""
    (row,) = decode.slots(raw("fork", tgid=pid, parent=parent, parent_start=7))
    table.fork(row, (parent, 7), 1)
    run_program(table, pid, parent, exe, *argv, cwd=cwd)


def run_program(table: ProcessTable, pid: int, parent: int, exe: str, *argv: str, cwd: str = "/work") -> None:
    """A process runs another program."""

    def leaf_first(path: str) -> bytes:
        return b"".join(name.encode() + b"\0" for name in reversed(path.split("/")[1:]))

    words = b"".join(word.encode() + b"\0" for word in (exe.rpartition("/")[2], *argv))
    feed(
        table,
        *pieces(leaf_first(exe), leaf_first(cwd), words, tgid=pid),
        raw("exec", tgid=pid, argv_length=len(words), parent=parent, parent_start=7),
    )


def is_registered(table: ProcessTable, pid: int) -> bool:
    process = table.known((pid, 7))
    assert process is not None
    return process.registered


def test_root_command_and_what_it_starts_are_registered_shell_or_not() -> None:
    table = ProcessTable()
    run_program(table, 100, 1, "/bin/bash", "train.sh")
    start_program(table, 200, 100, "/usr/bin/torchrun", "train.py")
    start_program(table, 300, 200, "/usr/bin/python3.11", "train.py")
    assert all(is_registered(table, pid) for pid in (100, 200, 300))


def test_what_a_tools_shell_runs_is_not_registered_also_in_the_shells_place() -> None:
    table = ProcessTable()
    run_program(table, 100, 1, "/usr/bin/python3", "agent.py")
    start_program(table, 200, 100, "/usr/bin/dash", "-c", "./tool")
    run_program(table, 200, 100, "/work/tool")
    start_program(table, 300, 200, "/work/worker")
    assert is_registered(table, 100)
    assert not is_registered(table, 200)
    assert not is_registered(table, 300)


def test_named_training_is_registered_below_a_shell_until_the_next_one() -> None:
    table = ProcessTable(["/work/train.py", "/opt/trainer"])
    run_program(table, 100, 1, "/usr/bin/python3", "agent.py")
    start_program(table, 200, 100, "/bin/bash", "-c", "python3 -u train.py")
    start_program(table, 300, 200, "/usr/bin/python3.11", "-u", "./train.py", "--lr", "1")
    start_program(table, 400, 300, "/usr/bin/python3.11", "worker.py")
    start_program(table, 500, 400, "/bin/sh", "-c", "ls")
    start_program(table, 600, 200, "/opt/trainer")
    start_program(table, 700, 200, "/work/miner", "/work/train.py")
    found = {pid: is_registered(table, pid) for pid in range(200, 800, 100)}
    assert found == {200: False, 300: True, 400: True, 500: False, 600: True, 700: False}


def test_process_whose_fork_was_lost_is_what_its_parent_is() -> None:
    table = ProcessTable()
    run_program(table, 100, 1, "/usr/bin/python3", "agent.py")
    start_program(table, 200, 100, "/bin/sh", "-c", "tool")
    run_program(table, 300, 200, "/work/tool")
    assert not is_registered(table, 300)


def test_running_process_is_found_by_id_and_start_to_the_tick() -> None:
    table = ProcessTable()
    old, new = table.get(100, 30_000_001, 1), table.get(100, 70_000_001, 1)
    assert table.running(100, 70_000_000) is new
    assert table.running(100, 60_000_000) is None
    assert table.running(100, 80_000_000) is None
    assert table.running(100, 30_000_000) is None, f"{old} has ended"
    assert table.running(101, 70_000_000) is None


def test_index_of_running_processes_forgets_with_the_table() -> None:
    table = ProcessTable()
    for pid in range(1, processes.ENDED_KEPT + 10):
        (row,) = decode.slots(raw("exit", tgid=pid))
        table.exit(row, 1)
    assert len(table._latest) == len(table.all()) == processes.ENDED_KEPT
