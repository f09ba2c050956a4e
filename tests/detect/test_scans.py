"""Scans, from contacts alone, and honest work that contacts many."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentwatch.detect import scans
from agentwatch.detect.scans import Facts, Scans

SECOND = 1_000_000_000
WHO = (100, 7)


class Contacts:
    """An agent's contacts, one each `step` seconds."""

    def __init__(self, step: float = 0.05) -> None:
        self.scans = Scans()
        self.found: list[Facts] = []
        self._step = int(step * SECOND)
        self._cookie = 0
        self.time = 0

    def _next(self) -> int:
        self._cookie += 1
        self.time += self._step
        return self._cookie

    def begins(self, address: str, port: int, who: tuple[int, int] = WHO) -> int:
        cookie = self._next()
        self.found += self.scans.connect(cookie, who, address, port, self.time)
        return cookie

    def refused(self, address: str, port: int, who: tuple[int, int] = WHO) -> None:
        cookie = self.begins(address, port, who)
        self.found += self.scans.connected(cookie, who, address, port, True, self.time)
        self.found += self.scans.closed(cookie, who, address, port, False, 0, self.time)

    def reached(self, address: str, port: int, sent: int = 100) -> None:
        cookie = self.begins(address, port)
        self.found += self.scans.connected(cookie, WHO, address, port, False, self.time)
        self.found += self.scans.closed(cookie, WHO, address, port, True, sent, self.time)

    def datagram(self, address: str, port: int, received: int = 0) -> None:
        cookie = self._next()
        self.found += self.scans.datagrams(cookie, WHO, address, port, 40, received, self.time)

    @property
    def kinds(self) -> set[object]:
        return {facts["Kind"] for facts in self.found}


def test_ports_of_one_host() -> None:
    contacts = Contacts()
    for port in range(1, 1025):
        contacts.refused("10.77.0.1", port)
    assert contacts.kinds == {"port_scan"}
    first, *_, last = contacts.found
    assert (first["Targets"], first["Ports"], first["Failed"], first["Span"]) == (1, 10, 10, 0)
    assert last["Ports"] == 640
    assert len(contacts.found) == 7


def test_one_port_of_many_hosts_of_which_few_answer() -> None:
    contacts = Contacts()
    for number in range(1, 255):
        (contacts.reached if number % 10 == 0 else contacts.refused)(f"10.77.0.{number}", 22)
    assert contacts.kinds == {"host_sweep"}
    assert contacts.found[0]["Targets"] == 11
    assert contacts.found[0]["Ports"] == 1


def test_one_process_for_each_port() -> None:
    contacts = Contacts()
    for port in range(20, 40):
        contacts.refused("10.77.0.1", port, who=(1000 + port, port))
    assert contacts.found[0]["Processes"] == 10


def test_silence_is_failure_before_the_kernel_gives_up() -> None:
    contacts = Contacts(step=0.5)
    for number in range(1, 30):
        contacts.begins(f"10.77.0.{number}", 445)
    assert contacts.kinds == {"host_sweep"}


def test_a_failure_counts_once_however_late_it_is_told() -> None:
    contacts = Contacts(step=0.5)
    waiting = [(contacts.begins(f"10.77.0.{number}", 445), f"10.77.0.{number}") for number in range(1, 30)]
    for cookie, address in waiting:
        contacts.found += contacts.scans.connected(cookie, WHO, address, 445, True, contacts.time)
    assert contacts.scans._ports["tcp", 445].score == len(waiting) * scans.UNIT


def test_a_connect_that_the_kernel_refuses_at_once_has_no_result_but_an_end() -> None:
    contacts = Contacts()
    for number in range(1, 30):
        address = f"10.77.0.{number}"
        cookie = contacts.begins(address, 22)
        contacts.found += contacts.scans.closed(cookie, WHO, address, 22, True, 0, contacts.time)
    assert contacts.kinds == {"host_sweep"}


def test_open_ports_that_are_only_knocked_at() -> None:
    contacts = Contacts()
    for number in range(1, 100):
        contacts.reached(f"10.77.0.{number}", 22, sent=0)
    assert contacts.kinds == {"host_sweep"}
    assert contacts.found[0]["Failed"] == 0


def test_datagrams_to_many_ports_that_are_silent() -> None:
    contacts = Contacts()
    for port in range(1, 200):
        contacts.datagram("10.77.0.1", port)
    assert contacts.kinds == {"port_scan"}
    assert contacts.found[0]["Protocol"] == "udp"


def test_datagrams_of_one_socket() -> None:
    contacts = Contacts()
    for number in range(1, 200):
        contacts.found += contacts.scans.send(1, WHO, f"10.77.0.{number}", 161, 0, number)
    assert contacts.kinds == {"host_sweep"}


