"""What an OpenSSH client's configuration forwards, found by OpenSSH's own rules.

The syntax and the order of evaluation are those of `readconf.c`, `misc.c` (`strdelim`,
`argv_split`) and `match.c` of OpenSSH 9 and of ssh_config(5). Nothing is executed, resolved or
read: what only the client itself can know (`Match exec`, a file behind `Include` that nobody
provided) is said to be uncertain.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final

_WHITESPACE: Final = " \t\r\n"
_LINE_LIMIT: Final = 4096
_WORK_LIMIT: Final = 4_000_000
"""Characters read, each as often as the host has characters where a line's patterns may match it."""
_LINE_WORK: Final = 100
_WORDS_LIMIT: Final = 64
_INCLUDE_DEPTH: Final = 16
_FORWARDS_LIMIT: Final = 64
_SERVICE: Final = re.compile(r"[A-Za-z][A-Za-z0-9+._-]+")
_WELL_KNOWN: Final = frozenset(
    {"echo", "discard", "daytime", "chargen", "ftp", "ftp-data", "ssh", "telnet", "smtp", "time", "domain"}
    | {"gopher", "finger", "http", "https", "www", "kerberos", "pop3", "pop3s", "sunrpc", "auth", "nntp"}
    | {"ntp", "imap2", "imaps", "snmp", "bgp", "irc", "ldap", "ldaps", "microsoft-ds", "submission", "rsync"}
    | {"socks", "openvpn", "mysql", "postgresql", "rdp", "svn", "x11", "git", "redis", "amqp", "http-alt"}
    | {"nfs", "proxy", "squid", "webcache", "tproxy", "zabbix-agent", "mqtt", "nut", "sip", "xmpp-client"}
)
"""Names of services that stand for a port in most copies of /etc/services."""


def setting(line: str) -> tuple[str, list[str]] | None:
    """A line of a configuration, or the argument of `-o`: its keyword in lower case and its words.

    None for a blank line, a comment, and what OpenSSH refuses (unbalanced quotes, no argument).
    """
    split = _keyword(line)
    if split is None:
        return None
    words = _words(split[1])
    return None if words is None else (split[0], words)


def flag(words: Sequence[str]) -> bool | None:
    """The argument of an on/off keyword such as `ClearAllForwardings`; None if it is neither."""
    return {"yes": True, "true": True, "no": False, "false": False}.get(words[0].lower()) if words else None


def forward_of(words: Sequence[str]) -> str | None:
    """The forward that the words after `RemoteForward` ask for, spelled as for `-R`; None if refused."""
    if not 1 <= len(words) <= 2 or not words[0]:
        return None
    dynamic = len(words) == 1 or not words[1]
    spec = words[0] if dynamic else f"{words[0]}:{words[1]}"
    return spec if _is_forward(spec, dynamic=dynamic) else None


def is_remote_forward(spec: str, *, dynamic: bool = True) -> bool:
    """Whether OpenSSH takes `spec` as the argument of `-R`; with `dynamic` also without a target."""
    if "${" in spec:
        return True  # ssh puts variables of its environment in first, whatever they make of it
    return _is_forward(spec, dynamic=False) or (dynamic and _is_forward(spec, dynamic=True))


def names_stdio_host(spec: str) -> bool:
    """Whether `spec`, the argument of `-W`, names a host: with a port alone ssh forgets about `-W`."""
    return re.fullmatch("[./][.]", _fields(spec.lstrip())[1]) is not None


def is_blank(line: str) -> bool:
    """Whether `line` is empty or a comment, which OpenSSH passes over."""
    keyword = _first_word(line)[0]
    return keyword == "" or (keyword is not None and keyword.startswith("#"))


def tunnel(words: Sequence[str]) -> bool | None:
    """What `Tunnel` says; None if it is refused."""
    if words and words[0].lower() in ("ethernet", "point-to-point"):
        return True
    return flag(words)


def port_number(text: str) -> int | None:
    """A port as `a2port` takes it (strtoll: after white space and a sign); None if it is none."""
    found = re.fullmatch(r"[ \t\n\v\f\r]*\+?0*([0-9]{1,5})", text)
    number = int(found[1]) if found else -1
    return number if 0 <= number <= 65535 else None


def is_service(text: str) -> bool:
    """Whether `text` may be the name of a service, which stands for its port."""
    return _SERVICE.fullmatch(text) is not None


