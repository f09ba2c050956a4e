"""Has an installed daemon do all that needs a privilege, on a real agent: one line for each part.

`/usr/lib/agentwatch/bin/python3 -I exercise.py`, as root, with a daemon that systemd (or something like
it) starts again when it is killed. Ends with 1 when a part failed. Nothing leaves the host: the mining
pool is a few lines below, on loopback, and nothing is mined.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from agentwatch.control.client import Client, NoDaemon
from agentwatch.doctor import OK, examine
from agentwatch.kernel.cgroup import find_mount

_NOBODY = 65534
_CONTAINER = "exercise-container"
_HOST = 0xEFFFFFFC  # number of the first PID namespace (PROC_PID_INIT_INO)
_AGENT = """
import socket, subprocess, sys
pool = ("127.0.0.1", int(sys.argv[1]))
held = socket.create_connection(pool)
for line in sys.stdin:
    if line == "run\\n":
        subprocess.run(["/bin/true", "exercise"])
    else:
        with socket.create_connection(pool) as connection, connection.makefile("rb") as answers:
            connection.sendall(b'{"id":1,"method":"mining.subscribe","params":["w","x"]}\\n')
            answers.readline()  # and no more: once resumed, it would be frozen again
"""
_SUBSCRIBED = b'{"id":1,"result":[[["mining.notify","ae68"]],"08000002",4],"error":null}\n'


def ask(verb: str, **arguments: Any) -> Any:
    with Client() as client:
        return client.ask(verb, **arguments)


def eventually(condition: Callable[[], Any], seconds: float = 10) -> Any:
    """What `condition` gives once it is true. Raises `AssertionError` after so many seconds."""
    end = time.monotonic() + seconds
    while True:
        with suppress(NoDaemon):
            if value := condition():
                return value
        if time.monotonic() > end:
            raise AssertionError(f"not so within {seconds} s")
        time.sleep(0.02)


def pool() -> int:
    """The port of something that answers as a mining pool does."""
    listener = socket.create_server(("127.0.0.1", 0))

    def serve(connection: socket.socket) -> None:
        with connection, connection.makefile("rb") as lines, suppress(OSError):
            for _ in lines:
                connection.sendall(_SUBSCRIBED)

    def accept() -> None:
        while True:
            threading.Thread(target=serve, args=(listener.accept()[0],), daemon=True).start()

    threading.Thread(target=accept, daemon=True).start()
    return int(listener.getsockname()[1])


def crun(*arguments: str) -> subprocess.CompletedProcess[bytes]:
    """Without systemd: the cgroup is made by hand."""
    command = ["crun", "--cgroup-manager=cgroupfs", *arguments]
    return subprocess.run(command, capture_output=arguments[0] == "state", check=True, timeout=20)


def state() -> dict[str, Any]:
    """What crun knows of the container."""
    found: dict[str, Any] = json.loads(crun("state", _CONTAINER).stdout)
    return found


@contextmanager
def container() -> Iterator[int]:
    """A container of the user nobody, whose image is this system; its first process's id."""
    with tempfile.TemporaryDirectory(dir="/run") as bundle:
        root = Path(bundle, "rootfs")
        root.mkdir()
        subprocess.run(["mount", "--rbind", "/", root], check=True)
        try:
            crun("spec", "--bundle", bundle)
            config = Path(bundle, "config.json")
            spec = json.loads(config.read_text())
            sleeper = ["/bin/sh", "-c", "while true; do sleep 0.2; done"]
            user = {"uid": _NOBODY, "gid": _NOBODY}
            spec["process"] |= {"terminal": False, "args": sleeper, "user": user}
            spec["linux"] |= {"cgroupsPath": f"/{_CONTAINER}", "resources": {}}
            config.write_text(json.dumps(spec))
            crun("run", "--detach", "--bundle", bundle, _CONTAINER)
            yield int(state()["pid"])
        finally:
            crun("delete", "--force", _CONTAINER)
            subprocess.run(["umount", "--recursive", "--lazy", root], check=True)


