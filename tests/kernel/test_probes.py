"""What the probes report of real programs on the running kernel."""

from __future__ import annotations

import ctypes
import ctypes.util
import errno
import os
import shutil
import socket
import subprocess
import sys
import textwrap
from contextlib import suppress
from itertools import pairwise
from pathlib import Path

import pytest

from agentwatch.enrich import processes as processes_module
from agentwatch.enrich.processes import Process
from agentwatch.kernel.btf import KernelTypes, MissingType
from agentwatch.kernel.bytecode import VMLINUX
from agentwatch.kernel.probes import CHOICES, PROBES_TABLE, Probes
from agentwatch.schema.events import ExecFlag, PayloadFlag, StreamKind
from tests.lab import compiled, eventually
from tests.lab.watched import Watched, watched

pytestmark = [pytest.mark.root, pytest.mark.skipif(os.geteuid() != 0, reason="needs root")]

LOOPBACK = b"\x7f\0\0\1".ljust(16, b"\0")


def python(code: str) -> list[str]:
    return ["/usr/bin/python3", "-c", textwrap.dedent(code)]


def run(command: list[str]) -> Watched:
    with watched(command) as agent:
        agent.until_end()
    return agent


def processes(agent: Watched) -> list[Process]:
    return agent.session.state.processes.all()


def by_exe(agent: Watched, exe: str) -> Process:
    (found,) = [p for p in processes(agent) if p.exe == exe]
    return found


def hooks_unix_connects() -> bool:
    """Whether this kernel can (6.7 and later)."""
    with suppress(MissingType, OSError):
        KernelTypes(VMLINUX.read_bytes()).member("bpf_sock_addr_kern", "uaddrlen")
        return True
    return False


def test_every_probe_attaches_here() -> None:
    with watched(["true"]) as agent:
        agent.until_end()
        chosen = {choice.name for choice in CHOICES}
        assert set(agent.session.probes.ways) == chosen
        # A lesser way than the best is told as what it lacks.
        newer = set() if hooks_unix_connects() else {"on_unix_connect"}
        assert {missing.probe for missing in agent.session.probes.missing} - chosen == newer


def test_every_program_that_is_attached_can_be_asked_for() -> None:
    with Probes() as probes:
        asked = dict(probes.programs())
        used = {way for choice in CHOICES for way in choice.ways if way.name == probes.ways[choice.name]}
    assert {probe.name for way in used for probe in way.probes} <= asked.keys()
    assert len({info.id for info in asked.values()}) == len(asked)


def _programs() -> set[int]:
    """Ids of all eBPF programs in the kernel (BPF_PROG_GET_NEXT_ID)."""
    library = ctypes.CDLL(ctypes.util.find_library("bpf"), use_errno=True)
    found, following = set(), ctypes.c_uint32(0)
    while library.bpf_prog_get_next_id(following, ctypes.byref(following)) == 0:
        found.add(following.value)
    return found


def test_nothing_stays_in_the_kernel() -> None:
    before = _programs()
    with watched(["true"]) as agent:
        assert len(_programs() - before) >= len(PROBES_TABLE)
        agent.until_end()
    eventually(lambda: _programs() <= before)


def test_exec_is_reported_with_its_circumstances(tmp_path: Path) -> None:
    program = tmp_path / "deep" / "renamed"
    program.parent.mkdir()
    shutil.copy("/bin/true", program)
    agent = run(["sh", "-c", f"cd /tmp; {program} 'a b' '' c; true"])
    process = by_exe(agent, str(program))
    assert process.argv == (str(program), "a b", "", "c")
    assert process.cwd == "/tmp"
    assert (process.uid, process.gid) == (0, 0)
    status = program.stat()
    assert process.inode == status.st_ino
    assert (process.device >> 20, process.device & 0xFFFFF) == (
        os.major(status.st_dev),
        os.minor(status.st_dev),
    )
    assert process.net_ns == int(os.readlink("/proc/self/ns/net")[5:-1])
    assert process.mnt_ns == int(os.readlink("/proc/self/ns/mnt")[5:-1])
    assert process.truncated == frozenset()
    assert [a.argv[0] for a in agent.session.state.processes.ancestors(process)] == ["sh"]


