"""Reverse tunnels over SSH: a remote forward asked for, opened, established, or used.

Four stages, each a Finding of protocol `ssh` with `Behaviour` `remote_forward` and `Stage`:

- `asked`: a program called as an SSH client is run with a remote forward in its words or its
  configuration. `Forward` is the forward, spelled as for `-R`.
- `opened`: a process whose words (whatever it is called) or configuration ask for one has sent its
  SSH banner, so a session is being set up. `Forward` as above.
- `established`: the session of such a process is past its key exchange: each side has sent
  ESTABLISHED messages (runs of bytes until the other speaks) and more.
- `used`: a process with an SSH session connects to where an inbound channel leads. `DestinationIp`
  and `DestinationPort` say where. This needs no words and no configuration: it sees Dropbear's
  client, libraries, control masters and configurations that nobody could read.

The session may run over what a child connected (`ProxyCommand`): `opened` then means that bytes came
in there. A client made for the purpose that connects to the Unix socket that was asked for, or to one
that gives power over the host (a container engine's), uses a forward, too: `LocalTarget` says which
socket. A tunnel device (`-w`) that words or configuration ask for is Behaviour `tunnel_device`, Stage
`asked`.

`Condition` `unknown` is added where the configuration asks under a condition that only the client
can evaluate (`Match exec`).

What counts as use. After its banner, a client made for the purpose (OpenSSH's, Dropbear's, PuTTY's,
by its name or by its banner) connects for nothing but inbound channels, so its next stream connect
counts at once; excepted are Kerberos and DNS, which authentication and the look-up of host keys
may need, and X11 displays where X11 is forwarded. Any other program that speaks SSH may do anything
else as well, more SSH sessions and HTTP among it, and reports of its sessions may go to a local
database. There a connect counts only if all of this holds:

- bytes came in on a session at most two seconds before;
- the target is loopback, private, shared or link-local, and not a session's own peer;
- the first bytes on the new flow are handed over from or to a session: what is sent was received
  on a session since the connect, or what is received is sent on a session before anything else is
  sent on the new flow. A program that speaks for itself sends without having received;
- the first bytes sent are not the SSH banner that the process sends for itself: that would be one
  more session. Another's banner is relayed.

Times are event times in nanoseconds. The fold is deterministic and bounded.
"""

from __future__ import annotations

import re
from collections import OrderedDict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

from agentwatch.detect import ssh_config
from agentwatch.detect.addresses import is_inside
from agentwatch.detect.finding import Finding, text
from agentwatch.detect.ssh_argv import SshCommand, basename, looks_like_ssh, parse, unwrap
from agentwatch.enrich.bounded import put

Key = tuple[int, int]
"""A process: its tgid and its start time."""

DEFAULT_CONFIG: Final = "~/.ssh/config"
_PROCESSES_LIMIT: Final = 4096
_FLOWS_LIMIT: Final = 128
_WORDS_LIMIT: Final = 256
_WORD_LIMIT: Final = 1024
_RECENT_NS: Final = 2_000_000_000
_CLIENTS: Final = ("OpenSSH", "dropbear", "PuTTY", "plink")
_SERVICE_PORTS: Final = frozenset({53, 88})
"""DNS and Kerberos"""
ESTABLISHED: Final = 4
"""Messages of each side by which keys are exchanged: banner and KEXINIT, exchange, NEWKEYS, the first
request or answer under the new keys (RFC 4253). Through a proxy that encrypts, two more."""
_PROXIED: Final = 2
_POWERFUL_SOCKETS: Final = re.compile(
    r"/(docker|containerd|crio|podman|buildkitd|lxd/unix|libvirt/libvirt)(\.sock|-sock)?$|/containerd\.sock"
)
"""Sockets that a client connects to for nobody but a channel, even if nothing that was seen asks for it.
To others (its agent's, a control master's) it connects for itself."""
_X11_PORTS: Final = range(6000, 6100)


@dataclass(slots=True)
class _Candidate:
    """A connect that may be an inbound channel's, until its first bytes tell."""

    address: str
    port: int
    received: int = 0
    """Bytes that came in on sessions since the connect."""
    owed: int | None = None
    """Bytes that came in on the new flow and have not gone out on a session."""


