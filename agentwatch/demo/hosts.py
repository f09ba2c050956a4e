"""Hosts in network namespaces of their own, reached over veth pairs.

A `Lab` holds a network that nothing outside it can reach or be disturbed by; each host in
it is one service in its own network, mount and pid namespace. Namespaces are named by the
processes that live in them, never mounted, so nothing outlives the lab's maker: every
process of the lab dies with the thread that made it (PR_SET_PDEATHSIG), and with the
processes go the namespaces, the interfaces and the mounts. Needs root.
"""

from __future__ import annotations

import ipaddress
import json
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import IO

# What runs Python here runs it in the lab too: the same interpreter, as isolated as this one.
PYTHON = [sys.executable, *(["-I"] if sys.flags.isolated else [])]

_WITH_PARENT = ["setpriv", "--pdeathsig", "KILL"]
_OWN_HOST = ["unshare", "--net", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc"]
_OWN_NETWORK = ["unshare", "--net"]
_HOLD_NETWORK = ["sh", "-c", "ip link set lo up && echo ready && exec sleep infinity"]
_SUBNETS = range(77, 127)


class LabError(RuntimeError):
    """The lab could not be made; the message says what was missing."""


@dataclass(frozen=True)
class Host:
    """One host of a lab: its addresses (`ipv6` is None where the kernel has none) and its service.

    `log` is where the service's standard error goes.
    """

    name: str
    ipv4: str
    ipv6: str | None
    process: subprocess.Popen[bytes]
    log: Path


class Lab:
    """Hosts and the network that joins them, made on entry and removed on exit.

    With `isolated`, what shall reach the hosts is started through `inside`; without, the
    hosts are joined to the caller's own network, in address ranges that it does not use.
    `work` is a folder for the files of the lab, removed with it.
    """

    def __init__(self, *, isolated: bool = True) -> None:
        self._isolated = isolated
        self._holder: subprocess.Popen[bytes] | None = None
        self._hosts: list[Host] = []
        self._links: list[str] = []
        self._folder = tempfile.TemporaryDirectory(prefix="agentwatch-lab-")
        self.work = Path(self._folder.name)

    def __enter__(self) -> Lab:
        try:
            if self._isolated:
                self._holder = _start("network", [*_OWN_NETWORK, *_HOLD_NETWORK], self.work / "network.log")
            self._net4, self._net6 = _free_networks(self._ip("-json", "route", "show", "table", "all"))
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Remove everything the lab made. May be called twice."""
        for link in self._links:
            # The interface goes by itself when the host's namespace does, but later.
            subprocess.run(self.inside(["ip", "link", "del", link]), capture_output=True, check=False)
        self._links.clear()
        for process in [*(host.process for host in self._hosts), *([self._holder] if self._holder else [])]:
            process.kill()
            process.wait()
            if process.stdout:
                process.stdout.close()
        self._hosts.clear()
        self._holder = None
        self._folder.cleanup()

    def inside(self, command: Sequence[str]) -> list[str]:
        """The command that runs `command` where the hosts can be reached."""
        if self._holder is None:
            return list(command)
        return ["nsenter", f"--net=/proc/{self._holder.pid}/ns/net", "--", *command]

    def start(self, name: str, command: Sequence[str]) -> Host:
        """Start a host that runs `command`, and join it to the lab.

        The command says `ready` and a newline on its standard output once it can be
        reached; it must listen on every address, for its own are given to it afterwards.
        Raises `LabError` with the end of its log if it ends before.
        """
        log = self.work / f"{name}.log"
        process = _start(name, [*_OWN_HOST, *command], log)
        index = len(self._hosts) + 1
        host = Host(
            name=name,
            ipv4=str(self._net4[index * 256 + 2]),
            ipv6=str(self._net6[(index << 64) + 2]) if _has_ipv6() else None,
            process=process,
            log=log,
        )
        self._hosts.append(host)
        self._join(host, index)
        return host

    def _join(self, host: Host, index: int) -> None:
        # Fits IFNAMSIZ (16) and is unique to this lab: the pid is this host's.
        link = f"aw{host.process.pid}"
        far = f"/proc/{host.process.pid}/ns/net"
        self._batch(
            [],
            f"link add {link} type veth peer name eth0 netns {host.process.pid}",
            f"addr add {self._net4[index * 256 + 1]}/24 dev {link}",
            f"addr add {self._net6[(index << 64) + 1]}/64 dev {link} nodad" if host.ipv6 else "",
            f"link set {link} up",
        )
        self._links.append(link)
        self._batch(
            ["nsenter", f"--net={far}", "--"],
            "link set lo up",
            f"addr add {host.ipv4}/24 dev eth0",
            f"addr add {host.ipv6}/64 dev eth0 nodad" if host.ipv6 else "",
            "link set eth0 up",
        )

    def _batch(self, prefix: Sequence[str], *lines: str) -> None:
        command = [*prefix, "ip", "-batch", "-"]
        done = subprocess.run(
            command if prefix else self.inside(command),
            input="\n".join(lines) + "\n",
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            raise LabError(f"ip could not join the hosts: {done.stderr.strip()}")

    def _ip(self, *arguments: str) -> str:
        return subprocess.run(
            self.inside(["ip", *arguments]), capture_output=True, text=True, check=True
        ).stdout


def _start(name: str, command: Sequence[str], log: Path) -> subprocess.Popen[bytes]:
    """Start `command` so that it dies with this thread; return once it has said `ready`.

    In a session of its own: Ctrl-C in the terminal is for the maker to handle.
    """
    with log.open("wb") as errors:
        process = subprocess.Popen(
            [*_WITH_PARENT, *command],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=errors,
            start_new_session=True,
        )
    output: IO[bytes] | None = process.stdout
    assert output is not None
    if output.readline() != b"ready\n":
        process.kill()
        process.wait()
        output.close()
        raise LabError(f"the host {name} did not start: {log.read_text(errors='replace').strip()[-500:]}")
    return process


def _has_ipv6() -> bool:
    return Path("/proc/net/if_inet6").exists()


def _free_networks(routes: str) -> tuple[ipaddress.IPv4Network, ipaddress.IPv6Network]:
    """A /16 and an IPv6 /48 (unique local, RFC 4193) that no route of `routes` (ip -json) touches."""
    taken = []
    for route in json.loads(routes or "[]"):
        try:
            taken.append(ipaddress.ip_network(route["dst"], strict=False))
        except ValueError:  # "default" is in nobody's way
            continue
    for number in _SUBNETS:
        net4 = ipaddress.IPv4Network(f"10.{number}.0.0/16")
        net6 = ipaddress.IPv6Network(f"fd61:7761:{number}::/48")
        if not any(net4.overlaps(net) if net.version == 4 else net6.overlaps(net) for net in taken):
            return net4, net6
    raise LabError("no free address range between 10.77.0.0/16 and 10.126.0.0/16")