@pytest.mark.parametrize("size", [1, 230, 256, 257, 2030, 2048, 2049, 16384, 16385, 100_000])
def test_argv_of_any_size_is_whole(size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processes_module, "ENDED_ARGV", 1 << 20)
    agent = run(["/bin/true", "x" * size, "end"])
    process = by_exe(agent, os.path.realpath("/bin/true"))
    assert process.argv == ("/bin/true", "x" * size, "end")
    assert process.truncated == frozenset()


def test_argv_beyond_the_limit_is_marked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processes_module, "ENDED_ARGV", 1 << 20)
    agent = run(["/bin/true", "x" * 100_000, "y" * 100_000])
    process = by_exe(agent, os.path.realpath("/bin/true"))
    assert process.truncated == {"CommandLine", "Argv"}
    assert process.argv[1] == "x" * 100_000


def test_path_longer_than_recorded_is_marked_and_keeps_its_end(tmp_path: Path) -> None:
    folder = tmp_path.joinpath(*["d" * 200] * 6)
    folder.mkdir(parents=True)
    shutil.copy("/bin/true", folder / "leaf")
    agent = run([str(folder / "leaf")])
    (process,) = [p for p in processes(agent) if p.exe.endswith("/leaf")]
    assert "Image" in process.truncated


def _environment(*variables: str) -> tuple[tuple[str, ...], bool]:
    """What is told of a program's variables, and whether all were looked through."""
    with watched(["env", "-i", *variables, "/bin/true", "here"]) as agent:
        agent.until_end()
    (process,) = [p for p in processes(agent) if p.argv == ("/bin/true", "here")]
    return process.environment, "LoaderEnvironment" not in process.truncated


def test_variables_that_load_code_are_told_and_no_others() -> None:
    told = (
        "LD_PRELOAD=/nowhere.so", "LD_LIBRARY_PATH=/a:/b", "BASH_ENV=/x", "PYTHONSTARTUP=/y"
    )  # fmt: skip
    near = ("LD_PRELOADS=x", "XLD_AUDIT=x", "BASH_ENVX=x", "ENVY=x", "GCONV_PATHS=x", "SECRET=LD_AUDIT=x")
    assert _environment(near[0], told[0], *near[1:], *told[1:]) == (told, True)
    for one in ("LD_AUDIT=/z", "ENV=/e", "GCONV_PATH=/g", "LD_PRELOAD="):
        assert _environment("HOME=/", one, "LANG=C") == ((one,), True)


@pytest.mark.parametrize("length", [189, 190, 191, 192, 382, 5000])
def test_a_long_variable_before_hides_none(length: int) -> None:
    assert _environment("A=" + "x" * length, "ENV=/e") == (("ENV=/e",), True)


def test_an_environment_that_is_too_long_is_said() -> None:
    assert _environment("A=" + "x" * 100_000, "ENV=/e") == ((), False)
    assert _environment(*[f"A{i}=x" for i in range(300)], "ENV=/e") == ((), False)


def test_more_variables_than_are_told_are_said() -> None:
    told, whole = _environment("ENV=1", "BASH_ENV=2", "LD_AUDIT=3", "GCONV_PATH=4", "PYTHONSTARTUP=5")
    assert (len(told), whole) == (4, False)


def test_standard_streams_are_told_apart(tmp_path: Path) -> None:
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    agent = run(
        python(
            f"""
            import os, pty, socket, subprocess
            true = "/bin/true"
            server = socket.create_server(("127.0.0.1", 0))
            client = socket.create_connection(server.getsockname())
            near, far = socket.socketpair()
            both = os.open("{fifo}", os.O_RDWR)
            subprocess.run([true, "sockets"], stdin=client, stdout=far, stderr=server)
            subprocess.run([true, "pipes"], stdin=both, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
            _, end = pty.openpty()
            zero = open("/dev/zero")
            subprocess.run([true, "others"], stdin=end, stdout=zero, preexec_fn=lambda: os.close(2))
            print(os.fstat(far.fileno()).st_ino, os.fstat(near.fileno()).st_ino, os.ttyname(end)[9:],
                  file=open("{tmp_path}/told", "w"))
            """
        )
    )
    far, near, terminal = map(int, (tmp_path / "told").read_text().split())
    found = {p.argv[1]: p.streams for p in processes(agent) if p.argv[0] == "/bin/true"}
    client = next(flow for flow in agent.session.state.flows.all() if flow.initiated)
    sockets, pipes, others = found["sockets"], found["pipes"], found["others"]
    assert sockets is not None
    assert pipes is not None
    assert others is not None
    assert sockets[:2] == ((StreamKind.INET, client.cookie, 0), (StreamKind.UNIX, far, near))
    assert (sockets[2].kind, sockets[2].identity != client.cookie) == (StreamKind.INET, True)
    assert pipes[0][:2] == (StreamKind.FIFO, fifo.stat().st_ino)
    assert [stream.kind for stream in pipes[1:]] == [StreamKind.PIPE, StreamKind.NULL]
    assert others == ((StreamKind.TERMINAL, terminal, 0), (StreamKind.OTHER, 0, 0), (StreamKind.CLOSED, 0, 0))