@dataclass(frozen=True, slots=True)
class ConfigAnswer:
    """What a configuration says about remote forwards to one host.

    `forwards` are asked for, spelled as for `-R`. `possible` are asked for under a condition that
    only the client can evaluate; `uncertain` says that there was such a condition, whether or not a
    forward depends on it. `clear_all` is `ClearAllForwardings`: True drops every forward, those of
    the command line too; None where the configuration leaves it open. `tunnel` is `Tunnel`, likewise.
    """

    forwards: tuple[str, ...]
    clear_all: bool | None
    uncertain: bool
    possible: tuple[str, ...] = ()
    tunnel: bool | None = None


def remote_forwards(
    text: str,
    host: str,
    original_host: str | None = None,
    user: str | None = None,
    include: Callable[[str], Sequence[str] | None] = lambda pattern: None,
    local_user: str | None = None,
) -> ConfigAnswer:
    """What the configuration `text` forwards from `host` (RemoteForward) to the client.

    `host` is the name that `Match host` sees unless the file sets `HostName` (the argument of
    `-o HostName`, otherwise the host of the command line); `original_host` is the host of the
    command line, by default `host`. `user` is the remote user given on the command line,
    `local_user` the one who runs ssh. `include` gives the texts of the files that an `Include`
    pattern matches, in order, or None where they are unknown. Lines over 4096 characters, what
    comes after an unreasonable amount of work, and forwards after the 64th are left out; then
    `uncertain` is True.
    """
    named = host if original_host is not None and original_host != host else None
    reader = _Reader(original_host or host, named, user, local_user, include)
    reader.read(text)
    return reader.answer()


_NO: Final = 0
_MAYBE: Final = 1
_YES: Final = 2


class _Reader:
    """One evaluation of a configuration; conditions are _NO, _MAYBE or _YES and combine by min."""

    def __init__(
        self,
        original: str,
        hostname: str | None,
        user: str | None,
        local_user: str | None,
        include: Callable[[str], Sequence[str] | None],
    ) -> None:
        self._original = original
        self._host = original
        self._hostname = hostname
        self._user = user
        self._local_user = local_user
        self._include = include
        self._final = False
        self._wants_final = False
        self._work_left = _WORK_LIMIT
        self._forwards: dict[str, int] = {}
        self._clear_all: bool | None = None
        self._tunnel: bool | None = None
        self._uncertain = False

    def read(self, text: str) -> None:
        self._file(text, _YES, 0)
        if self._wants_final:
            self._final = True
            self._host = self._hostname = self._resolved_host().lower()
            self._file(text, _YES, 0)

    def answer(self) -> ConfigAnswer:
        sure = tuple(spec for spec, state in self._forwards.items() if state == _YES)
        possible = tuple(spec for spec, state in self._forwards.items() if state == _MAYBE)
        if self._clear_all:
            sure = possible = ()
        return ConfigAnswer(sure, self._clear_all, self._uncertain, possible, self._tunnel)

    def _file(self, text: str, state: int, depth: int) -> None:
        for line in _lines(text):
            if self._work_left <= 0:
                self._uncertain = True
                return
            if len(line) > _LINE_LIMIT:
                self._uncertain = True
                continue
            split = _keyword(line)
            matching = split is not None and split[0] in ("host", "match")
            self._work_left -= _LINE_WORK + len(line) * (1 + matching * len(self._resolved_host()))
            if split is None or (words := _words(split[1])) is None:
                continue
            keyword, rest = split
            if keyword == "host":
                state = self._host_block(words)
            elif keyword == "match":
                state = self._match_block(rest)
            elif keyword == "include":
                self._included(words, state, depth)
            elif state != _NO:
                self._set(keyword, words, state)

    def _set(self, keyword: str, words: list[str], state: int) -> None:
        if keyword == "remoteforward":
            spec = forward_of(words)
            if spec is not None and len(self._forwards) < _FORWARDS_LIMIT:
                self._forwards[spec] = max(state, self._forwards.get(spec, _NO))
            elif spec is not None:
                self._uncertain = True
        elif keyword == "clearallforwardings":
            self._set_clear_all(flag(words), state)
        elif keyword == "tunnel" and self._tunnel is None and state == _YES:
            self._tunnel = tunnel(words)
        elif keyword == "hostname" and words and self._hostname is None and state == _YES:
            self._hostname = words[0]
        elif keyword == "user" and words and self._user is None and state == _YES:
            self._user = words[0]
        elif keyword == "canonicalizehostname" and words and words[0].lower() not in ("no", "false", "none"):
            self._wants_final = self._uncertain = True

    def _set_clear_all(self, value: bool | None, state: int) -> None:
        """The first value counts. A doubtful `yes` hides nothing, and a doubtful `no` decides nothing."""
        if value is not None and self._clear_all is None and state == _YES:
            self._clear_all = value

    def _included(self, patterns: list[str], state: int, depth: int) -> None:
        if state == _NO:
            return
        for pattern in patterns:
            texts = self._include(pattern) if depth < _INCLUDE_DEPTH else ()
            if texts is None:
                self._uncertain = True
                continue
            for text in texts:
                self._file(text, state, depth + 1)

    def _host_block(self, patterns: list[str]) -> int:
        state = _NO
        for pattern in patterns:
            if _matches(self._host, pattern.removeprefix("!")):
                if pattern.startswith("!"):
                    return _NO
                state = _YES
        return state

    def _match_block(self, rest: str) -> int:
        state = _YES
        words = _match_words(rest)
        for count, word in enumerate(words):
            if word.startswith("#"):
                break
            negated = word.startswith("!")
            criterion = word.removeprefix("!").lower()
            if criterion == "all":
                alone = count <= 1 and next(words, "#").startswith("#")
                return min(state, _NO if negated or not alone else _YES)
            if criterion in ("canonical", "final"):
                self._wants_final |= criterion == "final"
                found = _YES if self._final else _NO
            else:
                argument = next(words, "#")
                if argument.startswith("#"):
                    return _NO
                found = self._criterion(criterion, argument)
            state = min(state, _YES - found if negated else found)
        self._uncertain |= state == _MAYBE
        return state

    def _criterion(self, name: str, argument: str) -> int:
        if name == "host":
            return _listed(self._resolved_host().lower(), argument.lower())
        if name == "originalhost":
            return _listed(self._original.lower(), argument.lower())
        if name == "user":
            return _listed(self._user if self._user is not None else self._local_user, argument)
        if name == "localuser":
            return _listed(self._local_user, argument)
        return _MAYBE if name in _FOR_THE_CLIENT else _NO

    def _resolved_host(self) -> str:
        if self._hostname is None:
            return self._host
        return re.sub("%([%h])", lambda found: self._host if found[1] == "h" else "%", self._hostname)


