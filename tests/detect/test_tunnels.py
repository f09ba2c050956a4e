"""Reverse tunnels over SSH, from records to events."""

from __future__ import annotations

import pytest

from agentwatch.detect import tunnels
from tests.detect.world import World

LIBRARY, SESSION, INNER = 100, 1, 2


def library() -> World:
    """A program that speaks SSH for itself and hears on its session."""
    world = World()
    world.exec(LIBRARY, "python3", "agent.py")
    world.connect(LIBRARY, SESSION, port=22)
    world.says(SESSION, b"SSH-2.0-AsyncSSH_2.14\r\n")
    world.hears(SESSION, b"SSH-2.0-OpenSSH_9.2\r\n")
    world.says(SESSION, b"\0" * 200)
    world.hears(SESSION, b"\0" * 200)
    return world


def stages(world: World) -> list[object]:
    return [one["Stage"] for one in world.told if one.get("Behaviour") == "remote_forward"]


def test_a_channel_to_an_ssh_server_is_used_though_its_banner_comes_on_the_inner_flow() -> None:
    world = library()
    world.connect(LIBRARY, INNER, host="127.0.0.1", port=22)
    world.hears(INNER, b"SSH-2.0-OpenSSH_9.6 local\r\n")
    assert stages(world) == []
    world.says(SESSION, b"\0" * 68)  # what came in is handed over
    assert stages(world) == ["used"]


def test_a_second_session_inwards_is_no_channel() -> None:
    world = library()
    world.connect(LIBRARY, INNER, host="10.0.0.7", port=22)
    world.says(INNER, b"SSH-2.0-AsyncSSH_2.14\r\n")
    world.hears(INNER, b"SSH-2.0-OpenSSH_9.6\r\n")
    world.says(SESSION, b"\0" * 68)
    assert stages(world) == []


def test_a_banner_that_is_read_before_its_connect_is_a_session_all_the_same() -> None:
    """The banner's ring wakes the reader, the connect's does not: a later round may bring it."""
    world = World()
    world.exec(LIBRARY, "ssh", "-N", "-R", "9000:127.0.0.1:22", "far.example")
    world.open(LIBRARY, SESSION, port=22)
    world.says(SESSION, b"SSH-2.0-OpenSSH_9.6\r\n")
    assert stages(world) == ["asked"]
    world.connect(LIBRARY, SESSION, port=22)
    assert stages(world) == ["asked", "opened"]


def test_sessions_over_what_children_connect_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tunnels, "SESSIONS_KEPT", 8)
    world = World()
    for pid in range(100, 112):
        world.exec(pid, "ssh", "-o", "ProxyCommand=nc %h", "-R", "9000:127.0.0.1:22", "far.example")
        world.exec(1000 + pid, "nc", "far.example", parent=pid)
        world.connect(1000 + pid, pid, port=443)
        world.hears(pid, b"\x17\x03\x03" + bytes(200))
    assert stages(world).count("opened") == 12
    (detector,) = [one for one in world.chain._always if isinstance(one, tunnels.Tunnels)]
    assert len(detector._sessions) == 8