class _Process:
    """What a process is known for. A fork is the same until either does something of its own: `shared`."""

    __slots__ = (
        "argv",
        "candidates",
        "command",
        "config",
        "connects",
        "last_incoming",
        "messages",
        "named",
        "parsed",
        "proxied",
        "reported",
        "sessions",
        "shared",
        "software",
    )

    def __init__(self, argv: tuple[str, ...], named: bool) -> None:
        self.argv = argv
        self.named = named
        self.command: SshCommand | None = None
        self.parsed = False
        self.config: ssh_config.ConfigAnswer | None = None
        self.software: str | None = None
        self.reported: frozenset[tuple[str, str]] = frozenset()
        self.connects: dict[int, tuple[str, int]] = {}
        self.sessions: dict[int, tuple[str, int]] = {}  # flows with a banner of this process, and their peers
        self.messages: dict[int, tuple[int, int]] = {}  # of each session, how many went out and came in
        self.proxied = False
        self.candidates: dict[int, _Candidate] = {}
        self.last_incoming: int | None = None
        self.shared = False

    def copy(self) -> _Process:
        """What a fork of it begins with."""
        copy = _Process(self.argv, self.named)
        copy.command, copy.parsed = self.command, self.parsed
        copy.config, copy.software, copy.reported = self.config, self.software, self.reported
        copy.connects, copy.sessions = dict(self.connects), dict(self.sessions)
        copy.messages, copy.proxied = dict(self.messages), self.proxied
        copy.last_incoming = self.last_incoming
        return copy

    def ssh(self) -> SshCommand | None:
        if not self.parsed:
            self.command, self.parsed = parse(self.argv), True
        return self.command

    def is_client(self) -> bool:
        """Whether the program does nothing but SSH, so that its connects need no further proof."""
        return self.named or (self.software or "").startswith(_CLIENTS)


