"""The file of alerts: rotated here and by others, on disks that fill up or hang."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import textwrap
import threading
import time
from pathlib import Path

import pytest

from agentwatch.config.sinks import Jsonl
from agentwatch.sinks.jsonl import JsonlSink, RotatedFile
from agentwatch.sinks.outlet import Outlet
from tests.lab import needs_root
from tests.sinks.samples import item, run, until

ROOT = Path(__file__).parent.parent.parent


def lines(path: Path) -> list[bytes]:
    return path.read_bytes().splitlines()


def test_a_file_grows_so_large_and_so_many_are_kept(tmp_path: Path) -> None:
    path = tmp_path / "made" / "alerts"
    file = RotatedFile(Jsonl(path=path, rotate_bytes=30, keep=2))
    for number in range(10):
        file.write(b"line %06d" % number)  # two in a file
    file.close()
    assert lines(path) == [b"line 000008", b"line 000009"]
    assert lines(path.with_name("alerts.1")) == [b"line 000006", b"line 000007"]
    assert lines(path.with_name("alerts.2")) == [b"line 000004", b"line 000005"]
    assert len(list(path.parent.iterdir())) == 3
    assert path.stat().st_mode & 0o007 == 0


def test_a_file_that_is_not_kept_begins_anew(tmp_path: Path) -> None:
    file = RotatedFile(Jsonl(path=tmp_path / "alerts", rotate_bytes=15, keep=0))
    file.write(b"line 000001")
    file.write(b"line 000002")
    file.close()
    assert [path.name for path in tmp_path.iterdir()] == ["alerts"]
    assert lines(tmp_path / "alerts") == [b"line 000002"]


def test_a_line_of_another_day_is_in_another_file(tmp_path: Path) -> None:
    path = tmp_path / "alerts"
    file = RotatedFile(Jsonl(path=path, rotate_seconds=3600))
    file.write(b"old")
    yesterday = time.time() - 3601
    os.utime(path, (yesterday, yesterday))
    file.write(b"new")
    file.close()
    assert (lines(path), lines(tmp_path / "alerts.1")) == ([b"new"], [b"old"])


@pytest.mark.parametrize("gone", [lambda path: path.rename(f"{path}-old"), Path.unlink])
def test_logrotate_may_take_the_file_away(tmp_path: Path, gone: object) -> None:
    path = tmp_path / "alerts"
    file = RotatedFile(Jsonl(path=path))
    file.write(b"one")
    gone(path)  # type: ignore[operator]
    file.write(b"two")
    file.close()
    assert lines(path) == [b"two"]


def test_a_line_that_an_earlier_daemon_tore_costs_only_itself(tmp_path: Path) -> None:
    path = tmp_path / "alerts"
    path.write_bytes(b'{"a": 1}\n{"to')
    file = RotatedFile(Jsonl(path=path))
    file.write(b'{"b": 2}')
    file.close()
    assert lines(path) == [b'{"a": 1}', b'{"to', b'{"b": 2}']


def test_a_link_is_not_followed(tmp_path: Path) -> None:
    victim, path = tmp_path / "victim", tmp_path / "alerts"
    victim.write_text("precious\n")
    path.symlink_to(victim)
    with pytest.raises(OSError, match="symbolic links"):
        RotatedFile(Jsonl(path=path)).write(b"x")
    assert victim.read_text() == "precious\n"


@pytest.mark.usefixtures("impatient", "hasty")
def test_a_disk_that_hangs_holds_up_nobody_and_nothing_is_written_twice(tmp_path: Path) -> None:
    path = tmp_path / "pipe"  # hangs as soon as it is full
    os.mkfifo(path)
    count = 300

    async def scenario() -> None:
        outlet = Outlet("jsonl", JsonlSink(Jsonl(path=path)), print)
        for number in range(count):
            outlet.put(item(number, cmdline="x" * 2000))
        await until(lambda: outlet.status()["error"] == "no answer in time")
        got = bytearray()
        reader = os.open(path, os.O_RDONLY)

        def read() -> None:
            while got.count(b"\n") < count:
                got.extend(os.read(reader, 1 << 16))

        thread = threading.Thread(target=read)
        thread.start()
        await until(lambda: outlet.status()["sent"] == count)
        thread.join()
        os.close(reader)
        assert [json.loads(line)["evidence"] for line in got.splitlines()] == [[n] for n in range(count)]
        await outlet.close(1)
        assert outlet.status()["dropped"] == 0

    run(scenario)


@needs_root
def test_a_disk_that_is_full_is_told_and_goes_on_when_it_has_room(tmp_path: Path) -> None:
    """A tmpfs of 128 KiB in a mount namespace of its own."""
    code = textwrap.dedent(
        f"""
        import json
        from pathlib import Path
        import tests.sinks.test_jsonl as t
        disk = Path({str(tmp_path)!r})
        (disk / "ballast").write_bytes(bytes(60_000))

        async def scenario():
            said = []
            sink = t.JsonlSink(t.Jsonl(path=disk / "alerts"))
            outlet = t.Outlet("jsonl", sink, said.append, queue=150)
            for number in range(400):
                outlet.put(t.item(number))
            await t.until(lambda: outlet.status()["error"] == "No space left on device")
            assert len(said) == 1, said
            for number in range(400, 600):
                outlet.put(t.item(number))
            before = outlet.status()
            assert before["dropped"] > 250, before
            (disk / "ballast").unlink()
            t.subprocess.run(["mount", "-o", "remount,size=4m", str(disk)], check=True)
            await t.until(lambda: outlet.status()["queued"] == 0)
            await outlet.close(1)
            whole, torn = [], 0
            for line in t.lines(disk / "alerts"):
                try:
                    whole.append(json.loads(line)["evidence"][0])
                except ValueError:
                    torn += 1
            after = outlet.status()
            assert after["error"] == "" and torn <= 1, (after, torn)
            assert whole == sorted(set(whole)) and len(whole) == after["sent"], whole
            assert after["sent"] + after["dropped"] == 600, after

        t.run(scenario)
        """
    )
    script = f'mount -t tmpfs -o size=128k none {tmp_path} && exec "$@"'
    command = ["unshare", "-m", "sh", "-c", script, "sh", sys.executable, "-c", code]
    subprocess.run(command, cwd=ROOT, check=True)
