"""Relays, record by record; tests/scenarios has them for real."""

from __future__ import annotations

import pytest

from tests.detect.world import SECOND, World

PID, OUTER, INNER = 100, 7, 8
REQUEST = b"GET /page HTTP/1.1\r\nHost: inside\r\n\r\n"
ANSWER = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"


def joined(outer: str = "203.0.113.5", inner: str = "127.0.0.1") -> World:
    world = World()
    world.exec(PID, "tool", "x")
    world.connect(PID, OUTER, outer, 4000)
    world.connect(PID, INNER, inner, 22)
    return world


@pytest.mark.parametrize("inner", ["127.0.0.1", "10.1.2.3", "192.168.0.9"])
def test_bytes_handed_over_both_ways(inner: str) -> None:
    world = joined(inner=inner)
    world.hears(OUTER, REQUEST)
    (shape,) = world.says(INNER, REQUEST)
    assert (shape["Behaviour"], shape["Stage"], shape["LocalTarget"]) == ("relay", "shape", f"{inner}:22")
    assert shape["DestinationIp"] == "203.0.113.5"
    world.hears(INNER, ANSWER)
    (moving,) = world.says(OUTER, ANSWER)
    assert (moving["Stage"], moving["Correlation"]) == ("moving", 100)
    assert world.hears(OUTER, REQUEST) + world.says(INNER, REQUEST) == []


def test_a_service_that_speaks_first() -> None:
    world = joined()
    world.hears(INNER, b"220 mail.example ESMTP\r\n")
    (shape,) = world.says(OUTER, b"220 mail.example ESMTP\r\n")
    assert shape["Stage"] == "shape"


def test_what_was_held_too_long_or_differs_is_not_handed_over() -> None:
    world = joined()
    world.hears(OUTER, REQUEST)
    world.now += 3 * SECOND
    world.says(INNER, REQUEST)
    world.hears(OUTER, REQUEST)
    world.says(INNER, REQUEST.replace(b"page", b"other"))
    assert world.told == []


def test_two_hosts_of_the_internet_or_two_services_here_are_no_relay() -> None:
    for outer, inner in (
        ("203.0.113.5", "198.51.100.1"),
        ("127.0.0.1", "127.0.0.1"),
        ("10.0.0.1", "10.0.0.1"),
    ):
        world = joined(outer, inner)
        for _ in range(3):
            world.hears(OUTER, REQUEST)
            world.says(INNER, REQUEST)
            world.hears(INNER, ANSWER)
            world.says(OUTER, ANSWER)
        assert world.told == []


def test_greetings_that_all_sides_send_are_not_handed_over() -> None:
    world = joined()
    greeting = b"\xff\0\0\0\0\0\0\0\1\x7f\3\0NULL" + bytes(40)
    world.says(OUTER, greeting)
    world.hears(OUTER, greeting)
    world.says(INNER, greeting)
    world.hears(INNER, greeting)
    assert world.told == []


def test_a_relay_to_an_ssh_server() -> None:
    """The session is the visitor's and the server's: the process speaks none of its own."""
    world = joined()
    world.hears(INNER, b"SSH-2.0-OpenSSH_9.6 local\r\n")
    world.says(OUTER, b"SSH-2.0-OpenSSH_9.6 local\r\n")
    world.hears(OUTER, b"SSH-2.0-OpenSSH_8.4 visitor\r\n")
    world.says(INNER, b"SSH-2.0-OpenSSH_8.4 visitor\r\n")
    assert [one["Stage"] for one in world.told if one["Behaviour"] == "relay"] == ["shape", "moving"]


def test_the_channels_of_a_remote_forward_are_no_relay() -> None:
    """What a channel carries is encrypted on the session's connection."""
    world = joined()
    world.says(OUTER, b"SSH-2.0-OpenSSH_9.6\r\n")
    world.hears(OUTER, b"SSH-2.0-OpenSSH_9.6\r\n")
    for number in range(1, 5):
        world.hears(OUTER, bytes([number]) * (36 + len(REQUEST)))
        world.says(INNER, REQUEST)
        world.hears(INNER, ANSWER)
        world.says(OUTER, bytes([number]) * (36 + len(ANSWER)))
    assert [one for one in world.told if one["Behaviour"] == "relay"] == []


def through_tls(overheads: tuple[int, ...], sizes: tuple[int, ...] = (40, 90, 170, 60)) -> World:
    world = World()
    world.exec(PID, "tool", "x")
    world.connect(PID, OUTER, "203.0.113.5", 443)
    world.says(OUTER, b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(300))
    world.hears(OUTER, b"\x16\x03\x03\x00\x7a\x02\x00\x00\x76\x03\x03" + bytes(300))
    world.connect(PID, INNER, "127.0.0.1", 22)
    for number, size in enumerate(sizes):
        overhead = overheads[number % len(overheads)]
        world.hears(OUTER, bytes(size + overhead))
        world.says(INNER, b"q%d" % number + bytes(size))
        world.hears(INNER, b"a%d" % number + bytes(2 * size))
        world.says(OUTER, bytes(2 * size + overhead))
    return world


def test_messages_of_an_encrypted_connection_by_their_lengths() -> None:
    (moving,) = through_tls((29, 30)).told
    assert (moving["Stage"], moving["Protocol"]) == ("moving", "tls")


def test_lengths_that_vary_or_are_all_the_same_prove_nothing() -> None:
    assert through_tls((29, 140, 300)).told == []
    assert through_tls((29,), (64, 64, 64, 64, 64)).told == []


def test_a_request_from_outside_and_a_unix_socket() -> None:
    world = World()
    world.exec(PID, "tool", "x")
    world.connect(PID, OUTER)
    world.unix(PID, "/var/run/docker.sock")
    (shape,) = world.hears(OUTER, REQUEST)
    assert (shape["Stage"], shape["LocalTarget"]) == ("shape", "/var/run/docker.sock")


def test_a_client_of_a_unix_socket_is_no_relay() -> None:
    world = World()
    world.exec(PID, "tool", "x")
    world.connect(PID, OUTER)
    world.says(OUTER, REQUEST)
    world.hears(OUTER, ANSWER)
    world.unix(PID, "/var/run/docker.sock")
    world.unix(PID, "/run/nscd/socket")
    assert world.told == []