class RemoteForward:
    """The state machine over processes; the owner reports what they do, in the order of events."""

    def __init__(self) -> None:
        self._words: OrderedDict[Key, Sequence[str]] = OrderedDict()
        """What those run that have done nothing yet by which they could be told from any other program."""
        self._quiet: OrderedDict[Key, _Process] = OrderedDict()
        self._speaking: OrderedDict[Key, _Process] = OrderedDict()
        """Those with an SSH session, kept apart so that a flood of processes cannot push them out."""

    def exec(self, key: Key, argv: Sequence[str], time: int) -> list[Finding]:
        """The process runs a program with these words; what they ask for if it is called as an SSH client."""
        self.exit(key)
        put(self._words, key, argv, _PROCESSES_LIMIT)
        if not argv or not _may_be_client(argv[0]):
            return []
        process = self._own(key)
        return _asked(process, "asked") if process is not None and process.named else []

    def fork(self, parent: Key, child: Key) -> None:
        """`ssh -f` and control masters go on in a child, which inherits words and sessions."""
        process = self._speaking.get(parent)
        if process is not None:
            put(self._speaking, child, process.copy(), _PROCESSES_LIMIT)
            return
        process = self._quiet.get(parent)
        if process is not None:
            process.shared = True
            put(self._quiet, child, process, _PROCESSES_LIMIT)
            return
        words = self._words.get(parent)
        if words is not None:
            put(self._words, child, words, _PROCESSES_LIMIT)

    def exit(self, key: Key) -> None:
        """The process is gone."""
        self._words.pop(key, None)
        self._quiet.pop(key, None)
        if self._speaking:
            self._speaking.pop(key, None)

    def wanted_config(self, key: Key) -> str | None:
        """The configuration file that decides about this process, for the owner to read; None for none.

        As the process wrote it after `-F` (relative to its working directory), otherwise
        `~/.ssh/config` of the user who runs it. Worth asking after `exec` and after `banner`.
        """
        process = self._get(key)
        if process is None or not process.is_client() or process.config is not None:
            return None
        command = process.ssh()
        if command is None or not command.reads_config or not command.may_forward:
            return None
        path = command.config_file
        if path is None:
            return DEFAULT_CONFIG
        return None if path.lower() == "none" else path

    def config(self, key: Key, content: str) -> list[Finding]:
        """What the wanted file says."""
        process = self._own(key)
        command = process.ssh() if process is not None else None
        if process is None or command is None:
            return []
        process.config = ssh_config.remote_forwards(
            content, command.hostname or command.host, original_host=command.host, user=command.user
        )
        return _asked(process, "opened" if process.sessions else "asked")

    def banner(self, key: Key, flow: int, time: int, software: str = "") -> list[Finding]:
        """The process itself sent an SSH client's banner on an outbound flow.

        `software` is the banner after `SSH-2.0-`. If the flow is one on which another's banner may
        be relayed, this is decided as in `payload`.
        """
        process = self._own(key) or _Process((), named=False)
        if flow in process.sessions:
            return []
        if flow in process.candidates:
            return self._first_sent(process, flow, len("SSH-2.0-") + len(software), software)
        self._quiet.pop(key, None)
        put(self._speaking, key, process, _PROCESSES_LIMIT)
        if process.software is None:
            process.software = software[:_WORD_LIMIT]
        put(process.sessions, flow, process.connects.pop(flow, ("", 0)), _FLOWS_LIMIT)
        return _asked(process, "opened")

    def connect(
        self, key: Key, flow: int, *, stream: bool, address: str, port: int, time: int
    ) -> list[Finding]:
        """The process connects an inet socket; `stream` is False for datagrams."""
        process = self._own(key) if stream else None
        if process is None or flow in process.sessions:
            return []
        if not process.sessions:
            put(process.connects, flow, (address, port), _FLOWS_LIMIT)
            return []
        if process.is_client():
            return [] if _excepted(process, port) else [_used(address, port)]
        if (
            (address, port) in process.sessions.values()
            or not is_inside(address)
            or not _recent(process, time)
        ):
            put(process.connects, flow, (address, port), _FLOWS_LIMIT)
        else:
            put(process.candidates, flow, _Candidate(address, port), _FLOWS_LIMIT)
        return []

    def proxied(self, key: Key, flow: int) -> list[Finding]:
        """Bytes came in on what a child connected for a client that has no connection of its own."""
        if not self.waits_for_proxy(key):
            return []
        process = self._quiet.pop(key)
        if process.shared:
            process = process.copy()
        put(self._speaking, key, process, _PROCESSES_LIMIT)
        process.proxied = True
        put(process.sessions, flow, ("", 0), _FLOWS_LIMIT)
        return _asked(process, "opened")

    def waits_for_proxy(self, key: Key) -> bool:
        """Whether this client asks for a remote forward and has connected nowhere itself."""
        process = self._quiet.get(key)  # without a session, that is
        if process is None or not process.named or process.connects or key in self._speaking:
            return False
        command = process.ssh()
        return command is not None and bool(command.asks_with(process.config))

    def connect_unix(self, key: Key, path: str) -> list[Finding]:
        """The process connects to a Unix socket; is that where a channel leads?"""
        process = self._get(key)
        if process is None or not process.sessions or not process.is_client():
            return []
        command = process.ssh()
        specs = command.asks_with(process.config) if command is not None else ()
        told = any(spec.endswith(f":{path}") for spec in specs)
        established = any(_is_established(process, flow) for flow in process.sessions)
        if not told and not (established and _POWERFUL_SOCKETS.search(path)):
            return []
        return [Finding("ssh", {"Behaviour": "remote_forward", "Stage": "used", "LocalTarget": text(path)})]

    @property
    def speaking(self) -> bool:
        """Whether any process speaks SSH."""
        return bool(self._speaking)

    def is_session(self, key: Key, flow: int) -> bool:
        """Whether the process speaks SSH for itself on this flow; on others it may relay somebody's."""
        process = self._speaking.get(key)
        return process is not None and flow in process.sessions

    def session_data(
        self, key: Key, flow: int, incoming: bool, length: int, time: int, message: int = 0
    ) -> list[Finding]:
        """`length` bytes went over a session's flow, in the `message`-th message of their direction."""
        process = self._get(key)
        if process is None or flow not in process.sessions:
            return []
        out, came = process.messages.get(flow, (0, 0))
        counts = (out, max(came, message)) if incoming else (max(out, message), came)
        put(process.messages, flow, counts, _FLOWS_LIMIT)
        findings = _asked(process, "established") if _is_established(process, flow) else []
        return findings + self._handed_over(process, incoming, length, time)

    def _handed_over(self, process: _Process, incoming: bool, length: int, time: int) -> list[Finding]:
        """Whether candidates get or give what goes over a session."""
        if incoming:
            process.last_incoming = time
            for candidate in process.candidates.values():
                candidate.received += length
            return []
        findings = []
        for opened, candidate in list(process.candidates.items()):
            if candidate.owed is not None:
                candidate.owed -= length
                if candidate.owed <= 0:
                    del process.candidates[opened]
                    findings.append(_used(candidate.address, candidate.port))
        return findings

    def payload(self, key: Key, flow: int, incoming: bool, data: bytes, time: int) -> list[Finding]:
        """Bytes went over another flow of the process; the first ones decide what the flow is."""
        process = self._get(key)
        candidate = process.candidates.get(flow) if process is not None else None
        if process is None or candidate is None or not data:
            return []
        if incoming:
            if candidate.owed is None:
                candidate.owed = len(data)
            return []
        software = None
        if data.startswith((b"SSH-2.0-", b"SSH-1.99-")):
            line = data.split(b"\n", 1)[0].rstrip(b"\r")
            software = line.split(b"-", 2)[2].decode("latin-1")
        return self._first_sent(process, flow, len(data), software)

    def close(self, key: Key, flow: int) -> None:
        """The process closed a flow."""
        process = self._speaking.get(key)
        if process is not None:
            process.connects.pop(flow, None)
            process.candidates.pop(flow, None)
            process.messages.pop(flow, None)
            return
        quiet = self._quiet.get(key)  # which has connects at most
        if quiet is not None and flow in quiet.connects:
            if quiet.shared:
                quiet = self._quiet[key] = quiet.copy()
            del quiet.connects[flow]

    def _first_sent(self, process: _Process, flow: int, length: int, software: str | None) -> list[Finding]:
        """What the first bytes sent on a candidate make of it."""
        candidate = process.candidates.pop(flow)
        if software is not None and software[:_WORD_LIMIT] == process.software:
            put(process.sessions, flow, (candidate.address, candidate.port), _FLOWS_LIMIT)
            return []
        return [_used(candidate.address, candidate.port)] if candidate.received > length else []

    def _get(self, key: Key) -> _Process | None:
        return self._speaking.get(key) or self._quiet.get(key)

    def _own(self, key: Key) -> _Process | None:
        """That of the process, to be changed; made from what it runs where it did nothing before."""
        argv = self._words.pop(key, None)
        if argv is not None:
            words = tuple([word[:_WORD_LIMIT] for word in unwrap(argv)[:_WORDS_LIMIT]])
            process = _Process(words, bool(words) and looks_like_ssh(basename(words[0])))
            put(self._quiet, key, process, _PROCESSES_LIMIT)
            return process
        speaking = self._speaking.get(key)
        if speaking is not None:
            return speaking
        quiet = self._quiet.get(key)
        if quiet is not None and quiet.shared:
            quiet = self._quiet[key] = quiet.copy()
        return quiet