_FOR_THE_CLIENT: Final = frozenset({"exec", "localnetwork", "tagged", "command", "sessiontype", "version"})
"""Criteria whose truth depends on the client's machine, version or environment."""


def _lines(text: str) -> Iterator[str]:
    start = 0
    while start < len(text):
        end = text.find("\n", start)
        if end < 0:
            end = len(text)
        yield text[start:end]
        start = end + 1


def _keyword(line: str) -> tuple[str, str] | None:
    """The keyword in lower case and the rest of the line, as `process_config_line` takes them apart."""
    keyword, rest = _first_word(line)
    if not keyword or keyword.startswith("#"):
        return None
    rest = (rest or "").lstrip(_WHITESPACE)
    return (keyword.lower(), rest) if rest else None


def _first_word(line: str) -> tuple[str | None, str | None]:
    """The first word and what follows it; an empty word for an empty line, None for a quote left open."""
    line = line.partition("\0")[0].rstrip(_WHITESPACE + "\f")
    keyword, rest = _strdelim(line)
    return _strdelim(rest) if keyword == "" and rest is not None else (keyword, rest)


def _strdelim(line: str) -> tuple[str | None, str | None]:
    """The next word and what follows it; words end at white space, a quote or one `=`."""
    found = re.search(r'[ \t\r\n"=]', line)
    if found is None:
        return line, None
    at = found.start()
    if line[at] == '"':
        end = line.find('"', at + 1)
        if end < 0:
            return None, None
        return line[:at] + line[at + 1 : end], line[end + 1 :].lstrip(_WHITESPACE)
    rest = line[at + 1 :].lstrip(_WHITESPACE)
    if line[at] != "=" and rest.startswith("="):
        rest = rest[1:].lstrip(_WHITESPACE)
    return line[:at], rest


def _match_words(rest: str) -> Iterator[str]:
    remaining: str | None = rest
    while remaining:
        word, remaining = _strdelim(remaining)
        if not word:
            return
        yield word


