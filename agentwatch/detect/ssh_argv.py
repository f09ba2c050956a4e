"""What an SSH client's command line asks for, found the way the client itself finds it.

OpenSSH: the getopt loop of `ssh.c` (BSD getopt: options end at the first word that is none, and are
looked for once more after the host). Dropbear: `cli-runopts.c`. PuTTY's plink: `cmdline.c`.
autossh: its options are ssh's and `-M`. What the client would refuse, and so do nothing with, is None.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Final
from urllib.parse import unquote

from agentwatch.detect import ssh_config

_ALONE: Final = frozenset("1246ACGKMNTVXYafgknqstvxy")
_WITH_ARGUMENT: Final = frozenset("BDEFIJLOPQRSWbceilmopw")
_CONTROL_COMMANDS: Final = frozenset({"check", "forward", "cancel", "exit", "stop", "proxy"})
_FORWARDS_LIMIT: Final = 64
_WORDS_LIMIT: Final = 4096
_UNWRAP_LIMIT: Final = 16
_REMOTE_LIMIT: Final = 64


@dataclass(frozen=True, slots=True)
class SshCommand:
    """One run of an SSH client.

    `host` as written, without user and port; `hostname` from `-o HostName`. `remote_forwards` are
    all that the command line names, spelled as for `-R`; whether they are asked of the server is
    `asks`. `clear_all` is `-o ClearAllForwardings` (None: not said). `stdio_forward` (`-W`) stands
    for ClearAllForwardings unless command line or configuration say no. `config_file` is `-F`
    (the file `none` means no configuration at all); `reads_config` is False for clients that read
    no OpenSSH configuration. `x11` is set where X11 may be forwarded (`-X`, `-Y`, `-o ForwardX11`).
    `control_command` is `-O`, to a running master at `control_path`. `tunnel` is a tunnel device
    (`-w`, `-o Tunnel`; None: not said). `remote_words` is the command
    to be run on the host, as far as the command line has words of it.
    """

    host: str
    user: str | None = None
    port: int | None = None
    hostname: str | None = None
    remote_forwards: tuple[str, ...] = ()
    config_file: str | None = None
    control_command: str | None = None
    control_path: str | None = None
    clear_all: bool | None = None
    stdio_forward: bool = False
    opens_nothing: bool = False
    reads_config: bool = True
    x11: bool = False
    tunnel: bool | None = None
    remote_words: tuple[str, ...] = ()

    @property
    def may_forward(self) -> bool:
        """Whether forwards, of the command line or of the configuration, are asked for at all."""
        return not self.opens_nothing and self.control_command in (None, "forward")

    @property
    def asks(self) -> tuple[str, ...]:
        """The remote forwards that this command line by itself asks of the server."""
        return self.asks_with(None)

    def asks_with(self, config: ssh_config.ConfigAnswer | None) -> tuple[str, ...]:
        """The remote forwards that are asked of the server under the configuration `config`."""
        clear_all = self.clear_all
        if clear_all is None and config is not None:
            clear_all = config.clear_all
        if not self.may_forward or (self.stdio_forward if clear_all is None else clear_all):
            return ()
        return self.remote_forwards + (config.forwards if config is not None else ())

    def asks_for_device(self, config: ssh_config.ConfigAnswer | None) -> bool:
        """Whether a tunnel device is asked for under the configuration `config`."""
        tunnel = config.tunnel if self.tunnel is None and config is not None else self.tunnel
        return bool(tunnel) and self.may_forward


def looks_like_ssh(name: str) -> bool:
    """Whether a program of this base name is, by its name, an SSH client that can forward."""
    return _family(name) is not None


def parse(argv: Sequence[str]) -> SshCommand | None:
    """The SSH client's run that `argv` (with the program's name first) is; None if it is none.

    A program whose name says nothing may be any of them: the first reading with a remote forward
    counts, or the first. Never raises; words after the 4096th are not looked at.
    """
    if not argv:
        return None
    words = list(argv[1 : _WORDS_LIMIT + 1])
    family = _family(basename(argv[0]))
    if family == "dropbear" and words and basename(argv[0]).startswith("dropbear"):
        words = words[1:] if words[0] in ("dbclient", "ssh") else []
    parsers = {
        "openssh": (_openssh,),
        "autossh": (_autossh,),
        "dropbear": (_dropbear,),
        "putty": (_putty,),
        None: (_openssh, _dropbear, _putty),
    }[family]
    commands = [command for parser in parsers if (command := parser(words)) is not None]
    return next((command for command in commands if command.remote_forwards), next(iter(commands), None))


def basename(path: str) -> str:
    """The last part of a path; of a login shell's `-name`, the name."""
    return path.rpartition("/")[2].removeprefix("-")


