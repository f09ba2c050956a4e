"""Recording: what goes in comes out, whatever happens to the disk."""

from __future__ import annotations

import os
import resource
import shutil
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import cast

import pytest

from agentwatch.sources.base import Batch, BatchKind, Round
from agentwatch.trace.error import TraceError
from agentwatch.trace.format import FrameType
from agentwatch.trace.reader import Damage, DamageKind, TraceReader
from agentwatch.trace.store import Rotation, segment_path, segment_paths
from agentwatch.trace.verify import verify
from agentwatch.trace.writer import TraceWriter
from tests.lab import eventually, needs_root
from tests.trace.samples import MARK, header, rounds, slot, slots

ROUNDS = rounds(40)
ROOT = Path(__file__).parents[2]


def _read(path: Path) -> tuple[list[Round], list[Damage]]:
    with TraceReader(path) as reader:
        return list(reader), reader.damage


def _append(writer: TraceWriter, many: list[Round]) -> None:
    for batches in many:
        writer.append(batches)


def _incompressible(number: int, size: int = 20_000) -> Round:
    return (slots(slot(number + 1), os.urandom(size // 128 * 128)),)


def test_rounds_come_back_in_their_order(tmp_path: Path) -> None:
    path = tmp_path / "x.awt"
    with TraceWriter(path, header(), rules=b"rules") as writer:
        _append(writer, ROUNDS)
    assert _read(path) == (ROUNDS, [])
    report = verify(path)
    assert report.whole and report.closed and report.rounds == len(ROUNDS)
    status = writer.status()
    assert (status.state, status.rounds, status.records) == ("closed", report.rounds, report.records)
    assert status.stored_bytes == path.stat().st_size and status.lost_rounds == 0


def test_what_was_flushed_is_in_the_file_before_the_end(tmp_path: Path) -> None:
    path = tmp_path / "x.awt"
    writer = TraceWriter(path, header(), flush_seconds=3600)
    for count in range(0, len(ROUNDS), 10):
        _append(writer, ROUNDS[count : count + 10])
        assert writer.flush()
        got, damage = _read(path)
        assert got == ROUNDS[: count + 10]
        assert [item.kind for item in damage] == [DamageKind.UNFINISHED]
    writer.close()


def test_rounds_reach_the_file_without_being_asked_for(tmp_path: Path) -> None:
    path = tmp_path / "x.awt"
    with TraceWriter(path, header()) as writer:
        writer.append(ROUNDS[0])
        eventually(lambda: writer.status().rounds == 1)
        assert _read(path)[0] == ROUNDS[:1]


def test_a_mebibyte_is_written_at_once(tmp_path: Path) -> None:
    with TraceWriter(tmp_path / "x.awt", header(), flush_seconds=3600) as writer:
        for number in range(60):
            writer.append(_incompressible(number))
        eventually(lambda: writer.status().rounds >= 50)


def test_a_recording_tells_what_it_is_of_before_its_first_round(tmp_path: Path) -> None:
    path = tmp_path / "x.awt"
    with TraceWriter(path, header()):
        eventually(lambda: path.stat().st_size)
        with TraceReader(path) as reader:
            assert reader.header == header()


def test_an_empty_round_is_none(tmp_path: Path) -> None:
    path = tmp_path / "x.awt"
    with TraceWriter(path, header()) as writer:
        writer.append(())
    assert _read(path) == ([], [])


def test_large_rounds_stay_whole(tmp_path: Path) -> None:
    path = tmp_path / "x.awt"
    large: Round = (slots(slot(1) * (3 << 16)), slots(slot(2)))
    made = [large, ROUNDS[0], large]
    with TraceWriter(path, header()) as writer:
        for batches in made:
            writer.append(batches)
            assert writer.flush()
    got, damage = _read(path)
    assert not damage
    assert [one == other for one, other in zip(got, made, strict=True)] == [True] * 3


@pytest.mark.parametrize(
    "spoiled",
    [
        (Batch(BatchKind.SLOTS, bytes(65 << 20)),),
        (slots(slot(1)),) * 65,
        (Batch(BatchKind.NOTES, cast(bytes, memoryview(bytearray(8))[::2])),),
    ],
    ids=["too large", "too many batches", "no bytes"],
)
def test_a_round_that_fits_no_frame_becomes_a_gap(tmp_path: Path, spoiled: Round) -> None:
    path = tmp_path / "x.awt"
    writer = TraceWriter(path, header())
    for batches in (ROUNDS[0], spoiled, ROUNDS[1]):
        writer.append(batches)
        assert writer.flush()
    status = writer.close()
    got, damage = _read(path)
    assert got == ROUNDS[:2]
    assert [(item.kind, item.rounds) for item in damage] == [(DamageKind.GAP, 1)]
    assert status.lost_rounds == 1 and status.errors == 1
    assert status.lost_records == writer.lost_records


def test_a_path_that_cannot_be_is_an_error_at_the_start(tmp_path: Path) -> None:
    (tmp_path / "taken").touch()
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    for name in ("gone/x.awt", "taken", "link", "taken/x.awt", "."):
        with pytest.raises(TraceError):
            TraceWriter(tmp_path / name, header())
        with pytest.raises(TraceError):
            TraceWriter(tmp_path / name, header(), overwrite=name != "taken")
    assert not (tmp_path / "nowhere").exists()


def test_a_file_is_overwritten_where_that_is_asked_for(tmp_path: Path) -> None:
    path = tmp_path / "x.awt"
    for _ in range(2):
        with TraceWriter(path, header(), overwrite=True) as writer:
            writer.append(ROUNDS[0])
    assert _read(path) == (ROUNDS[:1], [])


def test_closing_twice_and_appending_after_is_harmless(tmp_path: Path) -> None:
    path = tmp_path / "x.awt"
    writer = TraceWriter(path, header())
    writer.close()
    writer.append(ROUNDS[0])
    assert writer.close().lost_rounds == 1
    assert _read(path) == ([], [])


# --- rotation ---


def test_files_follow_one_another(tmp_path: Path) -> None:
    path = tmp_path / "x.awt"
    writer = TraceWriter(path, header(), rules=b"rules", rotation=Rotation(max_bytes=5000))
    for batches in ROUNDS:
        writer.append(batches)
        assert writer.flush()
    writer.close()
    files = segment_paths(path)
    assert len(files) > 2
    got: list[Round] = []
    previous = b""
    for number, file in enumerate(files):
        with TraceReader(file) as reader:
            assert (reader.header.segment, reader.header.previous) == (number, previous)
            assert reader.rules == b"rules"
            got += reader
            assert reader.damage == []
            previous = reader.digest
    assert got == ROUNDS


def test_files_end_by_age_and_old_ones_go(tmp_path: Path) -> None:
    path = tmp_path / "x.awt"
    writer = TraceWriter(path, header(), rotation=Rotation(max_age=0, keep=2))
    for batches in ROUNDS[:5]:
        writer.append(batches)
        assert writer.flush()
    writer.close()
    files = segment_paths(path)
    assert len(files) == 2
    assert [batches for file in files for batches in _read(file)[0]] == ROUNDS[3:5]


def test_a_planted_name_is_not_written_through(tmp_path: Path) -> None:
    path = tmp_path / "x.awt"
    victim = tmp_path / "victim"
    segment_path(path, 1).symlink_to(victim)
    writer = TraceWriter(path, header(), rotation=Rotation(max_age=0))
    for batches in ROUNDS[:2]:
        writer.append(batches)
        assert writer.flush()
    status = writer.close()
    assert not victim.exists() and status.lost_rounds == 0
    with TraceReader(status.path) as reader:
        assert list(reader) == ROUNDS[1:2]


# --- disks that fail ---


@contextmanager
def _files_limited_to(size: int) -> Iterator[None]:
    """A write beyond `size` fails with EFBIG, as one on a full disk does with ENOSPC."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def _check_gap(path: Path, appended: list[Round], lost: int) -> None:
    """The trace is whole but for gaps that hold `lost` rounds, and the rest is in order."""
    got, damage = _read(path)
    assert {item.kind for item in damage} == {DamageKind.GAP}
    assert sum(item.rounds or 0 for item in damage) == lost == len(appended) - len(got)
    left = iter(appended)
    assert all(batches in left for batches in got)


def test_what_waits_for_a_full_disk_is_written_when_there_is_room(tmp_path: Path) -> None:
    path = tmp_path / "x.awt"
    made = [_incompressible(number) for number in range(20)]
    with _files_limited_to(100_000):
        writer = TraceWriter(path, header())
        for batches in made:
            writer.append(batches)
            writer.flush(timeout=0.01)
        eventually(lambda: writer.status().state == "failing")
        assert "too large" in writer.status().last_error
        got, damage = _read(path)
        assert got == made[: len(got)]
        assert damage[-1].kind is DamageKind.UNFINISHED
    assert writer.flush()
    status = writer.close()
    assert status.lost_rounds == 0 and status.errors > 0
    assert _read(path) == (made, [])


def test_what_does_not_fit_the_backlog_is_a_gap(tmp_path: Path) -> None:
    path = tmp_path / "x.awt"
    made = [_incompressible(number) for number in range(60)]
    with _files_limited_to(100_000):
        writer = TraceWriter(path, header(), backlog_bytes=200_000)
        for batches in made[:40]:
            writer.append(batches)
            writer.flush(timeout=0.01)
        eventually(lambda: writer.status().lost_rounds)
        assert writer.status().backlog_bytes <= 200_000
    assert writer.flush()
    for batches in made[40:]:
        writer.append(batches)
        assert writer.flush()
    status = writer.close()
    assert status.state == "closed" and status.lost_rounds > 0 and status.lost_records >= status.lost_rounds
    _check_gap(path, made, status.lost_rounds)


def test_a_disk_that_stays_full_does_not_hold_up_the_end(tmp_path: Path) -> None:
    path = tmp_path / "x.awt"
    made = [_incompressible(number) for number in range(20)]
    with _files_limited_to(100_000):
        writer = TraceWriter(path, header())
        for batches in made:
            writer.append(batches)
            writer.flush(timeout=0.01)
        status = writer.close()
    got, damage = _read(path)
    assert got == made[: len(got)]
    assert [(item.kind, item.rounds) for item in damage] == [(DamageKind.GAP, len(made) - len(got))]
    assert status.state == "closed" and status.lost_rounds == len(made) - len(got)


def test_a_closed_descriptor_is_followed_by_a_new_file(tmp_path: Path) -> None:
    path = tmp_path / "x.awt"
    writer = TraceWriter(path, header())
    writer.append(ROUNDS[0])
    assert writer.flush()
    fd = next(fd for fd in (int(link.name) for link in Path("/proc/self/fd").iterdir()) if _is(fd, path))
    other = os.open(tmp_path / "other", os.O_RDWR | os.O_CREAT)
    os.dup2(other, fd)
    writer.append(ROUNDS[1])
    assert writer.flush()
    status = writer.close()
    os.close(fd)
    os.close(other)
    assert (tmp_path / "other").read_bytes() == b""
    assert status.lost_rounds == 0
    assert _read(path)[0] == ROUNDS[:1]
    with TraceReader(segment_path(path, 1)) as reader:
        assert list(reader) == ROUNDS[1:2] and not reader.damage
        with TraceReader(path) as before:
            list(before)
            assert reader.header.previous == before.digest


def _is(fd: int, path: Path) -> bool:
    try:
        return Path(f"/proc/self/fd/{fd}").samefile(path)
    except OSError:
        return False


def test_a_folder_that_goes_and_comes_back(tmp_path: Path) -> None:
    folder = tmp_path / "traces"
    folder.mkdir()
    path = folder / "x.awt"
    writer = TraceWriter(path, header())
    writer.append(ROUNDS[0])
    assert writer.flush()
    shutil.rmtree(folder)
    writer.append(ROUNDS[1])
    eventually(lambda: writer.status().state == "failing")
    assert writer.status().last_error == "No such file or directory"
    folder.mkdir()
    assert writer.flush()
    writer.close()
    got, damage = _read(segment_path(path, 1))
    assert got == ROUNDS[1:2]
    assert [(item.kind, item.rounds, item.detail) for item in damage] == [
        (DamageKind.GAP, 1, "file 0 was removed")
    ]


@needs_root
def test_a_disk_that_is_really_full(tmp_path: Path) -> None:
    """A tmpfs of 128 KiB in a mount namespace of its own."""
    code = textwrap.dedent(
        f"""
        from pathlib import Path
        import tests.trace.test_writer as t
        disk = Path({str(tmp_path)!r})
        ballast = disk / "ballast"
        ballast.write_bytes(bytes(60_000))
        made = [t._incompressible(number) for number in range(30)]
        writer = t.TraceWriter(disk / "x.awt", t.header(), backlog_bytes=100_000)
        for batches in made[:10]:
            writer.append(batches)
            writer.flush(timeout=0.05)
        assert writer.status().state == "failing", writer.status()
        assert writer.status().last_error == "No space left on device", writer.status()
        ballast.unlink()
        t.subprocess.run(["mount", "-o", "remount,size=4m", str(disk)], check=True)
        assert writer.flush()
        for batches in made[10:]:
            writer.append(batches)
            assert writer.flush()
        status = writer.close()
        assert status.lost_rounds, status
        t._check_gap(disk / "x.awt", made, status.lost_rounds)
        """
    )
    script = f'mount -t tmpfs -o size=128k none {tmp_path} && exec "$@"'
    command = ["unshare", "-m", "sh", "-c", script, "sh", sys.executable, "-c", code]
    subprocess.run(command, cwd=ROOT, check=True)


def test_appending_does_not_wait_for_the_disk(tmp_path: Path) -> None:
    """While the recorder's thread is stuck in a write, rounds go in, and are counted when too many."""
    path = tmp_path / "x.awt"
    writer = TraceWriter(path, header(), backlog_bytes=100_000)
    stuck, release = threading.Event(), threading.Event()
    put = writer._output.put

    def slow(body: object) -> None:
        stuck.set()
        release.wait()
        put(body)  # type: ignore[arg-type]

    writer._output.put = slow  # type: ignore[method-assign]
    made = [_incompressible(number) for number in range(20)]
    writer.append(made[0])
    assert stuck.wait(10)
    _append(writer, made[1:])
    assert writer.status().lost_rounds > 0
    assert writer.close(timeout=0.01).state != "closed"
    release.set()
    status = writer.close()
    assert status.state == "closed"
    _check_gap(path, made, status.lost_rounds)


# --- recorders that are killed ---

_KILLED = textwrap.dedent(
    """
    import sys
    from tests.trace.samples import header, rounds
    from agentwatch.trace.writer import TraceWriter
    writer = TraceWriter(sys.argv[1], header())
    made = rounds(2000)
    written = 0
    for number, batches in enumerate(made * 100):
        writer.append(batches)
        if writer.status().rounds > written:
            written = writer.status().rounds
            print(written, flush=True)
    """
)


@pytest.mark.parametrize("lines", [1, 2, 3, 7, 20])
def test_a_killed_recorder_loses_nothing_that_was_written(tmp_path: Path, lines: int) -> None:
    path = tmp_path / "x.awt"
    with subprocess.Popen(
        [sys.executable, "-c", _KILLED, str(path)], stdout=subprocess.PIPE, text=True, cwd=ROOT
    ) as child:
        assert child.stdout is not None
        for _ in range(lines):
            line = child.stdout.readline()
        child.send_signal(signal.SIGKILL)
        rest = child.stdout.read()
    written = int((rest or line).split()[-1])
    got, damage = _read(path)
    made = rounds(2000)
    assert len(got) >= written
    assert got == (made * (len(got) // len(made) + 1))[: len(got)]
    assert {item.kind for item in damage} <= {DamageKind.TORN, DamageKind.UNFINISHED}
    assert damage[-1].kind is DamageKind.UNFINISHED


def test_the_same_rounds_make_the_same_bytes(tmp_path: Path) -> None:
    paths = [tmp_path / "a.awt", tmp_path / "b.awt"]
    for path in paths:
        with TraceWriter(path, header(), flush_seconds=3600, sync=MARK) as writer:
            _append(writer, ROUNDS)
    assert paths[0].read_bytes() == paths[1].read_bytes()


def test_a_frame_tells_the_span_of_its_events(tmp_path: Path) -> None:
    path = tmp_path / "x.awt"
    with TraceWriter(path, header(), flush_seconds=3600) as writer:
        _append(writer, ROUNDS)
    with TraceReader(path) as reader:
        (frame,) = [frame for frame in reader.frames() if frame.body.type == FrameType.ROUNDS]
    assert frame.body.rounds == len(ROUNDS)
    assert frame.body.first_time < frame.body.last_time < time.time_ns()
