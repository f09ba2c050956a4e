"""An incremental reader of a stream of JSON messages (RFC 8259), hostile and partial ones too.

It keeps of each message only a pruned tree: members with names of a given vocabulary, to a small
depth. So memory is bounded, time is linear in the bytes, and what is known of a message that is
cut can be asked for at any moment. Structure is followed exactly at any depth: a name inside a
string, or deeper in the tree, is never taken for one at the top.
"""

from __future__ import annotations

import json
from typing import Final, Union

Json = Union[None, bool, int, float, str, list["Json"], dict[str, "Json"]]

MAX_NESTING: Final = 1024
"""Deeper messages are skipped; no JSON-RPC server in use accepts them."""
KEPT_DEPTH: Final = 5
KEPT_ELEMENTS: Final = 8
KEPT_NODES: Final = 96
KEPT_TEXT: Final = 4096
"""Characters of strings kept for one message, together."""
MAX_STRING: Final = 256
"""Characters kept of one string."""
_MAX_RAW: Final = 6 * MAX_STRING
"""Bytes of one string, which may be all `\\uXXXX`."""

_WHITESPACE: Final = frozenset(b" \t\r\n\0\x1e")
"""JSON's, and the separators NUL and RS (RFC 7464) that some transports put between messages."""
_LITERAL: Final = frozenset(b"+-.0123456789abcdefghijklmnopqrstuvwxyzE")
_QUOTE, _COMMA, _COLON, _NEWLINE = b'",:\n'
_OPEN_OBJECT, _CLOSE_OBJECT, _OPEN_ARRAY, _CLOSE_ARRAY = b"{}[]"

_SHORT: Final = 1024
"""Bytes of a message that is read at once. No string or literal of theirs is too long to be kept."""
_ENDS: Final = (b"}", b"}\n", b"}\r\n")
_LONGEST_LITERAL: Final = 64


def _integer(literal: str) -> int:
    return int(_not_long(literal))


def _fraction(literal: str) -> float:
    return float(_not_long(literal))


def _not_long(literal: str) -> str:
    if len(literal) > _LONGEST_LITERAL:
        raise ValueError("a stream does not keep all of it")
    return literal


def _constant(word: str) -> Json:
    raise ValueError(f"{word} is no JSON")


_DECODER: Final = json.JSONDecoder(parse_int=_integer, parse_float=_fraction, parse_constant=_constant)

# What the grammar allows next.
_VALUE, _FIRST_VALUE, _NAME, _FIRST_NAME, _AFTER_NAME, _AFTER_VALUE, _SKIP_LINE, _ENDED = range(8)


class Message(dict[str, Json]):
    """The kept members of one message, names case-folded.

    Go's decoder, which many pools use, matches names without regard to case. Of members with one
    name the last counts, as nearly all parsers have it. `foreign` says that the message has
    top-level members outside the vocabulary; `complete`, that its closing brace was seen.
    """

    def __init__(self) -> None:
        super().__init__()
        self.foreign = False
        self.complete = False