def test_memfd_is_marked() -> None:
    agent = run(
        python(
            """
            import os
            fd = os.memfd_create("x")
            os.write(fd, open("/bin/true", "rb").read())
            os.execve(fd, ["harmless"], {})
            """
        )
    )
    (process,) = [p for p in processes(agent) if p.argv == ("harmless",)]
    assert process.flags & ExecFlag.MEMFD
    assert process.exe == "/memfd:x"


def test_deleted_program_is_marked(tmp_path: Path) -> None:
    program = tmp_path / "gone"
    shutil.copy("/bin/sleep", program)
    agent = run(
        python(
            f"""
            import os
            fd = os.open("{program}", os.O_RDONLY)
            os.unlink("{program}")
            os.execve(fd, ["gone", "0"], {{}})
            """
        )
    )
    (process,) = [p for p in processes(agent) if p.argv == ("gone", "0")]
    assert process.flags & ExecFlag.DELETED
    assert not process.flags & ExecFlag.MEMFD


def test_double_fork_and_setsid_do_not_escape() -> None:
    agent = run(
        python(
            """
            import os
            if os.fork() == 0:
                os.setsid()
                if os.fork() == 0:
                    os.execv("/bin/true", ["true", "far away"])
                os._exit(0)
            os.wait()
            """
        )
    )
    process = by_exe(agent, os.path.realpath("/bin/true"))
    assert len(agent.session.state.processes.ancestors(process)) == 2


@pytest.mark.parametrize(("code", "status"), [("exit 3", 3 << 8), ("kill -9 $$", 9)])
def test_exit_says_how(code: str, status: int) -> None:
    agent = run(["sh", "-c", code])
    assert [event["status"] for event in agent.named("exit")] == [status]


def test_process_ends_once_however_many_threads_it_had() -> None:
    agent = run(
        python(
            """
            import threading
            threads = [threading.Thread(target=int) for _ in range(8)]
            [t.start() for t in threads]; [t.join() for t in threads]
            """
        )
    )
    assert len(agent.named("exit")) == 1
    assert agent.named("fork") == []


CLIENT = """
import socket, threading
family, kind = {family}, {kind}
server = socket.socket(family, socket.SOCK_STREAM)
server.bind(("{address}", 0)); server.listen()
def serve():
    peer, _ = server.accept()
    peer.recv(100); peer.sendall(b"answer"); peer.close()
thread = threading.Thread(target=serve); thread.start()
client = socket.create_connection(server.getsockname()[:2]); client.sendall(b"question"); client.recv(100)
client.close(); thread.join(); server.close()
"""


@pytest.mark.parametrize(("family", "address"), [("socket.AF_INET", "127.0.0.1"), ("socket.AF_INET6", "::1")])
def test_life_of_tcp_flows(family: str, address: str) -> None:
    agent = run(python(CLIENT.format(family=family, kind=0, address=address)))
    packed = socket.inet_pton(eval(family), address).ljust(16, b"\0")
    (listen,) = agent.named("listen")
    (connect,) = agent.named("connect")
    (connected,) = agent.named("connected")
    (accept,) = agent.named("accept")
    assert connect["remote"] == connected["remote"] == accept["local"] == packed
    assert connect["remote_port"] == listen["local_port"] == accept["local_port"]
    assert connected["error"] == 0
    assert connected["local_port"] == accept["remote_port"]
    closes = {event["cookie"]: event for event in agent.named("close")}
    ours, theirs = closes[connect["cookie"]], closes[accept["cookie"]]
    assert (ours["bytes_out"], ours["bytes_in"]) == (8, 6)
    assert (theirs["bytes_out"], theirs["bytes_in"]) == (6, 8)
    assert ours["elapsed"] > 0
    payloads = [(e["cookie"], e["flags"] & PayloadFlag.IN, e["data"]) for e in agent.named("payload")]
    assert (connect["cookie"], 0, b"question") in payloads
    assert (connect["cookie"], PayloadFlag.IN, b"answer") in payloads
    assert (accept["cookie"], PayloadFlag.IN, b"question") in payloads
    assert all(event["tgid"] == agent.child.pid for event in agent.named("payload"))


