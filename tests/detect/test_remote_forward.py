"""Sequences as the kernel shows them: banner, bytes on the session, further connects, first bytes."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentwatch.detect.finding import Finding
from agentwatch.detect.remote_forward import RemoteForward

KEY = (100, 1)
CHILD = (101, 2)
MS = 1_000_000
SESSION, NEW, OTHER = 1, 2, 3


def stages(findings: list[Finding]) -> list[tuple[object, object]]:
    assert all(f.protocol == "ssh" and f.attributes["Behaviour"] == "remote_forward" for f in findings)
    return [
        (f.attributes["Stage"], f.attributes.get("Forward", f.attributes.get("DestinationPort")))
        for f in findings
    ]


class Process:
    """One process under observation; every step returns what it made of the findings."""

    def __init__(self, *argv: str, software: str = "", key: tuple[int, int] = KEY) -> None:
        self.detector = RemoteForward()
        self.key = key
        self.software = software
        self.now = 0
        self.at_exec = stages(self.detector.exec(key, argv, 0))

    def open(
        self, flow: int = SESSION, address: str = "203.0.113.5", port: int = 22
    ) -> list[tuple[object, object]]:
        self.detector.connect(self.key, flow, stream=True, address=address, port=port, time=self.now)
        return stages(self.detector.banner(self.key, flow, self.now, self.software))

    def connect(self, address: str = "127.0.0.1", port: int = 22, **more: Any) -> list[tuple[object, object]]:
        arguments = {"stream": True, "time": self.now, **more}
        return stages(self.detector.connect(self.key, NEW, address=address, port=port, **arguments))

    def session(self, incoming: bool, length: int, after: int = MS) -> list[tuple[object, object]]:
        self.now += after
        return stages(self.detector.session_data(self.key, SESSION, incoming, length, self.now))

    def new(self, incoming: bool, data: bytes) -> list[tuple[object, object]]:
        self.now += MS
        return stages(self.detector.payload(self.key, NEW, incoming, data, self.now))


def library(software: str = "paramiko_3.4.0") -> Process:
    """A program with a library's session, on which a channel was just opened."""
    process = Process("python3", "agent.py", software=software)
    assert process.open() == []
    process.session(False, 500)
    process.session(True, 100)
    return process


SPEC = "9001:localhost:22"


def test_asked_in_words() -> None:
    assert Process("ssh", "-NR", SPEC, "u@h").at_exec == [("asked", SPEC)]
    assert Process("sshpass", "-p", "x", "/usr/bin/ssh", "-NR", SPEC, "u@h").at_exec == [("asked", SPEC)]
    assert Process("dbclient", "-y", "-R", SPEC, "u@h").at_exec == [("asked", SPEC)]
    assert Process("ssh", "-R", SPEC, "-R", "9002", "h").at_exec == [("asked", SPEC), ("asked", "9002")]
    assert Process("ssh", "-S", "ctl", "-O", "forward", "-R", SPEC, "h").at_exec == [("asked", SPEC)]


def test_not_asked() -> None:
    assert Process("ssh", "h", "ls", "-R", SPEC).at_exec == []
    assert Process("ssh", "-L", SPEC, "h").at_exec == []
    assert Process("rsync", "-aR", "src/", "u@h:dst").at_exec == []
    assert Process("python3", "-R", SPEC, "h").at_exec == []
    assert Process().at_exec == []


def test_opened_whatever_the_program_is_called() -> None:
    process = Process("/tmp/.cache/x", "-NR", SPEC, "u@h", software="OpenSSH_9.2p1")
    assert process.at_exec == []
    assert process.open() == [("opened", SPEC)]
    assert process.open() == []


def test_a_new_program_starts_afresh() -> None:
    process = Process("ssh", "-NR", SPEC, "u@h")
    process.open()
    assert process.detector.exec(KEY, ["curl", "http://x"], 1) == []
    assert process.connect() == []


def test_configuration_before_and_after_the_session() -> None:
    text = f"Host pool\n RemoteForward {SPEC.replace(':', ' ', 1)}\n"
    process = Process("ssh", "-F", "/tmp/c", "pool")
    assert process.detector.wanted_config(KEY) == "/tmp/c"
    assert stages(process.detector.config(KEY, text)) == [("asked", SPEC)]
    assert process.detector.wanted_config(KEY) is None
    assert process.open() == [("opened", SPEC)]

    process = Process("/tmp/x", "-F", "/tmp/c", "pool", software="OpenSSH_9.2p1")
    assert process.detector.wanted_config(KEY) is None, "nothing says yet that it is an SSH client"
    assert process.open() == []
    assert process.detector.wanted_config(KEY) == "/tmp/c"
    assert stages(process.detector.config(KEY, text)) == [("opened", SPEC)]


