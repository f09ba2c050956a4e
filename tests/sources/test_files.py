from __future__ import annotations

import os
from pathlib import Path

import pytest

from agentwatch.sources.files import READ_LIMIT, read_agent_file

PID = os.getpid()


def test_relative_paths_are_of_the_working_directory(tmp_path: Path) -> None:
    (tmp_path / "config").write_text("Host x\n")
    assert read_agent_file(PID, "config", str(tmp_path)) == (b"Host x\n", "")
    assert read_agent_file(PID, str(tmp_path / "config"), "/nowhere") == (b"Host x\n", "")


def test_only_the_beginning_of_a_large_file_is_read(tmp_path: Path) -> None:
    (tmp_path / "large").write_bytes(bytes(READ_LIMIT + 1))
    content, error = read_agent_file(PID, "large", str(tmp_path))
    assert (len(content), error) == (READ_LIMIT, "")


def test_a_fifo_neither_blocks_nor_gives(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    assert read_agent_file(PID, "fifo", str(tmp_path)) == (b"", "no regular file")


@pytest.mark.parametrize("path", ["/dev/zero", "/", "/dev/tty"])
def test_devices_and_folders_give_nothing(path: str) -> None:
    content, error = read_agent_file(PID, path, "/")
    assert content == b""
    assert error


@pytest.mark.parametrize("path", ["/no/such", "a\0b", "x" * 5000])
def test_what_cannot_be_opened_has_a_reason(path: str) -> None:
    content, error = read_agent_file(PID, path, "/")
    assert content == b""
    assert error


def test_a_process_that_is_gone_gives_a_reason() -> None:
    content, error = read_agent_file(2**22 + 1, "/etc/hostname", "/")
    assert content == b""
    assert error
