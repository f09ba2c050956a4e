from __future__ import annotations

import json
import resource
from io import BytesIO
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentwatch.sinks.alerts import AlertFile, encode, endpoint, open_alert_file, timestamp


def test_timestamp_has_nanoseconds_and_is_utc() -> None:
    assert timestamp(5, 1_700_000_000_000_000_000) == "2023-11-14T22:13:20.000000005Z"


@pytest.mark.parametrize(
    ("address", "port", "text"),
    [("10.0.0.1", 22, "10.0.0.1:22"), ("fd00::1", 22, "[fd00::1]:22"), ("", 0, None), ("", 53, ":53")],
)
def test_endpoints(address: str, port: int, text: str | None) -> None:
    assert endpoint(address, port) == text


@given(st.text())
def test_nothing_in_a_line_can_act_on_a_terminal(text: str) -> None:
    line = encode({"cmdline": text})
    assert line.isascii()
    assert line.isprintable()
    assert json.loads(line) == {"cmdline": text}


def test_keys_are_sorted() -> None:
    assert encode({"b": 1, "a": {"d": 1, "c": 2}}) == '{"a": {"c": 2, "d": 1}, "b": 1}'


def test_each_alert_is_there_at_once(tmp_path: Path) -> None:
    path = tmp_path / "alerts"
    with open_alert_file(path) as stream:
        AlertFile(stream).write({"a": 1})
        assert path.read_bytes() == b'{"a": 1}\n'


def test_a_torn_line_costs_only_itself(tmp_path: Path) -> None:
    """The disk fills up in the middle of a line, and has room again later."""
    path = tmp_path / "alerts"
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    with open_alert_file(path) as stream:
        file = AlertFile(stream)
        file.write({"a": 1})
        resource.setrlimit(resource.RLIMIT_FSIZE, (12, hard))
        try:
            with pytest.raises(OSError):
                file.write({"lost": 2})
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        file.write({"c": 3})
    lines = path.read_bytes().split(b"\n")
    assert json.loads(lines[0]) == {"a": 1}
    assert json.loads(lines[2]) == {"c": 3}


def test_a_stream_that_takes_little_at_a_time_gets_all() -> None:
    class Slow(BytesIO):
        def write(self, data: object) -> int:
            return super().write(bytes(data)[:3])  # type: ignore[call-overload]

    stream = Slow()
    AlertFile(stream).write({"a": "long enough"})
    assert stream.getvalue() == b'{"a": "long enough"}\n'