def test_bound_socket_that_never_connects_ends_too() -> None:
    agent = run(
        python(
            """
            import socket
            with socket.socket() as one:
                one.bind(("127.0.0.1", 0))
            with socket.create_server(("127.0.0.1", 0)):
                pass
            """
        )
    )
    assert {event["cookie"] for event in agent.named("close")} == {e["cookie"] for e in agent.named("bind")}
    assert len(agent.named("close")) == 2


def test_refused_connect_carries_its_error() -> None:
    agent = run(
        python(
            """
            import socket
            socket.socket().connect_ex(("127.0.0.1", 1))
            """
        )
    )
    (connected,) = agent.named("connected")
    assert connected["error"] == 111
    (close,) = agent.named("close")
    assert (close["bytes_out"], close["bytes_in"]) == (0, 0)


def test_datagrams_are_followed_by_their_receivers() -> None:
    agent = run(
        python(
            """
            import socket
            servers = [socket.socket(socket.AF_INET, socket.SOCK_DGRAM) for _ in range(2)]
            [s.bind(("127.0.0.1", 0)) for s in servers]
            client = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
            for server in servers + servers[1:]:
                client.sendto(b"hi", server.getsockname())
            client.close()
            """
        )
    )
    first, second = agent.named("send")
    assert first["cookie"] == second["cookie"]
    assert first["remote_port"] != second["remote_port"]
    closes = {event["cookie"]: event for event in agent.named("close")}
    assert closes[first["cookie"]]["bytes_out"] == 6


def test_single_bytes_of_a_message_are_all_recorded() -> None:
    agent = run(
        python(
            """
            import socket
            server = socket.socket(); server.bind(("127.0.0.1", 0)); server.listen()
            client = socket.create_connection(server.getsockname())
            client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            for byte in b"one at a time":
                client.send(bytes([byte]))
            client.close(); server.accept()
            """
        )
    )
    (connect,) = agent.named("connect")
    data = [e["data"] for e in agent.named("payload") if e["cookie"] == connect["cookie"]]
    assert b"".join(data) == b"one at a time"
    assert {e["message"] for e in agent.named("payload")} == {1}


def test_long_messages_are_recorded_to_the_limit_and_counted_whole() -> None:
    agent = run(
        python(
            """
            import socket, threading
            server = socket.socket(); server.bind(("127.0.0.1", 0)); server.listen()
            def drain():
                peer, _ = server.accept()
                while peer.recv(1 << 20): pass
            thread = threading.Thread(target=drain); thread.start()
            client = socket.create_connection(server.getsockname())
            client.sendall(bytes(3_000_000)); client.close(); thread.join()
            """
        )
    )
    (connect,) = agent.named("connect")
    data = [e["data"] for e in agent.named("payload") if e["cookie"] == connect["cookie"]]
    assert sum(map(len, data)) == 512
    (close,) = [e for e in agent.named("close") if e["cookie"] == connect["cookie"]]
    assert close["bytes_out"] == 3_000_000