@lru_cache(maxsize=1024)  # programs come again and again
def _may_be_client(name: str) -> bool:
    """Whether a program of this name is an SSH client, or runs another."""
    return looks_like_ssh(basename(name)) or unwrap((name,)) != (name,)


def _asked(process: _Process, stage: str) -> list[Finding]:
    """What words and configuration ask for and was not yet reported at this stage."""
    command = process.ssh()
    if command is None:
        return []
    config = process.config
    sure = command.asks_with(config)
    findings = _new(process, stage, sure, {})
    if ("asked", "-w") not in process.reported and command.asks_for_device(config):
        process.reported |= {("asked", "-w")}
        findings.append(Finding("ssh", {"Behaviour": "tunnel_device", "Stage": "asked"}))
    if config is not None and command.may_forward and not (config.clear_all or command.clear_all):
        findings += _new(process, stage, config.possible, {"Condition": "unknown"})
    return findings


def _new(process: _Process, stage: str, specs: Iterable[str], more: dict[str, str]) -> list[Finding]:
    findings = []
    for spec in specs:
        if (stage, spec) not in process.reported:
            process.reported |= {(stage, spec)}
            attributes = {"Behaviour": "remote_forward", "Stage": stage, "Forward": text(spec), **more}
            findings.append(Finding("ssh", attributes))
    return findings


def _is_established(process: _Process, flow: int) -> bool:
    return min(process.messages.get(flow, (0, 0))) >= ESTABLISHED + _PROXIED * process.proxied


def _used(address: str, port: int) -> Finding:
    return Finding(
        "ssh",
        {
            "Behaviour": "remote_forward",
            "Stage": "used",
            "DestinationIp": text(address),
            "DestinationPort": port,
        },
    )


def _excepted(process: _Process, port: int) -> bool:
    command = process.ssh()
    return port in _SERVICE_PORTS or (command is not None and command.x11 and port in _X11_PORTS)


def _recent(process: _Process, time: int) -> bool:
    return process.last_incoming is not None and time - process.last_incoming <= _RECENT_NS
