"""Packet captures: read back block by block, and by tshark where it is installed."""

from __future__ import annotations

import io
import shutil
import struct
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from agentwatch.forensics.export import to_pcapng
from tests.forensics.samples import DEMO, agent, incident, payload, recorded, run

WANTS = shutil.which("tshark")


def written(*paths: Path) -> bytes:
    file = io.BytesIO()
    for _ in to_pcapng([(path,) for path in paths], file.write):
        pass
    return file.getvalue()


def blocks(data: bytes) -> Iterator[tuple[int, bytes]]:
    """Type and body of each block; lengths before and after agree."""
    while data:
        kind, size = struct.unpack_from("<II", data)
        assert size % 4 == 0 and struct.unpack_from("<I", data, size - 4) == (size,)
        yield kind, data[8 : size - 4]
        data = data[size:]


def packets(data: bytes) -> list[tuple[int, bytes, int]]:
    """Interface, bytes and original length of each packet."""
    found = []
    for kind, body in blocks(data):
        if kind == 6:
            interface, _, _, captured, original = struct.unpack_from("<IIIII", body)
            found.append((interface, body[20 : 20 + captured], original))
    return found


def test_a_packet_says_what_was_captured_and_how_long_it_was(tmp_path: Path) -> None:
    found = packets(written(recorded(tmp_path, incident())))
    _, question, original = found[0]
    assert original == len(question) and question[23] == 17 and question[36:38] == (53).to_bytes(2, "big")
    _, request, original = found[1]
    assert request.endswith(b"GET / HTTP/1.1\r\n\r\n") and original == 54 + 1400
    assert request[12:14] == b"\x08\x00" and request[30:34] == bytes((203, 0, 113, 9))
    assert request[38:42] == (1000).to_bytes(4, "big")
    assert int.from_bytes(request[16:18], "big") == 40 + 1400
    assert sum(struct.unpack(">10H", request[14:34])) % 0xFFFF == 0  # the header's checksum holds


def test_each_recording_is_an_interface(tmp_path: Path) -> None:
    data = written(recorded(tmp_path, incident()), DEMO)
    assert [kind for kind, _ in blocks(data)][:2] == [0x0A0D0D0A, 1]
    assert {interface for interface, _, _ in packets(data)} == {0, 1}


def test_a_packet_longer_than_ip_can_say_has_length_zero(tmp_path: Path) -> None:
    rounds = [agent(), run(100, 1, 0, "/bin/a", ["a"]), payload(100, 1, b"x", port=9, length=200_000)]
    ((_, packet, original),) = packets(written(recorded(tmp_path, rounds)))
    assert packet[16:18] == b"\0\0" and original == 54 + 200_000


def test_comments_name_the_process_and_hide_nothing(tmp_path: Path) -> None:
    data = written(recorded(tmp_path, incident()))
    assert b"102 /usr/bin/curl" in data
    assert b"\x1b" not in data and "\u202e".encode() not in data


@pytest.mark.skipif(not WANTS, reason="tshark is not installed")
def test_tshark_reads_it(tmp_path: Path) -> None:
    path = tmp_path / "demo.pcapng"
    path.write_bytes(written(DEMO))
    shown = subprocess.run(
        [str(WANTS), "-r", str(path), "-T", "fields", "-e", "_ws.col.Protocol", "-e", "tcp.dstport"],
        capture_output=True,
        text=True,
        check=True,
    )
    lines = {tuple(line.split("\t")) for line in shown.stdout.splitlines()}
    assert ("HTTP", "80") in lines and any(protocol.startswith("SSH") for protocol, *_ in lines)
    assert "malformed" not in shown.stdout.lower()
