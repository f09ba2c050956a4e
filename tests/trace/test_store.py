"""Files that only their creator writes."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from agentwatch.trace.error import TraceError
from agentwatch.trace.store import Rotation, SegmentFile, Segments, clear_way, segment_path, segment_paths


def test_only_the_owner_may_read(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        SegmentFile(tmp_path / "x.awt").close()
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "x.awt").stat().st_mode) == 0o600


def test_nothing_that_is_there_is_written_to(tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.write_bytes(b"precious")
    (tmp_path / "link").symlink_to(victim)
    (tmp_path / "dangling").symlink_to(tmp_path / "nowhere")
    os.mkfifo(tmp_path / "fifo")
    for name in ("victim", "link", "dangling", "fifo"):
        with pytest.raises(FileExistsError):
            SegmentFile(tmp_path / name)
    assert victim.read_bytes() == b"precious"
    assert not (tmp_path / "nowhere").exists()


def test_a_file_is_told_from_another_with_its_descriptor(tmp_path: Path) -> None:
    file = SegmentFile(tmp_path / "x.awt")
    file.append(b"ours")
    assert file.links() == 1
    fd = file.fileno()
    other = os.open(tmp_path / "other", os.O_RDWR | os.O_CREAT)
    os.dup2(other, fd)
    assert file.links() is None
    file.close()  # and the other file stays as it is, open
    os.write(fd, b"other")
    os.close(fd)
    os.close(other)
    assert (tmp_path / "other").read_bytes() == b"other"
    assert (tmp_path / "x.awt").read_bytes() == b"ours"


def test_a_removed_file_has_no_links(tmp_path: Path) -> None:
    file = SegmentFile(tmp_path / "x.awt")
    (tmp_path / "x.awt").unlink()
    assert file.links() == 0
    file.close()


def test_what_a_failed_write_left_is_cut_off(tmp_path: Path) -> None:
    file = SegmentFile(tmp_path / "x.awt")
    file.append(b"good")
    os.pwrite(file.fileno(), b"torn", file.size)
    file.append(b"!")
    file.close()
    assert (tmp_path / "x.awt").read_bytes() == b"good!"


def test_names_of_a_recording(tmp_path: Path) -> None:
    path = tmp_path / "job[1].awt"
    for segment in (0, 2, 10):
        segment_path(path, segment).touch()
    for other in ("job[1].1.awt", "job1.00001.awt", "job[1].00003.txt"):
        (tmp_path / other).touch()
    names = [found.name for found in segment_paths(path)]
    assert names == ["job[1].awt", "job[1].00002.awt", "job[1].00010.awt"]


def test_a_taken_name_is_passed_over_but_the_first(tmp_path: Path) -> None:
    path = tmp_path / "x.awt"
    segment_path(path, 1).touch()
    segments = Segments(path, None)
    file, number = segments.create(1)
    assert (file.path.name, number) == ("x.00002.awt", 2)
    path.touch()
    with pytest.raises(FileExistsError):
        segments.create(0)


def test_only_so_many_files_are_kept_and_only_ours_removed(tmp_path: Path) -> None:
    path = tmp_path / "x.awt"
    segments = Segments(path, Rotation(keep=2))
    for segment in range(3):
        segments.create(segment)[0].close()
    assert [found.name for found in segment_paths(path)] == ["x.00001.awt", "x.00002.awt"]
    segment_path(path, 1).unlink()
    segment_path(path, 1).write_bytes(b"another's")
    segments.create(3)[0].close()
    assert segment_path(path, 1).read_bytes() == b"another's"


def test_only_a_regular_file_makes_way(tmp_path: Path) -> None:
    path = tmp_path / "x.awt"
    clear_way(path)
    path.touch()
    clear_way(path)
    assert not path.exists()
    path.symlink_to(tmp_path / "target")
    with pytest.raises(TraceError, match="no regular file"):
        clear_way(path)


def test_the_name_is_synced_once_with_the_first_content(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: list[tuple[int, int]] = []
    fsync = os.fsync

    def noting(fd: int) -> None:
        status = os.fstat(fd)
        synced.append((status.st_dev, status.st_ino))
        fsync(fd)

    monkeypatch.setattr(os, "fsync", noting)
    file = SegmentFile(tmp_path / "run.awt")
    file.append(b"x")
    assert not synced
    file.sync()
    file.sync()
    file.close()
    status = tmp_path.stat()
    assert synced == [(status.st_dev, status.st_ino)]


def test_a_folder_that_cannot_be_synced_does_not_keep_from_recording(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(fd: int) -> None:
        raise OSError(22, "Invalid argument")

    monkeypatch.setattr(os, "fsync", fail)
    file = SegmentFile(tmp_path / "run.awt")
    file.append(b"x")
    file.sync()
    file.close()
    assert file.path.read_bytes() == b"x"
