"""What the probes report of operations that take privilege; all in namespaces that the test makes."""

from __future__ import annotations

import os
import textwrap
from pathlib import Path

import pytest

from agentwatch.detect.privileged import CATEGORIES, Privileged
from agentwatch.enrich.facts import Facts
from agentwatch.enrich.sighting import Sighting
from agentwatch.enrich.state import State
from agentwatch.schema import decode
from tests.lab.watched import Watched, watched

pytestmark = [pytest.mark.root, pytest.mark.skipif(os.geteuid() != 0, reason="needs root")]


def run(*command: str) -> list[Sighting]:
    with watched(list(command)) as agent:
        agent.until_end()
    return events(agent)


def events(agent: Watched) -> list[Sighting]:
    """The events of what was kept."""
    state = State()
    detector = Privileged(state, CATEGORIES)
    found: list[Sighting] = []
    for seq, (_, row) in enumerate(sorted(agent.rows, key=lambda kept: kept[1][decode.TIME])):
        change = state.apply(seq, row)
        if change is not None and change.type in detector.handlers:
            found += detector.handlers[change.type](change)
    return found


def python(code: str) -> list[Sighting]:
    preamble = "import ctypes, os, signal; libc = ctypes.CDLL(None)\n"
    return run("/usr/bin/python3", "-c", preamble + textwrap.dedent(code))


def test_new_namespaces_and_a_mount_in_them(tmp_path: Path) -> None:
    found = run("unshare", "-Urnm", "mount", "-t", "tmpfs", "aw", str(tmp_path))
    unshared, *_, mounted = [event.fields for event in found]
    assert unshared["Operation"] == "unshare"
    assert unshared["Namespaces"] == ("mnt", "user", "net")
    assert [mounted[name] for name in ("Kind", "Source", "Target", "FsType")] == [
        "mount",
        "aw",
        str(tmp_path),
        "tmpfs",
    ]


def test_a_child_cloned_into_a_namespace() -> None:
    found = python("libc.syscall(56, 0x08000000 | 17, 0, 0, 0, 0) or os._exit(0); os.wait()")
    assert [(e.fields["Operation"], e.fields["Namespaces"]) for e in found] == [("clone", ("ipc",))]


def test_entering_namespaces_of_the_host_and_of_its_own() -> None:
    host = run("nsenter", f"--net=/proc/{os.getpid()}/ns/net", "true")
    assert [(e.fields["Namespaces"], e.fields["OfInit"]) for e in host] == [(("net",), "true")]
    own = run("unshare", "-n", "sh", "-c", "exec nsenter --net=/proc/$$/ns/net true")
    assert [e.fields["OfInit"] for e in own if e.fields["Operation"] == "setns"] == ["false"]


def test_another_root(tmp_path: Path) -> None:
    (event,) = python(f"os.chroot('{tmp_path}')")
    assert (event.fields["Kind"], event.fields["Target"]) == ("chroot", str(tmp_path))


def test_a_map_of_ebpf() -> None:
    (event,) = python(
        """
        attr = (ctypes.c_uint32 * 18)(2, 4, 4, 1)
        assert libc.syscall(321, 0, attr, 72) >= 0
        """
    )
    assert (event.fields["Kind"], event.fields["Operation"]) == ("bpf", "map_create")


TRACE = """
    child = os.fork()
    if not child:
        signal.pause()
    assert libc.ptrace({request}, child, 0, 0) == 0
    os.kill(child, 9)
    os.waitpid(child, 0x40000000)
"""


@pytest.mark.parametrize("request_", [16, 0x4206])
def test_tracing_its_own_child(request_: int) -> None:
    (event,) = python(TRACE.format(request=request_))
    assert (event.category, event.fields["Kind"]) == ("privileged_operation", "ptrace")
    assert event.fields["TargetImage"] == os.path.realpath("/usr/bin/python3")
    assert event.fields["OfMonitor"] == "false"


def test_reading_the_memory_of_the_monitor_is_tampering() -> None:
    found = python(f"libc.process_vm_readv({os.getpid()}, 0, 0, 0, 0, 0)")
    assert [event.category for event in found] == ["privileged_operation", "tampering"]
    assert [event.fields["OfMonitor"] for event in found] == ["true", "true"]


def test_tracing_the_monitor_is_tampering_even_where_it_fails() -> None:
    found = python(
        f"libc.ptrace(0x4206, {os.getpid()}, 0, -1)"
    )  # PTRACE_SEIZE with options that there are not
    assert [event.category for event in found] == ["privileged_operation", "tampering"]
    assert [event.fields["TargetProcessId"] for event in found] == [os.getpid()] * 2


def test_ordinary_work_is_silent() -> None:
    assert run("sh", "-c", "ls / | sort | head -1; (cd /; true) & wait") == []
    assert python("import subprocess, threading; subprocess.run(['true']); threading.Thread().start()") == []


def test_a_socket_that_sees_packets_though_it_is_closed_at_once() -> None:
    code = "import socket; socket.socket(socket.AF_PACKET, socket.SOCK_RAW | socket.SOCK_CLOEXEC, 3).close()"
    with watched(["/usr/bin/python3", "-c", code]) as agent:
        agent.until_end()
    (event,) = socket_creations(agent)
    assert [event.fields[name] for name in ("Family", "SocketType", "Protocol")] == [17, 3, 3]
    assert str(event.fields["Image"]).startswith("/usr/bin/python3")


def test_one_that_stays_open_is_told_once() -> None:
    code = "import socket, time; s = socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, 0); time.sleep(60)"
    with watched(["/usr/bin/python3", "-c", code]) as agent:
        agent.until("socket_seen")
    assert len(socket_creations(agent)) == 1


def socket_creations(agent: Watched) -> list[Sighting]:
    state = State()
    facts = Facts(state, ("socket_creation",))
    ordered = sorted((row for _, row in agent.rows), key=lambda row: row[decode.TIME])
    changes = (state.apply(seq, row) for seq, row in enumerate(ordered))
    found = (facts.of(change) for change in changes if change is not None)
    return [event for event in found if event is not None and event.fields["Family"] not in (2, 10)]
