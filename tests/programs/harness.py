"""An agent's harness: asks a model over TLS what to do, does it in a shell, tells the model.

harness.py HOW HOST PORT. HOW: pipes and pty (one shell for all), commands (one for each), redis
(orders from a queue on the host's REDIS_PORT), tools (a server of tools over standard streams).
"""

from __future__ import annotations

import json
import os
import pty
import socket
import ssl
import subprocess
import sys
from collections.abc import Callable

TURNS = 8
REDIS_PORT = 6379


def main(how: str, host: str, port: int) -> None:
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    model = context.wrap_socket(socket.create_connection((host, port)))
    act = {
        "pipes": in_pipes,
        "pty": in_terminal,
        "commands": in_shells,
        "redis": in_shells,
        "tools": by_tools,
    }[how]()
    queue = socket.create_connection((host, REDIS_PORT)) if how == "redis" else None
    for turn in range(TURNS):
        model.sendall(json.dumps({"turn": turn}).encode() + b"\n")
        command = json.loads(model.recv(65536))["command"]
        if queue is not None:
            queue.sendall(b"*3\r\n$5\r\nBLPOP\r\n$4\r\nwork\r\n$1\r\n0\r\n")
            command = queue.recv(4096).split(b"\r\n")[-2].decode()
        result = act(command)
        if queue is not None:
            queue.sendall(b"*3\r\n$5\r\nRPUSH\r\n$4\r\ndone\r\n$%d\r\n%s\r\n" % (len(result), result))
        model.sendall(json.dumps({"result": result.decode()}).encode() + b"\n")


def in_shells() -> Callable[[str], bytes]:
    return lambda command: subprocess.run(["bash", "-c", command], capture_output=True, check=False).stdout


def in_pipes() -> Callable[[str], bytes]:
    shell = subprocess.Popen(["bash"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0)

    def act(command: str) -> bytes:
        assert shell.stdin is not None
        assert shell.stdout is not None
        shell.stdin.write(f"{command}; echo; echo END\n".encode())
        return b"".join(iter(shell.stdout.readline, b"END\n"))

    return act


def in_terminal() -> Callable[[str], bytes]:
    pid, end = pty.fork()
    if pid == 0:
        os.execv("/bin/bash", ["/bin/bash", "--norc", "-i"])

    def act(command: str) -> bytes:
        os.write(end, f"{command}; echo E''ND\n".encode())
        seen = b""
        while b"END" not in seen:
            seen += os.read(end, 4096)
        return seen

    return act


def by_tools() -> Callable[[str], bytes]:
    code = "import subprocess,sys\nfor l in sys.stdin:\n print(len(subprocess.getoutput(l)), flush=True)"
    server = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE)

    def act(command: str) -> bytes:
        assert server.stdin is not None
        assert server.stdout is not None
        server.stdin.write(command.encode() + b"\n")
        server.stdin.flush()
        return server.stdout.readline()

    return act


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]))