def test_configuration_that_does_not_ask() -> None:
    process = Process("ssh", "-F", "/tmp/c", "pool")
    assert process.detector.config(KEY, "Host other\nRemoteForward 9001 localhost:22\n") == []
    process = Process("ssh", "-oClearAllForwardings=yes", "pool")
    assert process.detector.config(KEY, "RemoteForward 9001 localhost:22\n") == []
    assert process.open() == []


def test_configuration_under_an_unknown_condition() -> None:
    process = Process("ssh", "pool")
    (finding,) = process.detector.config(KEY, "Match exec true\nRemoteForward 9001 localhost:22\n")
    assert finding.attributes["Condition"] == "unknown"


@pytest.mark.parametrize(
    ("argv", "wanted"),
    [
        ("ssh h", "~/.ssh/config"),
        ("ssh -F none h", None),
        ("ssh -G h", None),
        ("ssh -O exit -S x h", None),
        ("dbclient h", None),
        ("curl h", None),
        ("ssh", None),
    ],
)
def test_wanted_configuration(argv: str, wanted: str | None) -> None:
    assert Process(*argv.split()).detector.wanted_config(KEY) == wanted


@pytest.mark.parametrize(
    ("argv", "software"),
    [
        (("ssh", "-F", "unread", "pool"), "OpenSSH_9.2p1"),
        (("dbclient", "-y", "u@h"), "dropbear_2022.83"),
        (("/tmp/x", "-F", "unread", "pool"), "OpenSSH_9.2p1"),
        (("/tmp/x", "h"), "dropbear_2022.83"),
        (("ssh", "h"), ""),
    ],
)
def test_a_client_is_caught_at_first_use(argv: tuple[str, ...], software: str) -> None:
    process = Process(*argv, software=software)
    process.open()
    process.session(True, 100)
    assert process.connect("127.0.0.1", 8080) == [("used", 8080)]
    assert process.connect("198.51.100.9", 443) == [("used", 443)]


def test_a_client_that_goes_on_in_the_background_is_followed() -> None:
    process = Process("ssh", "-f", "-F", "unread", "pool", software="OpenSSH_9.2p1")
    process.open()
    process.detector.fork(KEY, CHILD)
    process.detector.exit(KEY)
    process.key = CHILD
    assert process.connect("127.0.0.1", 8080) == [("used", 8080)]


def test_a_client_may_connect_before_its_banner_and_look_up_things_after() -> None:
    process = Process("ssh", "-X", "h", software="OpenSSH_9.2p1")
    assert process.connect("203.0.113.4", 22) == []
    process.open()
    process.session(True, 100)
    assert process.connect("10.0.0.1", 88) == []
    assert process.connect("10.0.0.1", 53) == []
    assert process.connect("127.0.0.1", 6010) == []
    assert process.connect("127.0.0.1", 9000, stream=False) == []
    process = Process("ssh", "h", software="OpenSSH_9.2p1")
    process.open()
    assert process.connect("127.0.0.1", 6010) == [("used", 6010)]


def test_a_library_relays_what_the_server_behind_says_first() -> None:
    process = library()
    assert process.connect("127.0.0.1", 22) == []
    assert process.new(True, b"SSH-2.0-OpenSSH_9.2p1\r\n") == []
    assert process.session(False, 68) == [("used", 22)]
    assert process.session(False, 68) == []


def test_a_library_relays_what_comes_in() -> None:
    process = library("AsyncSSH_2.14.0")
    assert process.connect("10.1.2.3", 8080) == []
    assert process.session(False, 44) == []
    assert process.session(True, 180) == []
    assert process.new(False, b"GET / HTTP/1.1\r\nHost: inside\r\n\r\n") == [("used", 8080)]


def test_a_library_relays_another_clients_banner() -> None:
    process = library()
    process.connect("127.0.0.1", 22)
    process.session(True, 100)
    assert stages(process.detector.banner(KEY, NEW, process.now, "OpenSSH_9.2p1")) == [("used", 22)]
    process = library()
    process.connect("127.0.0.1", 22)
    process.session(True, 100)
    assert process.new(False, b"SSH-2.0-OpenSSH_9.2p1\r\n") == [("used", 22)]