def test_progress_of_a_flow_tells_sizes_and_who_spoke_after_silence() -> None:
    agent = run(
        python(
            """
            import socket, threading, time
            server = socket.socket(); server.bind(("127.0.0.1", 0)); server.listen()
            client = socket.create_connection(server.getsockname())
            peer, _ = server.accept()
            client.sendall(bytes(100)); peer.recv(1000)
            peer.sendall(bytes(50)); client.recv(1000)
            time.sleep(1.1)
            peer.sendall(bytes(60)); client.recv(1000)
            time.sleep(1.1)
            client.sendall(bytes(70)); peer.recv(1000)
            def drain():
                while peer.recv(1 << 20): pass
            thread = threading.Thread(target=drain); thread.start()
            client.sendall(bytes(12_000_000)); client.close(); thread.join()
            """
        )
    )
    (connect,) = agent.named("connect")
    told = [event for event in agent.named("flow_progress") if event["cookie"] == connect["cookie"]]
    sizes = [event["bytes_out"] for event in told]
    assert sizes[0] >= 1 << 20
    assert all(2 * one <= other for one, other in pairwise(sizes))
    assert len(told) == 4
    last = told[-1]
    assert (last["bytes_in"], last["segments_in"], last["squares_in"]) == (110, 2, 50**2 + 60**2)
    assert (last["starts"], last["pushes"]) == (2, 1)
    assert last["segments_out"] >= 3
    assert last["squares_out"] >= last["bytes_out"] ** 2 // last["segments_out"]


def test_connect_given_up_before_an_answer_carries_an_error() -> None:
    agent = run(
        [
            *("unshare", "--net", "sh", "-c"),
            "ip link add gone type veth peer name far && ip link set far up && ip link set gone up && "
            "ip addr add 198.51.100.1/24 dev gone && "
            'ip neigh add 198.51.100.7 lladdr 02:00:00:00:00:07 dev gone && exec "$@"',
            "sh",
            *python(
                """
                import socket
                client = socket.socket()
                client.setblocking(False)
                client.connect_ex(("198.51.100.7", 9))
                client.close()
                """
            ),
        ]
    )
    (connected,) = agent.named("connected")
    assert connected["error"] == errno.ECONNABORTED


@pytest.mark.parametrize(
    ("opening", "recorded"),
    [
        (b"\x16\x03\x01", 2048),
        (b"SSH-2.0-x", 2048),
        (b"\0\0\x05\xdc\x04\x14", 2048),
        (b"\x16\x04\x01", 512),
        (b"SSL", 512),
        (b"\0\0\x05\xdc\x04\x15", 512),
    ],
)
def test_more_is_recorded_of_messages_that_begin_like_handshakes(opening: bytes, recorded: int) -> None:
    agent = run(
        python(
            f"""
            import socket
            server = socket.socket(); server.bind(("127.0.0.1", 0)); server.listen()
            client = socket.create_connection(server.getsockname())
            client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            client.send({opening!r} + bytes(1397)); client.send(bytes(1400))
            peer, _ = server.accept(); peer.send(bytes(1000)); client.recv(1)
            client.send(bytes(1000))
            """
        )
    )
    (connect,) = agent.named("connect")
    ours = [e for e in agent.named("payload") if e["cookie"] == connect["cookie"]]
    sizes = dict.fromkeys((1, 2), 0)
    for event in ours:
        if not event["flags"] & PayloadFlag.IN:
            sizes[event["message"]] += len(event["data"])
    assert sizes == {1: recorded, 2: 512}
    assert ours[0]["data"].startswith(opening)


@pytest.mark.parametrize(
    ("opening", "size", "recorded"),
    [
        (b"\xc3\0\0\0\1", 1350, 1350),
        (b"\xd0\x6b\x33\x43\xcf", 1200, 1200),
        (b"\xe3\0\0\0\1", 1350, 512),
        (b"\xc3\0\0\0\1", 1199, 512),
        (b"\x16\x03\x01", 1350, 512),
    ],
)
def test_whole_quic_initials_are_recorded(opening: bytes, size: int, recorded: int) -> None:
    agent = run(
        python(
            f"""
            import socket
            client = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
            for _ in range(2):
                client.sendto({opening!r}.ljust({size}, b"x"), ("127.0.0.1", 9))
            """
        )
    )
    assert [len(event["data"]) for event in agent.named("payload")] == [recorded, recorded]


@pytest.mark.parametrize(("kind", "family", "socktype"), [("AF_INET, socket.SOCK_RAW, 1", 2, 3)])
def test_raw_sockets_are_reported(kind: str, family: int, socktype: int) -> None:
    agent = run(python(f"import socket; socket.socket(socket.{kind})"))
    (event,) = agent.named("socket")
    assert (event["family"], event["socktype"], event["protocol"]) == (family, socktype, 1)