_FAMILIES: Final = (
    (
        "openssh",
        re.compile(r"(open)?ssh([-._]?[0-9][0-9.p]*|[.-](exe|real|orig|bin|openssh|distrib))?|slogin"),
    ),
    ("dropbear", re.compile(r"dbclient([-._]?[0-9][0-9.]*)?|dropbear(multi)?")),
    ("putty", re.compile(r"(plink|putty|klink)(\.exe)?")),
    ("autossh", re.compile(r"autossh")),
)


@lru_cache(maxsize=512)  # programs come again and again
def _family(name: str) -> str | None:
    return next((family for family, names in _FAMILIES if names.fullmatch(name)), None)


# OpenSSH


@dataclass(slots=True)
class _Options:
    """The options seen so far; as in ssh, the first of two values counts."""

    user: str | None = None
    port: int | None = None
    hostname: str | None = None
    forwards: list[str] = field(default_factory=list)
    config_file: str | None = None
    control_command: str | None = None
    control_path: str | None = None
    clear_all: bool | None = None
    stdio_forward: bool = False
    opens_nothing: bool = False
    x11: bool = False
    tunnel: bool | None = None
    monitor: str | None = None
    remote_words: tuple[str, ...] = ()

    def command(self, host: str) -> SshCommand:
        return SshCommand(
            host=host,
            user=self.user,
            port=self.port,
            hostname=self.hostname,
            remote_forwards=tuple(self.forwards),
            config_file=self.config_file,
            control_command=self.control_command,
            control_path=self.control_path,
            clear_all=self.clear_all,
            stdio_forward=self.stdio_forward,
            opens_nothing=self.opens_nothing,
            x11=self.x11,
            tunnel=self.tunnel,
            remote_words=self.remote_words,
        )

    def forward(self, spec: str) -> None:
        if len(self.forwards) < _FORWARDS_LIMIT:
            self.forwards.append(spec)


class _Refused(Exception):
    """The client would print its usage or an error, and exit."""


class _Finished(Exception):
    """The client would answer a question about itself, and exit."""


def _openssh(words: list[str]) -> SshCommand | None:
    options = _Options()
    try:
        host = _scan(words, options, _WITH_ARGUMENT)
    except (_Refused, _Finished):
        return None
    return options.command(host)


def _scan(words: list[str], options: _Options, with_argument: frozenset[str]) -> str:
    """The host, having put every option into `options`."""
    at, terminated = _getopt(words, 0, options, with_argument)
    if at >= len(words):
        raise _Refused
    host = _destination(words[at], options)
    at += 1
    if not terminated:
        at, _ = _getopt(words, at, options, with_argument)
    options.remote_words = tuple(words[at : at + _REMOTE_LIMIT])
    return host


def _getopt(words: list[str], at: int, options: _Options, with_argument: frozenset[str]) -> tuple[int, bool]:
    """Takes options from `words[at]` on; where the first other word is, and whether `--` ended them."""
    while at < len(words):
        word = words[at]
        if word == "--":
            return at + 1, True
        if not word.startswith("-") or word == "-":
            break
        at += 1
        for place, letter in enumerate(word[1:], 2):
            if letter in with_argument:
                argument = word[place:]
                if not argument:
                    if at >= len(words):
                        raise _Refused
                    argument = words[at]
                    at += 1
                _take(letter, argument, options)
                break
            if letter not in _ALONE:
                raise _Refused
            _take_alone(letter, options)
    return at, False


def _take_alone(letter: str, options: _Options) -> None:
    if letter == "V":
        raise _Finished
    options.opens_nothing |= letter == "G"
    options.x11 |= letter in "XY"


_PLAIN_OPTIONS: Final = {"F": "config_file", "S": "control_path", "M": "monitor"}
_TUNNEL_DEVICES: Final = re.compile(
    r"(any|\+?[0-9]{1,10})(:(any|\+?[0-9]{1,10}))?"
)  # a2tun of OpenSSH's misc.c


def _take(letter: str, argument: str, options: _Options) -> None:
    if letter == "R":
        if not ssh_config.is_remote_forward(argument):
            raise _Refused
        options.forward(argument)
    elif letter == "o":
        _take_setting(argument, options)
    elif letter == "Q":
        raise _Finished
    elif letter == "O":
        if options.control_command is not None or argument not in _CONTROL_COMMANDS:
            raise _Refused
        options.control_command = argument
    elif letter == "W":
        options.stdio_forward |= ssh_config.names_stdio_host(argument)
    elif letter == "w":
        _take_device(argument, options)
    elif letter in _PLAIN_OPTIONS:
        setattr(options, _PLAIN_OPTIONS[letter], argument)
    elif letter == "l" and options.user is None:
        options.user = argument
    elif letter == "p":
        _take_port(argument, options)