class Exercise:
    """The parts, in the order in which they build on each other. Each raises `AssertionError`."""

    name = "exercise"

    def __init__(self, cgroup: Path, agent: subprocess.Popen[str]) -> None:
        self._cgroup, self._agent = cgroup, agent

    def _tell(self, line: str) -> None:
        assert self._agent.stdin is not None
        self._agent.stdin.write(line + "\n")
        self._agent.stdin.flush()

    def _state(self) -> dict[str, Any]:
        return next((dict(one) for one in ask("agents") if one["name"] == self.name), {})

    def _frozen(self) -> bool:
        return "frozen 1" in (self._cgroup / "cgroup.events").read_text()

    def coverage(self) -> None:
        """sees as much as root without limits would"""
        without = {check.name.removeprefix("probe ") for check in examine() if check.state != OK}
        limited = {gap["probe"] for gap in eventually(lambda: ask("status"))["coverage"]} - without
        assert not limited, f"not seen: {', '.join(sorted(limited))}"

    def cache(self) -> None:
        """keeps compiled probes and rules for the next start"""
        for folder in ("probes", "rules"):
            assert list(Path("/var/cache/agentwatch", folder).iterdir()), f"no {folder} are kept"

    def attach(self) -> None:
        """attaches to a running agent of another user"""
        ask("attach", target=str(self._cgroup), name=self.name, mode="enforce")

    def stock(self) -> None:
        """knows its program and its folder"""
        (process,) = [one for one in ask("ps", agent=self.name)["processes"] if one["pid"] == self._agent.pid]
        assert process["user"] == "nobody", process
        assert process["exe"] == str(Path(sys.executable).resolve()), process
        assert process["cwd"] == "/", process

    def sockets(self) -> None:
        """knows the connection that it had"""
        assert ask("flows", agent=self.name)["flows"]

    def events(self) -> None:
        """sees what it runs"""
        self._tell("run")
        eventually(lambda: any("exercise" in one["argv"] for one in ask("ps", agent=self.name)["processes"]))

    def rule(self) -> None:
        """freezes it on a rule"""
        self._tell("mine")
        eventually(self._frozen)
        assert self._state()["state"] == "paused", self._state()

    def restart(self) -> None:
        """holds the freeze when it is killed and started again"""
        before = ask("status")["pid"]
        os.kill(before, signal.SIGKILL)
        eventually(lambda: ask("status")["pid"] != before)
        assert self._state()["state"] == "paused", self._state()
        assert self._frozen()

    def resume(self) -> None:
        """resumes it by hand"""
        ask("resume", agent=self.name, reason="exercise")
        eventually(lambda: not self._frozen())  # the kernel says so once the first task has woken

    def pause(self) -> None:
        """pauses it by hand"""
        ask("pause", agent=self.name, reason="exercise")
        assert self._frozen()

    def reload(self) -> None:
        """reads its rules anew on SIGHUP"""
        status = ask("status")
        os.kill(status["pid"], signal.SIGHUP)
        assert ask("status")["pid"] == status["pid"]

    def kill(self) -> None:
        """kills it by hand, frozen as it is"""
        ask("kill", agent=self.name, reason="exercise")
        assert self._agent.wait(10) == -signal.SIGKILL

    def run(self) -> None:
        """watches what `agentwatch run` starts, which ends as that does"""
        command = ["agentwatch", "run", "--name", "handed", "--", "sh", "-c", "exit 7"]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
        assert "the daemon watches it as agent handed" in done.stderr, done.stderr
        assert done.returncode == 7, done.stderr

    def container(self) -> None:
        """freezes, resumes and kills a container of crun's, and crun says so too"""
        with container() as pid:
            name = ask("attach", target=str(pid), mode="enforce")["agent"]
            assert state()["status"] == "running"
            ask("pause", agent=name)
            assert state()["status"] == "paused"
            ask("resume", agent=name)
            assert state()["status"] == "running"
            ask("kill", agent=name)
            eventually(lambda: state()["status"] == "stopped")

    def parts(self) -> Iterator[Callable[[], None]]:
        yield from (self.coverage, self.cache, self.attach)
        # The kernel tells pids as the host knows them: elsewhere they lead to no folder of /proc.
        if Path("/proc/self/ns/pid").stat().st_ino == _HOST:
            yield from (self.stock, self.sockets)
        yield from (self.events, self.rule)
        yield from (self.restart, self.resume, self.pause, self.reload, self.kill)
        yield self.run
        if shutil.which("crun"):
            yield self.container


@contextmanager
def exercise() -> Iterator[Exercise]:
    """An agent of the user nobody, in a cgroup of its own."""
    cgroup = find_mount() / f"exercise-{os.getpid()}"
    cgroup.mkdir()
    agent = subprocess.Popen(
        [sys.executable, "-I", "-c", _AGENT, str(pool())], stdin=subprocess.PIPE, text=True, cwd="/",
        user=_NOBODY, group=_NOBODY, extra_groups=[],
    )  # fmt: skip
    try:
        (cgroup / "cgroup.procs").write_text(str(agent.pid))
        for path in (cgroup, *cgroup.iterdir()):  # as a user's own container has it
            os.chown(path, _NOBODY, _NOBODY)
        yield Exercise(cgroup, agent)
    finally:
        (cgroup / "cgroup.kill").write_text("1")
        agent.wait()
        eventually(lambda: "populated 0" in (cgroup / "cgroup.events").read_text())
        cgroup.rmdir()


def main() -> int:
    failed = 0
    with exercise() as made:
        for part in made.parts():
            try:
                part()
                verdict = "ok"
            except Exception as error:
                failed += 1
                verdict = f"FAILED: {type(error).__name__}: {error}"
            print(f"{part.__doc__}: {verdict}", flush=True)
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(main())