@pytest.mark.parametrize(
    ("kind", "family"), [("AF_PACKET, socket.SOCK_RAW", 17), ("AF_ALG, socket.SOCK_SEQPACKET", 38)]
)
def test_sockets_of_other_families_are_found_by_sweeps(kind: str, family: int) -> None:
    try:
        getattr(socket, kind.split(",", maxsplit=1)[0])
        probe = subprocess.run(
            [sys.executable, "-c", f"import socket; socket.socket(socket.{kind})"],
            check=False,
            capture_output=True,
        )
    except AttributeError:
        pytest.skip(f"no {kind} here")
    if probe.returncode:
        pytest.skip(f"this kernel has no {kind}")
    with watched(python(f"import socket, time; s = socket.socket(socket.{kind}); time.sleep(60)")) as agent:
        agent.until("socket_seen")
        assert agent.named("socket_seen")[0]["family"] == family


@pytest.mark.skipif(not hooks_unix_connects(), reason="cgroup hooks of Unix sockets are missing before 6.7")
def test_unix_connects_are_reported_by_path(tmp_path: Path) -> None:
    path = tmp_path / "control.sock"
    agent = run(
        python(
            f"""
            import socket
            server = socket.socket(socket.AF_UNIX); server.bind("{path}"); server.listen()
            socket.socket(socket.AF_UNIX).connect("{path}")
            socket.socket(socket.AF_UNIX).connect_ex("\\0abstract")
            """
        )
    )
    assert [e["data"].rstrip(b"\0") for e in agent.named("unix_connect")] == [
        str(path).encode(),
        b"\0abstract",
    ]


def test_dns_is_recorded_however_many_questions() -> None:
    agent = run(
        python(
            """
            import socket
            client = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
            for number in range(20):
                client.sendto(b"question %d" % number, ("127.0.0.1", 53))
            """
        )
    )
    asked = [e["data"] for e in agent.named("payload") if e["flags"] & PayloadFlag.DNS]
    assert asked == [b"question %d" % number for number in range(20)]


def test_leaving_the_cgroup_is_reported() -> None:
    with watched(["sleep", "60"]) as agent:
        agent.until("exec")
        cgroup = agent.cgroup
        elsewhere = cgroup.path.parent.parent / f"agentwatch-elsewhere-{os.getpid()}"
        elsewhere.mkdir()
        try:
            (elsewhere / "cgroup.procs").write_text(str(agent.child.pid))
            while not agent.named("cgroup_move"):
                agent.step()
            (move,) = agent.named("cgroup_move")
            assert Path(move["data"].decode()).name == elsewhere.name
            assert (move["tgid"], move["mover"]) == (agent.child.pid, os.getpid())
            cgroup.move(agent.child.pid)
        finally:
            elsewhere.rmdir()


def test_signals_at_the_monitor_are_reported_and_others_are_not() -> None:
    agent = run(["sh", "-c", f"kill -CONT $$; kill -CONT {os.getpid()}"])
    (event,) = agent.named("signal")
    assert (event["signal"], event["target"]) == (18, os.getpid())


@pytest.mark.parametrize("mode", ["inline", "async", "sqpoll"])
def test_io_uring_shows_like_any_other_way(mode: str) -> None:
    server = subprocess.Popen(
        [sys.executable, "-m", "agentwatch.demo.pool"], stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    try:
        with watched([str(compiled("io_uring_stratum")), mode, "127.0.0.1", "3333"]) as agent:
            code = agent.until_end()
    finally:
        server.kill()
        server.wait()
    if code == 77:
        pytest.skip("no io_uring, or one that makes no sockets (before 5.19)")
    (connect,) = agent.named("connect")
    assert connect["tgid"] == agent.child.pid
    assert connect["remote"] == LOOPBACK


def test_nothing_of_other_processes_is_reported() -> None:
    with watched(["sleep", "60"]) as agent:
        agent.until("exec")
        before = len(agent.rows)
        server = socket.create_server(("127.0.0.1", 0))
        client = socket.create_connection(server.getsockname())
        client.sendall(b"not an agent")
        subprocess.run(["true"], check=True)
        for _ in range(5):
            agent.step()
        assert len(agent.rows) == before
        client.close()
        server.close()