def _take_device(text: str, options: _Options) -> None:
    if _TUNNEL_DEVICES.fullmatch(text) is None:
        raise _Refused
    if options.tunnel is None:
        options.tunnel = True


def _take_port(text: str, options: _Options) -> None:
    if options.port is not None:
        return
    port = ssh_config.port_number(text)
    if not port and not ssh_config.is_service(text):
        raise _Refused
    options.port = port


_FLAGS: Final = {
    "clearallforwardings": ("clear_all", ssh_config.flag),
    "tunnel": ("tunnel", ssh_config.tunnel),
}
_PLAIN_SETTINGS: Final = {"user": "user", "hostname": "hostname", "controlpath": "control_path"}


def _take_setting(line: str, options: _Options) -> None:
    setting = ssh_config.setting(line)
    if setting is None:
        if ssh_config.is_blank(line):
            return
        raise _Refused
    keyword, words = setting
    if keyword == "remoteforward":
        spec = ssh_config.forward_of(words)
        if spec is None:
            raise _Refused
        options.forward(spec)
    elif keyword in _FLAGS:
        name, read = _FLAGS[keyword]
        value = read(words)
        if value is None:
            raise _Refused
        if getattr(options, name) is None:
            setattr(options, name, value)
    elif keyword == "forwardx11":
        options.x11 |= bool(ssh_config.flag(words))
    elif keyword in ("host", "match", "include"):
        raise _Refused
    elif keyword == "port" and words:
        _take_port(words[0], options)
    elif keyword in _PLAIN_SETTINGS and words and getattr(options, _PLAIN_SETTINGS[keyword]) is None:
        setattr(options, _PLAIN_SETTINGS[keyword], words[0])


def _destination(word: str, options: _Options) -> str:
    """The host of `[user@]host` or `ssh://[user@]host[:port]`."""
    if word.startswith("ssh://"):
        found = _URI.fullmatch(word)
        if found is None:
            raise _Refused
        user, host = found[1] and unquote(found[1].partition(";")[0]), found[2].strip("[]")
        if found[3]:
            _take_port(found[3], options)
    else:
        before, at, host = word.rpartition("@")
        if at and not before:
            raise _Refused
        user = before or None
    if user is not None and options.user is None:
        options.user = user
    if not host:
        raise _Refused
    return host


_URI: Final = re.compile(r"ssh://(?:([^@]+)@)?(\[[^]@/]+\]|[A-Za-z0-9._-]+)(?::([^/]*))?/?")


def _autossh(words: list[str]) -> SshCommand | None:
    """autossh runs ssh with its own words but `-M`, whose port it forwards both ways as a monitor."""
    options = _Options()
    try:
        host = _scan(words, options, _WITH_ARGUMENT | {"M"})
    except (_Refused, _Finished):
        return None
    monitor = options.monitor or ""
    if monitor.isascii() and monitor.isdigit() and len(monitor) <= 5 and int(monitor):
        options.forward(f"{monitor}:127.0.0.1:{int(monitor) + 1}")
    return options.command(host)


# Dropbear

_DROPBEAR_WITH_ARGUMENT: Final = frozenset("plioLRWKIBJcmb")
_DROPBEAR_ENDS: Final = frozenset("hFeDV")


def _dropbear(words: list[str]) -> SshCommand | None:
    """Dropbear's client passes over options that it does not know, and takes options after the host."""
    user = host = port = None
    forwards: list[str] = []
    rest = iter(words)
    for word in rest:
        if not word.startswith("-"):
            if host is not None:
                break
            host = word
            continue
        letter, argument = _dropbear_option(word)
        if letter in _DROPBEAR_ENDS:
            return None
        if letter and not argument and (argument := next(rest, None)) is None:
            return None
        if letter == "R" and argument is not None and len(forwards) < _FORWARDS_LIMIT:
            if not ssh_config.is_remote_forward(argument, dynamic=False):
                return None
            forwards.append(argument)
        user = argument if letter == "l" else user
        port = argument if letter == "p" else port
    if not host:
        return None
    before, at, last = host.rpartition(",")[2].partition("@")
    name, *own_port = re.split("[/^]", last if at else before, maxsplit=1)
    return SshCommand(
        host=name,
        user=before if at else user,
        port=ssh_config.port_number((own_port or [port or ""])[0]),
        remote_forwards=tuple(forwards),
        reads_config=False,
    )