def _words(text: str) -> list[str] | None:
    """`argv_split`: words in quotes and with escapes, up to a comment; None for unbalanced quotes."""
    words: list[str] = []
    at = 0
    while at < len(text) and len(words) < _WORDS_LIMIT:
        if text[at] in " \t":
            at += 1
            continue
        if text[at] == "#":
            break
        word, at = _word(text, at)
        if word is None:
            return None
        words.append(word)
    return words


def _word(text: str, at: int) -> tuple[str | None, int]:
    word: list[str] = []
    quote = ""
    while at < len(text):
        letter = text[at]
        following = text[at + 1 : at + 2]
        if letter == "\\" and following and (following in "'\"\\" or (not quote and following == " ")):
            word.append(following)
            at += 1
        elif not quote and letter in " \t":
            break
        elif not quote and letter in "'\"":
            quote = letter
        elif quote and letter == quote:
            quote = ""
        else:
            word.append(letter)
        at += 1
    return (None if quote else "".join(word)), at


def _matches(text: str, pattern: str) -> bool:
    """`match_pattern`: `*` and `?`, in at most the product of the lengths."""
    at = place = 0
    star = -1
    resume = 0
    while at < len(text):
        if place < len(pattern) and pattern[place] == "*":
            star, resume = place, at
            place += 1
        elif place < len(pattern) and pattern[place] in ("?", text[at]):
            at += 1
            place += 1
        elif star >= 0:
            resume += 1
            at, place = resume, star + 1
        else:
            return False
    return all(letter == "*" for letter in pattern[place:])


def _listed(text: str | None, patterns: str) -> int:
    """`match_pattern_list`: comma-separated patterns, of which a negated one that matches decides."""
    if text is None:
        return _MAYBE
    found = _NO
    for pattern in patterns.split(","):
        if _matches(text, pattern.removeprefix("!")):
            if pattern.startswith("!"):
                return _NO
            found = _YES
    return found


_FORMS: Final = (
    ("/", None, None, {True}),
    ("[.]", 0, None, {True}),
    ("//", None, None, {True, False}),
    ("[.]/", 0, None, {True, False}),
    ("[./][.]", 1, None, {True}),
    ("/[./][./]", None, 2, {False}),
    ("[.][./]/", 1, None, {False}),
    ("[.][./][.]", 0, 2, {False}),
    ("[./]{4}", 1, 3, {False}),
)
"""The forms of a forward: its fields (`/` a path, `.` not), the places of the port listened on and of
the target's port, and whether the form is for dynamic forwards, for those with a target, or for both."""


def _is_forward(spec: str, *, dynamic: bool) -> bool:
    """`parse_forward` for a remote forward. Which names are services is the client's machine to say:
    with a target any name is taken for a port, otherwise only a well-known one."""
    fields, kinds = _fields(spec.lstrip())
    for form, listening, target, dynamics in _FORMS:
        if re.fullmatch(form, kinds):
            listens = listening is None or _is_port(fields[listening], lowest=0, names=target is not None)
            targets = target is None or _is_port(fields[target], lowest=1, names=True)
            return dynamic in dynamics and listens and targets
    return False


def _fields(spec: str) -> tuple[list[str], str]:
    """The one to four fields of a forward and the kind of each (`/` a path, `.` not); none if refused."""
    fields: list[str] = []
    kinds = ""
    rest = spec
    while rest and len(fields) < 4:
        if rest == "\\" and fields:  # parse_fwd_field takes it away and then finds the end
            return fields, kinds
        if rest.startswith("["):
            field, bracket, rest = rest[1:].partition("]")
            if not bracket or (rest and not rest.startswith(":")):
                return [], ""
            rest, plain = rest[1:], field
        else:
            found = re.match(r"((?:[^:\\]|\\.)*)(?::|\Z)", rest, re.DOTALL)
            if found is None:
                return [], ""
            field, rest = re.sub(r"\\(.)", r"\1", found[1], flags=re.DOTALL), rest[found.end() :]
            plain = re.sub(r"\\.", "", found[1], flags=re.DOTALL)
        fields.append(field)
        kinds += "/" if "/" in plain else "."
    return ([], "") if rest else (fields, kinds)


def _is_port(text: str, *, lowest: int, names: bool) -> bool:
    number = port_number(text)
    if number is None:
        return is_service(text) if names else text in _WELL_KNOWN
    return number >= lowest
