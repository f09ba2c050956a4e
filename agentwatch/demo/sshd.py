"""A real SSH server (dropbear) on a host of a lab, and the keys to reach it.

The server runs in the host's own mount namespace, where the account's home is a folder of
the lab: nobody's keys, logs or login records are read or written. On the host's loopback
a page lies on `PAGE_PORT`, for honest local forwards, and a visitor keeps trying
`VISITED_PORT`: whenever a remote forward opens it, it reads one page through the tunnel,
as whoever asked for the tunnel would.
"""

from __future__ import annotations

import socket
import subprocess
import sys
import threading
import time
from dataclasses import dataclass
from pathlib import Path

from agentwatch.demo import web
from agentwatch.demo.hosts import PYTHON, Host, Lab
from agentwatch.demo.service import accept_for_ever, note

PORT = 22
VISITED_PORT = 9000
PAGE_PORT = 8888
_VISIT_SECONDS = 0.3
_LOGIN_RECORDS = ("/run/utmp", "/var/log/wtmp", "/var/log/lastlog", "/var/log/btmp")


@dataclass(frozen=True)
class Account:
    """How to reach the server: the host, the private key, and the file with the host's key."""

    host: Host
    key: Path
    known_hosts: Path

    def options(self) -> list[str]:
        """Options of ssh that use these keys and neither configuration, agent nor question."""
        return [
            *("-F", "none", "-i", str(self.key)),
            *("-o", "IdentitiesOnly=yes", "-o", "IdentityAgent=none", "-o", "BatchMode=yes"),
            *("-o", "StrictHostKeyChecking=yes", "-o", f"UserKnownHostsFile={self.known_hosts}"),
        ]


def start(lab: Lab) -> Account:
    """Make keys and an account in the lab and start a host that serves it."""
    folder = lab.work / "sshd"
    secrets = folder / "home" / ".ssh"
    secrets.mkdir(parents=True, mode=0o700)
    key, host_key = lab.work / "id_ed25519", folder / "host_key"
    _run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "demo", "-f", str(key))
    (secrets / "authorized_keys").write_bytes(key.with_suffix(".pub").read_bytes())
    made = _run("dropbearkey", "-t", "ed25519", "-f", str(host_key))
    public = next(line for line in made.splitlines() if line.startswith("ssh-ed25519 "))
    (folder / "passwd").write_text(f"root:x:0:0:root:{folder / 'home'}:/bin/sh\n")
    host = lab.start("sshd", [*PYTHON, "-m", "agentwatch.demo.sshd", str(folder)])
    known_hosts = lab.work / "known_hosts"
    names = host.ipv4 if host.ipv6 is None else f"{host.ipv4},{host.ipv6}"
    known_hosts.write_text(f"{names} {public}\n")
    return Account(host, key, known_hosts)


def _run(*command: str) -> str:
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def _main(folder: Path) -> None:
    # Only this host sees these mounts.
    _run("mount", "--bind", str(folder / "passwd"), "/etc/passwd")
    for record in _LOGIN_RECORDS:
        if Path(record).exists():
            _run("mount", "--bind", "/dev/null", record)
    _run("ip", "link", "set", "lo", "up")
    # In the foreground, logging to standard error, without passwords and without a pid file.
    options = ["-F", "-E", "-s", "-P", "/dev/null", "-p", str(PORT), "-r", str(folder / "host_key")]
    server = subprocess.Popen(["/usr/sbin/dropbear", *options])
    while not _listening():
        if server.poll() is not None:
            sys.exit(1)
        time.sleep(0.01)
    threading.Thread(target=_visit_for_ever, daemon=True).start()
    page = socket.create_server(("127.0.0.1", PAGE_PORT))
    threading.Thread(target=accept_for_ever, args=(page, web.answer), daemon=True).start()
    print("ready", flush=True)
    server.wait()


def _listening() -> bool:
    """Has the server begun to listen? Asked of the kernel: a connection would begin a session."""
    listening = f":{PORT:04X} 00000000:0000 0A "
    return listening in Path("/proc/net/tcp").read_text()


def _visit_for_ever() -> None:
    while True:
        time.sleep(_VISIT_SECONDS)
        try:
            with socket.create_connection(("127.0.0.1", VISITED_PORT)) as tunnel:
                tunnel.sendall(b"GET / HTTP/1.0\r\n\r\n")
                page = b"".join(iter(lambda: tunnel.recv(4096), b""))
        except OSError:
            continue
        note(f"read {len(page)} bytes through the tunnel")


if __name__ == "__main__":
    _main(Path(sys.argv[1]))