def _dropbear_option(word: str) -> tuple[str, str | None]:
    """The letter in a word that takes an argument or ends the program, and what follows it there."""
    for place, letter in enumerate(word[1:], 2):
        if letter in _DROPBEAR_WITH_ARGUMENT or letter in _DROPBEAR_ENDS:
            return letter, word[place:]
    return "", None


# PuTTY

_PUTTY_WITH_ARGUMENT: Final = frozenset(
    {"load", "l", "L", "R", "D", "nc", "P", "pw", "pwfile", "i", "m", "loghost", "hostkey", "cert"}
    | {"proxycmd", "sessionlog", "sshlog", "sshrawlog", "sercfg"}
)
_PUTTY_ENDS: Final = frozenset({"V", "version", "help", "pgpfp", "shareexists"})


def _putty(words: list[str]) -> SshCommand | None:
    """plink's options are whole words, before and after the host."""
    user = host = port = None
    forwards: list[str] = []
    rest = iter(words)
    for word in rest:
        option = word[1:].removeprefix("-")
        if not word.startswith("-"):
            if host is not None:
                break
            host = word
        elif option in _PUTTY_ENDS:
            return None
        elif option in _PUTTY_WITH_ARGUMENT:
            argument = next(rest, None)
            if argument is None:
                return None
            if option == "R" and len(forwards) < _FORWARDS_LIMIT:
                if not ssh_config.is_remote_forward(argument, dynamic=False):
                    return None
                forwards.append(argument)
            user = argument if option == "l" else user
            port = argument if option == "P" else port
            host = argument if option == "load" and host is None else host
    if not host:
        return None
    before, at, name = host.rpartition("@")
    return SshCommand(
        host=name,
        user=before if at else user,
        port=ssh_config.port_number(port or ""),
        remote_forwards=tuple(forwards),
        reads_config=False,
    )


# Wrappers


@dataclass(frozen=True, slots=True)
class _Wrapper:
    """What a program that runs another one takes for itself: options with an argument, further words."""

    letters: str = ""
    long: frozenset[str] = frozenset()
    words: int = 0
    assigns: bool = False


_WRAPPERS: Final = {
    "sshpass": _Wrapper("fdpP"),
    "env": _Wrapper("uCS", frozenset({"--unset", "--chdir", "--split-string"}), assigns=True),
    "nohup": _Wrapper(),
    "setsid": _Wrapper(),
    "timeout": _Wrapper("ks", frozenset({"--kill-after", "--signal"}), words=1),
    "stdbuf": _Wrapper("ioe", frozenset({"--input", "--output", "--error"})),
    "nice": _Wrapper("n", frozenset({"--adjustment"})),
    "ionice": _Wrapper("cnpPu", frozenset({"--class", "--classdata"})),
    "proxychains": _Wrapper("f"),
    "sudo": _Wrapper(
        "ugpCchrtTUDR", frozenset({"--user", "--group", "--chdir", "--prompt", "--host"}), assigns=True
    ),
}


def unwrap(argv: Sequence[str]) -> tuple[str, ...]:
    """The command that `argv` runs through sshpass, env, nohup, timeout and the like; `argv` if none.

    At most 16 wrappers deep. Empty where a wrapper runs nothing.
    """
    words = tuple(argv[:_WORDS_LIMIT])
    for _ in range(_UNWRAP_LIMIT):
        name = basename(words[0]) if words else ""
        wrapper = _WRAPPERS.get("proxychains" if name.startswith("proxychains") else name)
        if wrapper is None:
            break
        words = _inner(words[1:], wrapper)
    return words


def _inner(words: tuple[str, ...], wrapper: _Wrapper) -> tuple[str, ...]:
    at = 0
    while at < len(words) and words[at].startswith("-"):
        option, attached = _wrapper_option(words[at], wrapper)
        at += 1
        if option == "--":
            break
        argument = attached if attached is not None else "".join(words[at : at + 1])
        at += bool(option) and attached is None
        if option in ("S", "--split-string"):
            return ("env", *argument.split(), *words[at:])
    while wrapper.assigns and at < len(words) and "=" in words[at]:
        at += 1
    return words[at + wrapper.words :]


def _wrapper_option(word: str, wrapper: _Wrapper) -> tuple[str, str | None]:
    """The option in `word` that takes an argument, or `--`, and the argument if it is attached."""
    if word == "--":
        return word, None
    if word.startswith("--"):
        name, equals, value = word.partition("=")
        return (name, value if equals else None) if name in wrapper.long else ("", None)
    for place, letter in enumerate(word[1:], 2):
        if letter in wrapper.letters:
            return letter, word[place:] or None
    return "", None
