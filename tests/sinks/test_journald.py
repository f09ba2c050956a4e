"""The journal's native protocol, against a socket like the journal's."""

from __future__ import annotations

import fcntl
import json
import os
import socket
import struct
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentwatch.config.sinks import Journald
from agentwatch.sinks.journald import MESSAGE_ID, JournaldSink, fields, serialize
from agentwatch.sinks.outlet import Outlet
from tests.lab import needs_root
from tests.sinks.samples import item, run, until

ROOT = Path(__file__).parent.parent.parent
JOURNALD = Path("/lib/systemd/systemd-journald")

pytestmark = pytest.mark.usefixtures("impatient")


def parsed(data: bytes) -> dict[str, str]:
    """An entry, read as journald reads it (journald-native.c)."""
    entry = {}
    while data:
        line, _, rest = data.partition(b"\n")
        name, equals, value = line.partition(b"=")
        if equals:
            data = rest
        else:
            (length,) = struct.unpack_from("<Q", rest)
            value, end, data = rest[8 : 8 + length], rest[8 + length : 9 + length], rest[9 + length :]
            assert end == b"\n"
        entry[name.decode()] = value.decode()
    return entry


class Journal:
    """A socket like journald's."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(str(path))
        self._socket.setblocking(False)

    def entries(self) -> Iterator[dict[str, str]]:
        """All that have come."""
        while True:
            try:
                data, fds, _, _ = socket.recv_fds(self._socket, 1 << 20, 1)
            except BlockingIOError:
                return
            for fd in fds:
                assert not data
                assert fcntl.fcntl(fd, fcntl.F_GET_SEALS) & fcntl.F_SEAL_WRITE
                data = os.pread(fd, os.fstat(fd).st_size, 0)
                os.close(fd)
            yield parsed(data)

    def close(self) -> None:
        self._socket.close()
        self.path.unlink()


@pytest.fixture
def journal(tmp_path: Path) -> Iterator[Journal]:
    made = Journal(tmp_path / "socket")
    yield made
    made.close()


@given(st.dictionaries(st.from_regex("[A-Z][A-Z_]{0,20}", fullmatch=True), st.text()))
def test_any_value_arrives_as_it_was(entry: dict[str, str]) -> None:
    expected = {name: value.encode("utf-8", "backslashreplace").decode() for name, value in entry.items()}
    assert parsed(serialize(entry)) == expected


def test_an_alert_has_structured_fields(journal: Journal) -> None:
    async def scenario() -> None:
        outlet = Outlet("journald", JournaldSink(Journald(socket=journal.path)), print)
        outlet.put(item(3, level="critical", exe="/tmp/a\nFAKE=1"))
        (entry,) = await until(lambda: list(journal.entries()))
        assert entry["MESSAGE_ID"] == MESSAGE_ID
        assert entry["PRIORITY"] == "2"
        assert entry["AGENTWATCH_RULE"] == "5e0a7b6e-0f63-4c39-9c57-9a3b1d7d1a11"
        assert entry["AGENTWATCH_AGENT"] == "job"
        assert entry["AGENTWATCH_EXE"] == "/tmp/a\\x0aFAKE=1"
        assert "FAKE" not in entry
        assert json.loads(entry["AGENTWATCH_ALERT"])["process"]["exe"] == "/tmp/a\nFAKE=1"
        assert "a\\x0aFAKE" in entry["MESSAGE"]
        await outlet.close(1)

    run(scenario)


def test_a_large_alert_travels_in_a_sealed_memory_file(journal: Journal) -> None:
    async def scenario() -> None:
        outlet = Outlet("journald", JournaldSink(Journald(socket=journal.path)), print)
        large = item(1, cmdline="x" * 1_000_000)
        outlet.put(large)
        (entry,) = await until(lambda: list(journal.entries()))
        assert entry == fields(large)
        await outlet.close(1)

    run(scenario)


@pytest.mark.usefixtures("hasty")
def test_a_journal_that_reads_nothing_is_waited_for(journal: Journal) -> None:
    async def scenario() -> None:
        outlet = Outlet("journald", JournaldSink(Journald(socket=journal.path)), print)
        for number in range(1000):  # more than the socket holds
            outlet.put(item(number))
        await until(lambda: outlet.status()["error"] == "no answer in time")
        got: list[str] = []

        def all_of_them() -> bool:
            got.extend(entry["AGENTWATCH_PID"] for entry in journal.entries())
            return len(got) >= 1000

        await until(all_of_them)
        assert got == [str(4000 + number) for number in range(1000)]
        await outlet.close(1)

    run(scenario)


def test_a_journal_that_was_restarted_is_found_again(tmp_path: Path) -> None:
    async def scenario() -> None:
        path = tmp_path / "socket"
        outlet = Outlet("journald", JournaldSink(Journald(socket=path)), print)
        outlet.put(item(0))
        await until(lambda: outlet.status()["error"] == "No such file or directory")
        for number in range(3):
            journal = Journal(path)
            outlet.put(item(number + 1))
            assert await until(lambda journal=journal: list(journal.entries()))  # type: ignore[misc]
            journal.close()
        await outlet.close(1)
        assert outlet.status()["dropped"] == 0

    run(scenario)


@needs_root
@pytest.mark.skipif(
    not (JOURNALD.exists() and Path("/etc/machine-id").exists()), reason="no systemd-journald here"
)
def test_a_real_journal_keeps_what_was_sent() -> None:
    """journald in a mount namespace of its own, with a /run and a /var/log of its own."""
    code = textwrap.dedent(
        f"""
        import json
        from pathlib import Path
        import tests.sinks.test_journald as t
        from tests.lab import eventually

        path = Path("/run/systemd/journal/socket")
        sent = [t.item(1), t.item(2, cmdline="x" * 400_000), t.item(3, exe="/tmp/a\\nPRIORITY=0")]

        async def scenario():
            outlet = t.Outlet("journald", t.JournaldSink(t.Journald(socket=path)), print)
            for one in sent:
                outlet.put(one)
            await t.until(lambda: outlet.status()["sent"] == 3)
            await outlet.close(1)

        def kept():
            command = "journalctl -D /run/log/journal -o json --all MESSAGE_ID=" + t.MESSAGE_ID
            found = t.subprocess.run(command.split(), capture_output=True, text=True).stdout.splitlines()
            return [json.loads(line) for line in found] if len(found) == 3 else None

        daemon = t.subprocess.Popen([{str(JOURNALD)!r}])
        try:
            eventually(path.is_socket)
            t.run(scenario)
            for entry, one in zip(eventually(kept), sent):
                expected = t.fields(one)
                assert expected == {{name: entry[name] for name in expected}}
        finally:
            daemon.kill()
            daemon.wait()
        """
    )
    script = (
        "for folder in /run /var/log; do mount -t tmpfs none $folder || exit; done; "
        'mkdir -p /run/systemd/journal /run/log/journal && exec "$@"'
    )
    command = ["unshare", "-m", "sh", "-c", script, "sh", sys.executable, "-c", code]
    subprocess.run(command, cwd=ROOT, check=True, timeout=60)