def test_a_library_opens_another_session() -> None:
    for by_banner in (False, True):
        process = library()
        process.connect("10.0.0.8", 22)
        process.session(True, 4000)  # of the first session, meanwhile
        if by_banner:
            assert process.detector.banner(KEY, NEW, process.now, process.software) == []
        else:
            assert process.new(False, b"SSH-2.0-paramiko_3.4.0\r\n") == []
        assert process.new(True, b"SSH-2.0-OpenSSH_9.2p1\r\n") == []
        assert process.session(False, 4000) == []


def test_a_program_with_a_library_speaks_for_itself() -> None:
    process = library()
    process.session(True, 5000)  # a result, reported to a local service
    process.connect("127.0.0.1", 8000)
    assert process.new(False, b"POST / HTTP/1.1\r\n\r\n") == []
    process.new(True, b"HTTP/1.1 200 OK\r\n\r\n")
    assert process.session(False, 5000) == []
    process = library()
    process.connect("10.0.0.7", 3306)
    process.new(True, b"J\0\0\0\n8.0.36\0")
    assert process.new(False, b"login") == []
    assert process.session(False, 5000) == []


def test_a_librarys_connects_elsewhere_and_later_are_its_own() -> None:
    def relayed(process: Process) -> list[tuple[object, object]]:
        process.session(True, 1000)
        return process.new(False, b"x" * 100)

    process = library()
    process.connect("198.51.100.9", 443)
    assert relayed(process) == []
    process = library()
    process.now += 3_000 * MS
    process.connect("127.0.0.1", 8000)
    assert relayed(process) == []
    process = Process("python3", "agent.py", software="paramiko_3.4.0")
    process.open(address="10.0.0.8", port=22)
    process.session(True, 100)
    process.connect("10.0.0.8", 22)
    assert relayed(process) == []
    process = library()
    process.connect("127.0.0.1", 8000)
    process.detector.close(KEY, NEW)
    assert relayed(process) == []


@pytest.mark.parametrize(
    ("address", "inside"),
    [
        *((address, True) for address in ("127.0.0.1", "::1", "::ffff:10.0.0.1", "fe80::1", "100.64.0.1")),
        *(
            (address, False)
            for address in ("::ffff:8.8.8.8", "8.8.8.8", "203.0.113.9", "2606:4700::1111", "")
        ),
    ],
)
def test_addresses_inside(address: str, inside: bool) -> None:
    process = library()
    process.connect(address, 80)
    process.session(True, 100)
    assert bool(process.new(False, b"x")) == inside


def test_a_flood_of_processes_does_not_hide_a_session() -> None:
    process = Process("dbclient", "h", software="dropbear_2022.83")
    process.open()
    for pid in range(10_000):
        process.detector.exec((pid + 1000, 1), ["true"], 1)
    assert process.connect("127.0.0.1", 22) == [("used", 22)]
    assert len(process.detector._quiet) <= 4096


def test_flows_are_bounded() -> None:
    process = library()
    for flow in range(10, 10_000):
        process.detector.connect(KEY, flow, stream=True, address="127.0.0.1", port=flow, time=process.now)
    state = process.detector._speaking[KEY]
    assert len(state.candidates) <= 128


KEYS = st.sampled_from([(1, 1), (2, 1), (3, 1)])
FLOWS = st.integers(1, 4)
STEPS = st.one_of(
    st.tuples(
        st.just("exec"), KEYS, st.sampled_from([("ssh", "-R9001", "h"), ("x",), (), ("dbclient", "h")])
    ),
    st.tuples(st.just("fork"), KEYS, KEYS),
    st.tuples(st.just("exit"), KEYS),
    st.tuples(
        st.just("config"), KEYS, st.sampled_from(["RemoteForward 9002", "Match exec x\nRemoteForward 1", ""])
    ),
    st.tuples(st.just("banner"), KEYS, FLOWS, st.sampled_from(["OpenSSH_9", "paramiko", ""])),
    st.tuples(st.just("connect"), KEYS, FLOWS, st.booleans(), st.sampled_from(["127.0.0.1", "8.8.8.8", "x"])),
    st.tuples(st.just("data"), KEYS, FLOWS, st.booleans(), st.integers(0, 2000)),
    st.tuples(
        st.just("payload"), KEYS, FLOWS, st.booleans(), st.binary(max_size=20) | st.just(b"SSH-2.0-a\xff")
    ),
    st.tuples(st.just("close"), KEYS, FLOWS),
)