class JsonStream:
    """Reads messages: JSON objects one after another, or the objects of a batch (an array).

    `single`: there is one value, as in an HTTP body; what follows it, or is none, is not looked at.
    """

    __slots__ = (
        "_batch",
        "_escaped",
        "_expect",
        "_in_string",
        "_kinds",
        "_literal",
        "_name",
        "_nodes",
        "_raw",
        "_root",
        "_single",
        "_text",
        "_tree",
        "_vocabulary",
        "changed",
        "malformed",
    )

    def __init__(self, vocabulary: frozenset[str], single: bool = False) -> None:
        self._vocabulary = vocabulary
        self._single = single
        self.malformed = 0
        """Lines given up because they are no JSON."""
        self.reset()

    def reset(self) -> None:
        """Forgets what is under way; the next byte is expected to start a message."""
        self._kinds = bytearray()  # the open containers, outermost first
        self._tree: list[dict[str, Json] | list[Json] | None] = []  # beside it; None: not kept
        self._root: Message | None = None
        self._batch = False
        self._name: str | None = None  # the member whose value comes next, if it is kept
        self._in_string = False
        self._escaped = False
        self._raw: bytearray | None = None  # the string under way, None: too long or not kept
        self._literal = b""
        self._expect = _VALUE
        self._nodes = 0
        self._text = 0
        self.changed = False

    def lose(self) -> None:
        """Bytes are missing: skips to the next line."""
        self.reset()
        self._expect = _ENDED if self._single else _SKIP_LINE

    @property
    def lost(self) -> bool:
        """Whether the reader skips to the next line."""
        return self._expect == _SKIP_LINE

    @property
    def partial(self) -> Message | None:
        """The message under way. Strings in it are whole; containers may lack members."""
        return self._root

    def feed(self, data: bytes) -> list[Message]:
        """Takes further bytes; returns the messages that they complete."""
        if self._expect == _VALUE and not self._kinds and (whole := self._whole(data)) is not None:
            if self._single:
                self._expect = _ENDED
            return [whole]
        messages: list[Message] = []
        position, end = 0, len(data)
        while position < end:
            if self._in_string:
                position = self._read_string(data, position)
            elif self._expect == _ENDED:
                break
            elif self._expect == _SKIP_LINE:
                position = data.find(b"\n", position) + 1 or end
                if data[position - 1] == _NEWLINE:
                    self.reset()
            else:
                byte = data[position]
                if byte in _LITERAL:
                    position = self._read_literal(data, position)
                elif self._literal and not self._end_literal():
                    self._give_up()
                elif byte in _WHITESPACE or self._structure(byte, messages):
                    position += 1
                else:
                    self._give_up()
        return messages

    def _whole(self, data: bytes) -> Message | None:
        """The message, where the bytes are one and nothing else, as most are; None where that is not sure.

        Short ones only: no limit but those on depth, elements and lengths can be reached within them.
        """
        if len(data) > _SHORT or data[:1] != b"{" or not data.endswith(_ENDS):
            return None
        if data.count(b",") + data.count(b"{") + data.count(b"[") >= KEPT_NODES:
            return None
        message = Message()
        try:
            parsed = _DECODER.decode(data.decode())
            self._prune(parsed, message, 1)
        except (ValueError, RecursionError):
            return None
        message.complete = True
        message.foreign = len(message) < len(parsed)
        return message

    def _prune(self, parsed: dict[str, Json], kept: dict[str, Json], depth: int) -> None:
        """Keeps what `_keep` would. Raises ValueError for names that differ in case alone."""
        for name, value in parsed.items():
            folded = name.casefold()
            if folded in self._vocabulary:
                if folded in kept:
                    raise ValueError("which member is the last is not known here")
                kept[folded] = self._pruned(value, depth)

    def _pruned(self, value: Json, depth: int) -> Json:
        if isinstance(value, str):
            return value[:MAX_STRING]
        if isinstance(value, list):
            kept_list = value[:KEPT_ELEMENTS] if depth < KEPT_DEPTH else []
            return [self._pruned(one, depth + 1) for one in kept_list]
        if isinstance(value, dict):
            kept: dict[str, Json] = {}
            if depth < KEPT_DEPTH:
                self._prune(value, kept, depth + 1)
            return kept
        return value

    def _give_up(self) -> None:
        self.malformed += 1
        self.lose()

    # Tokens. Each reader returns the position of the first byte that it did not take.

    def _read_string(self, data: bytes, position: int) -> int:
        end = len(data)
        start = position
        if self._escaped:
            self._escaped = False
            position += 1
        quote = -2
        while True:
            if -1 != quote < position:
                quote = data.find(b'"', position)
            stop = quote if quote >= 0 else end
            backslash = data.find(b"\\", position, stop)
            if backslash < 0:
                break
            position = backslash + 2
            if position > end:
                self._escaped = True
                stop = end
                break
        newline = data.find(b"\n", start, stop)
        if newline >= 0:  # no string crosses a line: whatever this is, the line is over
            self._give_up()
            return newline
        if self._raw is not None:
            self._raw += data[start:stop]
            if len(self._raw) > _MAX_RAW:
                self._raw = None
        if stop == end:
            return end
        self._in_string = False
        self._end_string()
        return stop + 1

    def _read_literal(self, data: bytes, position: int) -> int:
        end = len(data)
        if not self._literal and (self._expect not in (_VALUE, _FIRST_VALUE) or not self._kinds):
            self._give_up()
            return position
        start = position
        while position < end and data[position] in _LITERAL:
            position += 1
        self._literal += data[start : min(position, start + _LONGEST_LITERAL)]
        if len(self._literal) > _LONGEST_LITERAL:
            self._give_up()
        return position

    def _end_literal(self) -> bool:
        """A number or word is over: `False` if it is none that JSON knows."""
        try:
            value: Json = json.loads(self._literal.decode())
        except ValueError:
            return False
        self._literal = b""
        self._keep(value)
        self._expect = _AFTER_VALUE
        return True

    def _end_string(self) -> None:
        value = self._decode()
        if self._expect not in (_NAME, _FIRST_NAME):
            if value is not None and self._keeping():
                self._text += len(value)
                self._keep(value if self._text <= KEPT_TEXT else "")
            else:
                self._keep("")
            self._expect = _AFTER_VALUE
            return
        self._expect = _AFTER_NAME
        self._name = None
        if self._tree[-1] is None:
            return
        name = "" if value is None else value.casefold()
        if name in self._vocabulary:
            self._name = name
        elif self._tree[-1] is self._root and self._root is not None:
            self._root.foreign = True
            self.changed = True

    def _decode(self) -> str | None:
        """The string just read; None where it was not kept, empty where its escapes are invalid."""
        if self._raw is None:
            return None
        letters = self._raw.decode("utf-8", "replace")
        self._raw = None
        if "\\" in letters:
            try:
                letters = str(json.loads(f'"{letters}"', strict=False))
            except ValueError:
                return ""
        return letters[:MAX_STRING]

    # Structure.

    def _structure(self, byte: int, messages: list[Message]) -> bool:
        """Takes one of `{}[]:,"`; `False` if the grammar does not allow it here."""
        expect = self._expect
        if byte == _QUOTE:
            return self._open_string()
        if byte in (_OPEN_OBJECT, _OPEN_ARRAY):
            if expect not in (_VALUE, _FIRST_VALUE):
                return False
            return self._open(byte)
        if byte == _COLON:
            self._expect = _VALUE
            return expect == _AFTER_NAME
        if byte == _COMMA:
            self._expect = _NAME if self._kinds and self._kinds[-1] == _OPEN_OBJECT else _VALUE
            return expect == _AFTER_VALUE
        if byte == _CLOSE_OBJECT and self._kinds[-1:] == b"{" and expect in (_AFTER_VALUE, _FIRST_NAME):
            self._close(messages)
            return True
        if byte == _CLOSE_ARRAY and self._kinds[-1:] == b"[" and expect in (_AFTER_VALUE, _FIRST_VALUE):
            self._close(messages)
            return True
        return False

    def _open_string(self) -> bool:
        if not self._kinds or self._expect in (_AFTER_NAME, _AFTER_VALUE):
            return False
        self._in_string = True
        wanted = self._tree[-1] is not None if self._expect in (_NAME, _FIRST_NAME) else self._keeping()
        self._raw = bytearray() if wanted else None
        return True

    def _open(self, byte: int) -> bool:
        if len(self._kinds) >= MAX_NESTING:
            return False
        node: dict[str, Json] | list[Json] | None
        if self._opens_message(byte):
            self._root = node = Message()
            self._nodes = self._text = 0
        elif self._keeping() and len(self._tree) < KEPT_DEPTH + self._batch:
            node = {} if byte == _OPEN_OBJECT else []
            self._keep(node)
        else:
            self._keep({} if byte == _OPEN_OBJECT else [])
            node = None
        if not self._kinds and byte == _OPEN_ARRAY:
            self._batch = True
        self._kinds.append(byte)
        self._tree.append(node)
        self._expect = _FIRST_NAME if byte == _OPEN_OBJECT else _FIRST_VALUE
        return True

    def _opens_message(self, byte: int) -> bool:
        return byte == _OPEN_OBJECT and (not self._kinds or (self._batch and len(self._kinds) == 1))

    def _close(self, messages: list[Message]) -> None:
        self._kinds.pop()
        node = self._tree.pop()
        if node is not None and node is self._root:
            self._root.complete = True
            messages.append(self._root)
            self._root = None
        if self._kinds:
            self._expect = _AFTER_VALUE
        else:
            self.reset()
            if self._single:
                self._expect = _ENDED

    def _keeping(self) -> bool:
        """Whether the value that starts here is kept."""
        holder = self._tree[-1] if self._tree else None
        if holder is None:
            return False
        if isinstance(holder, list):
            return len(holder) < KEPT_ELEMENTS and self._nodes < KEPT_NODES
        return self._name is not None and (holder is self._root or self._nodes < KEPT_NODES)

    def _keep(self, value: Json) -> None:
        holder = self._tree[-1] if self._tree else None
        if holder is None:
            if len(self._kinds) == 1:
                self._batch = False  # a batch holds requests and nothing else
            return
        if not self._keeping():
            return
        self._nodes += 1
        self.changed = True
        if isinstance(holder, list):
            holder.append(value)
        elif self._name is not None:
            holder[self._name] = value
            self._name = None