def mesh(contacts: Contacts) -> None:
    """Workers of a training connect each other, over many ports, and talk."""
    for host in range(64):
        for port in range(40000, 40008):
            contacts.reached(f"10.0.0.{host}", port)
    for host in range(64):
        contacts.reached(f"10.0.0.{host}", 29500)


def start_of_a_mesh(contacts: Contacts) -> None:
    """Peers that are not up yet are tried until they are."""
    for _ in range(5):
        for host in range(8):
            contacts.refused(f"10.0.0.{host}", 29500)
    for host in range(8):
        contacts.reached(f"10.0.0.{host}", 29500)


def downloads(contacts: Contacts) -> None:
    for number in range(250):
        contacts.reached(f"198.51.100.{number}", 443)


def readiness(contacts: Contacts) -> None:
    """A service is waited for; so are eight replicas, one port each."""
    for _ in range(600):
        contacts.refused("127.0.0.1", 8000)
    for _ in range(20):
        for port in range(8001, 8009):
            contacts.refused("10.0.0.9", port)


def exporters(contacts: Contacts) -> None:
    """Prometheus scrapes a cluster; a few hosts are down."""
    for _ in range(20):
        for host in range(200):
            (contacts.refused if host % 20 == 0 else contacts.reached)(f"10.0.1.{host}", 9100)


def free_port(contacts: Contacts) -> None:
    for port in range(8000, 8030):
        contacts.refused("127.0.0.1", port)


def traceroute(contacts: Contacts) -> None:
    for port in range(33434, 33434 + 90):
        contacts.datagram("198.51.100.1", port)


def routes_looked_at(contacts: Contacts) -> None:
    """getaddrinfo connects a datagram socket to each address of a name, and sends nothing."""
    for number in range(250):
        contacts.found += contacts.scans.datagrams(number, WHO, f"198.51.100.{number}", 443, 0, 0, number)


@pytest.mark.parametrize(
    "work",
    [mesh, start_of_a_mesh, downloads, readiness, exporters, free_port, traceroute, routes_looked_at],
    ids=lambda work: work.__name__,
)
def test_honest_work(work: Callable[[Contacts], None]) -> None:
    contacts = Contacts()
    work(contacts)
    assert contacts.found == []


def test_slow_failures_are_forgotten() -> None:
    contacts = Contacts(step=40)
    for port in range(200):
        contacts.refused("10.77.0.1", port)
    assert contacts.found == []


def test_a_target_found_at_last_takes_its_failure_back() -> None:
    contacts = Contacts()
    for port in range(9):
        contacts.refused("10.77.0.1", port)
    for port in range(9):
        contacts.reached("10.77.0.1", port)
    for port in range(9, 18):
        contacts.refused("10.77.0.1", port)
    assert contacts.found == []


_WHERE = (st.integers(0, 9), st.just(WHO), st.sampled_from("abc"), st.integers(0, 3))
STEPS = st.one_of(
    st.tuples(st.just("connect"), *_WHERE),
    st.tuples(st.just("connected"), *_WHERE, st.booleans()),
    st.tuples(st.just("send"), *_WHERE, st.integers(0, 50)),
    st.tuples(st.just("closed"), *_WHERE, st.booleans(), st.integers(0, 2)),
    st.tuples(st.just("datagrams"), *_WHERE, st.integers(0, 2), st.integers(0, 2)),
)


@given(st.lists(st.tuples(STEPS, st.integers(-SECOND, 200 * SECOND))))
def test_scores_are_those_of_the_targets_whatever_comes(steps: list[tuple[tuple[object, ...], int]]) -> None:
    machine, time = Scans(), 0
    for (method, *arguments), step in steps:
        time += step
        getattr(machine, str(method))(*arguments, time)
    for group in [*machine._hosts.values(), *machine._ports.values()]:
        assert group.members
        assert group.score == sum(target.weight for target in group.members.values())
    assert sum(len(group.members) for group in machine._hosts.values()) == len(machine._targets)


def test_tables_are_bounded() -> None:
    contacts = Contacts(step=0)
    for port in range(scans.TARGETS_KEPT + 2000):
        contacts.begins("10.77.0.1", port)
        contacts.refused("10.77.0.1", port)
        contacts.found += contacts.scans.send(100_000 + port, WHO, "10.77.0.2", 9, 0, 0)
    machine = contacts.scans
    assert len(machine._targets) == scans.TARGETS_KEPT
    assert len(machine._waiting) <= scans.SOCKETS_KEPT
    assert len(machine._sent) <= scans.SOCKETS_KEPT