def fold(steps: list[Any]) -> list[Finding]:
    detector = RemoteForward()
    found: list[Finding] = []
    for time, (step, *rest) in enumerate(steps):
        if step == "exec":
            found += detector.exec(rest[0], rest[1], time)
        elif step == "banner":
            found += detector.banner(rest[0], rest[1], time, rest[2])
        elif step == "connect":
            found += detector.connect(rest[0], rest[1], stream=rest[2], address=rest[3], port=80, time=time)
        elif step == "data":
            found += detector.session_data(rest[0], rest[1], rest[2], rest[3], time)
        elif step == "payload":
            found += detector.payload(rest[0], rest[1], rest[2], rest[3], time)
        else:
            found += getattr(detector, step)(*rest) or []
        detector.wanted_config(rest[0])
    return found


@given(steps=st.lists(STEPS, max_size=40))
def test_any_order_is_folded_alike(steps: list[Any]) -> None:
    found = fold(steps)
    assert found == fold(steps)
    if not any(step[0] == "banner" for step in steps):
        assert not [finding for finding in found if finding.attributes["Stage"] != "asked"]


def exchange(process: Process, flow: int, count: int) -> list[tuple[object, object]]:
    """So many messages each way."""
    found = []
    for message in range(1, count + 1):
        for incoming in (False, True):
            data = process.detector.session_data(process.key, flow, incoming, 50, process.now, message)
            found += stages(data)
    return found


def test_a_session_past_its_key_exchange_is_established() -> None:
    process = Process("ssh", "-R", "9001:localhost:22", "h")
    assert process.open() == [("opened", "9001:localhost:22")]
    assert exchange(process, SESSION, 3) == []
    assert exchange(process, SESSION, 8) == [("established", "9001:localhost:22")]


def test_a_session_without_forward_is_not_established() -> None:
    process = Process("ssh", "h")
    assert process.open() == []
    assert exchange(process, SESSION, 8) == []


def test_a_session_through_a_proxy_command_is_opened_by_its_first_bytes() -> None:
    process = Process("ssh", "-o", "ProxyCommand=tool %h", "-R", "9001:localhost:22", "h")
    assert process.detector.waits_for_proxy(KEY)
    assert stages(process.detector.proxied(KEY, OTHER)) == [("opened", "9001:localhost:22")]
    assert not process.detector.waits_for_proxy(KEY)
    assert exchange(process, OTHER, 5) == []
    assert exchange(process, OTHER, 6) == [("established", "9001:localhost:22")]
    assert process.connect(port=8888) == [("used", 8888)]


def test_a_client_with_a_connection_of_its_own_waits_for_no_proxy() -> None:
    process = Process("ssh", "-R", "9001:localhost:22", "h")
    process.connect("203.0.113.5")
    assert not process.detector.waits_for_proxy(KEY)
    assert process.detector.proxied(KEY, OTHER) == []
    assert not Process("ssh", "h").detector.waits_for_proxy(KEY)


@pytest.mark.parametrize(
    ("path", "before", "after"),
    [
        ("/var/run/docker.sock", True, True),
        ("/run/containerd/containerd.sock", False, True),
        ("/srv/db.sock", False, False),
        ("/home/u/.ssh/master", False, False),
        ("/tmp/ssh-XX/agent.7", False, False),
        ("/run/systemd/userdb/io.systemd", False, False),
    ],
)
def test_a_unix_socket_is_used(path: str, before: bool, after: bool) -> None:
    process = Process("ssh", "-R", "9001:/var/run/docker.sock", "h")
    assert process.detector.connect_unix(KEY, path) == []
    process.open()
    assert bool(process.detector.connect_unix(KEY, path)) == before
    exchange(process, SESSION, 5)
    found = process.detector.connect_unix(KEY, path)
    assert [one.attributes["LocalTarget"] for one in found] == [path] * after


def test_a_tunnel_device_is_asked_for_once() -> None:
    detector = RemoteForward()
    (found,) = detector.exec(KEY, ("ssh", "-w", "0:0", "h"), 0)
    assert (found.attributes["Behaviour"], found.attributes["Stage"]) == ("tunnel_device", "asked")
    detector.connect(KEY, SESSION, stream=True, address="203.0.113.5", port=22, time=0)
    assert detector.banner(KEY, SESSION, 0) == []


def test_a_tunnel_device_in_the_configuration() -> None:
    detector = RemoteForward()
    assert detector.exec(KEY, ("ssh", "h"), 0) == []
    (found,) = detector.config(KEY, "Tunnel ethernet\n")
    assert found.attributes["Behaviour"] == "tunnel_device"
