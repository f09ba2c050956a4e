"""Conditions over one event, in three-valued logic.

True, False, or None for "unknown": the value that would decide was cut. A match inside what is
known of a value is a match all the same, and a mismatch at its known beginning is a mismatch.
Regular expressions and wildcards run on RE2, in time linear in the value.
"""

from __future__ import annotations

import operator
import re
from collections.abc import Callable, Collection, Sequence
from functools import lru_cache
from ipaddress import ip_address, ip_network
from typing import Any, Union

import re2  # type: ignore[import-untyped]

from agentwatch.event import Event, Value
from agentwatch.rules.expr import AGENT_FIELD, ANY_FIELD, CASED, MANY, ONE, Expr

Verdict = Union[bool, None]
Test = Callable[["Facts"], Verdict]
LINE, WORDS = ARGUMENTS = ("CommandLine", "Argv")  # the same text, as one and word by word
FEW_TEXTS = 3  # texts of a list: as many are gone through as one
MANY_TEXTS = 64  # texts of a list: more of them are not remembered
_ABOUT_LINES = re.compile(r"\\[AzQ]|\(\?[a-zA-Z]*-")
# A scalar's text as tests see it, and whether it is cut.
TextTest = Callable[[str, bool], Verdict]


class Facts:
    """One event as atoms ask for it; each conversion of a value is made once.

    Values are texts (booleans as `true` and `false`, numbers in decimal). A list field has a
    text for each element: a comparison holds if it holds for one of them.

    `found` has a bit for each atom, of those searched for, of which a word stands in the event.
    `word_by_word`: so were the arguments searched, and what was found of them stands as it was asked for.
    """

    __slots__ = ("_blobs", "_folded", "_lines", "_texts", "event", "found", "verdicts", "word_by_word")

    def __init__(self, event: Event, found: int = 0, word_by_word: bool = False) -> None:
        self.event = event
        self.verdicts: dict[int, Verdict] = {}
        self.found = found
        self.word_by_word = word_by_word
        self._texts: dict[str, tuple[str, ...]] = {}
        self._folded: dict[str, tuple[str, ...]] = {}
        self._blobs: dict[tuple[str, bool], tuple[bytes, ...]] = {}
        self._lines: dict[str, bytes] = {}

    def cut(self, name: str) -> bool:
        """Whether the field's value is only known in part; of a cut list, only its end is."""
        truncated = self.event.truncated
        if not truncated:
            return False
        base, index = _place(name)
        if base not in truncated:
            return name == ANY_FIELD
        items = self.event.fields.get(base)
        return not (index is not None and isinstance(items, tuple) and index < len(items) - 1)

    def more(self, name: str) -> bool:
        """Whether a cut field may have texts beside those known."""
        return name == ANY_FIELD or not isinstance(self.value(name), str)

    def value(self, name: str) -> Value:
        """The field's value, None if absent; `NAME#3` is an element of a list."""
        return field_value(self.event, name)

    def texts(self, name: str) -> tuple[str, ...]:
        """The field's texts, as they are."""
        found = self._texts.get(name)
        if found is None:
            found = self._all_texts() if name == ANY_FIELD else texts(self.value(name))
            self._texts[name] = found
        return found

    def folded(self, name: str) -> tuple[str, ...]:
        """The field's texts in lower case."""
        found = self._folded.get(name)
        if found is None:
            found = self._folded[name] = tuple([text.lower() for text in self.texts(name)])
        return found

    def blobs(self, name: str, fold: bool) -> tuple[bytes, ...]:
        """The field's different texts as bytes, for RE2 in Latin-1 mode: no byte can stop a `.`."""
        found = self._blobs.get((name, fold))
        if found is None:
            source = self.folded(name) if fold else self.texts(name)
            found = self._blobs[name, fold] = tuple([encode(text) for text in dict.fromkeys(source)])
        return found

    def lines(self, name: str) -> bytes:
        """The field's texts as they are, as lines."""
        found = self._lines.get(name)
        if found is None:
            found = self._lines[name] = encode("\n".join(self.texts(name)))
        return found

    def _all_texts(self) -> tuple[str, ...]:
        fields = self.event.fields
        return tuple(text for name in sorted(fields) for text in texts(fields[name]))


def field_value(event: Event, name: str) -> Value:
    """The value of an event's field, None if absent; `NAME#3` is an element of a list."""
    if name == AGENT_FIELD:
        return event.agent
    value = event.fields.get(name)
    if value is not None:
        return value
    base, index = _place(name)
    if index is None:
        return None
    items = event.fields.get(base)
    return items[index] if isinstance(items, tuple) and index < len(items) else None


@lru_cache(maxsize=1024)
def _place(name: str) -> tuple[str, int | None]:
    """A field's own name and, of `NAME#3`, which element."""
    base, mark, index = name.partition("#")
    return base, int(index) if mark else None


def texts(value: Value) -> tuple[str, ...]:
    """A value's texts: none for None, one for a scalar, one for each element of a list."""
    if isinstance(value, str):
        return (value,)
    if value is None:
        return ()
    if isinstance(value, tuple):
        if value and isinstance(value[0], str):  # they are all alike
            return value
        return tuple(text for item in value for text in texts(item))
    if isinstance(value, bool):
        return ("true",) if value else ("false",)
    return (str(value),)


def encode(text: str) -> bytes:
    """UTF-8 that never fails: hostile names hold lone surrogates."""
    return text.encode("utf-8", "surrogatepass")


def compile_condition(expr: Expr, atoms: dict[Expr, int], searched: Collection[Expr] = ()) -> Test:
    """A condition tree as a function of an event's facts.

    `atoms` numbers the atoms met so far: equal atoms of different rules are evaluated once.
    `searched` are those that `Facts.found` tells of.
    """
    kind = expr[0]
    if kind == "atom":
        number = atoms.setdefault(expr, len(atoms))
        test = _remembered(compile_atom(expr), number)
        return _searched(test, expr, number) if expr in searched else test
    if kind == "sel":
        return compile_condition(expr[2], atoms, searched)
    if kind == "const":
        constant = bool(expr[1])
        return lambda facts: constant
    # The logic does not depend on the order of operands, what it costs does.
    tests = [compile_condition(operand, atoms, searched) for operand in sorted(expr[1:], key=_cost)]
    if kind == "not":
        return _not(tests[0])
    return _all(tests) if kind == "and" else _any(tests)


def _cost(expr: Expr) -> int:
    """Rank of a condition by what it costs to evaluate on a long value."""
    if expr[0] == "atom":
        op = expr[2].removesuffix(CASED)
        return {"contains": 1, "fieldref": 1, "wild": 2, "re": 3}.get(op, 0)
    return max((_cost(part) for part in expr[1:] if isinstance(part, tuple)), default=0)


def _remembered(test: Test, number: int) -> Test:
    def run(facts: Facts) -> Verdict:
        verdicts = facts.verdicts
        if number in verdicts:
            return verdicts[number]
        verdict = verdicts[number] = test(facts)
        return verdict

    return run


def _searched(test: Test, atom: Expr, number: int) -> Test:
    """An atom whose words were searched for with all others: it is false where none stands."""
    _, name, op, _ = atom
    contains = op.removesuffix(CASED) == "contains"
    is_proof = (name == WORDS and op in _TEXT_TESTS) or (name == LINE and op == "contains")
    bit = 1 << number

    def run(facts: Facts) -> Verdict:
        if facts.found & bit:
            return True if is_proof and facts.word_by_word and not facts.cut(name) else test(facts)
        if not facts.cut(name):
            return False
        return None if contains else test(facts)

    return run


def _not(test: Test) -> Test:
    def run(facts: Facts) -> Verdict:
        verdict = test(facts)
        return None if verdict is None else not verdict

    return run


def _all(tests: Sequence[Test]) -> Test:
    def run(facts: Facts) -> Verdict:
        result: Verdict = True
        for test in tests:
            verdict = test(facts)
            if verdict is False:
                return False
            if verdict is None:
                result = None
        return result

    return run


def _any(tests: Sequence[Test]) -> Test:
    def run(facts: Facts) -> Verdict:
        result: Verdict = False
        for test in tests:
            verdict = test(facts)
            if verdict:
                return True
            if verdict is None:
                result = None
        return result

    return run


# Atoms


def compile_atom(expr: Expr) -> Test:
    """One comparison as a function of an event's facts."""
    _, name, op, value = expr
    plain = op.removesuffix(CASED)
    if plain not in _TEXT_TESTS:
        return _OTHER_TESTS[op](name, value)
    wanted = value if op.endswith(CASED) else tuple(word.lower() for word in value)
    return _on_texts(name, _TEXT_TESTS[plain](wanted), folded=op == plain)


def _on_texts(name: str, test: TextTest, folded: bool) -> Test:
    def run(facts: Facts) -> Verdict:
        candidates = facts.folded(name) if folded else facts.texts(name)
        if not facts.cut(name):
            if len(candidates) == 1:
                return test(candidates[0], False)
            return any(test(text, False) for text in candidates)
        # Of a cut list the elements before the last are whole, and more may follow. Which of
        # an event's texts a keyword's cut is in does not matter.
        last = len(candidates) - 1
        verdicts = [test(text, i == last or name == ANY_FIELD) for i, text in enumerate(candidates)]
        if True in verdicts:
            return True
        return None if None in verdicts or facts.more(name) else False

    return run


def _equals(wanted: tuple[str, ...]) -> TextTest:
    words = frozenset(wanted)

    def test(text: str, cut: bool) -> Verdict:
        if cut:
            return _may_begin(wanted, text)
        return text in words

    return test


def _contains(wanted: tuple[str, ...]) -> TextTest:
    if len(wanted) == 1:
        return lambda text, cut: True if wanted[0] in text else (None if cut else False)
    # Each word looked for is a pass over the text; RE2 looks for all in one, at a higher price.
    many = regex(b"|".join(re2.escape(encode(word)) for word in wanted)) if len(wanted) > 3 else None

    def test(text: str, cut: bool) -> Verdict:
        if many is not None and len(text) > 1024:
            found = many(encode(text))
        else:
            found = any(map(text.__contains__, wanted))
        return True if found else (None if cut else False)

    return test


def _startswith(wanted: tuple[str, ...]) -> TextTest:
    begins = _any_end(wanted, str.startswith, lambda text, length: text[:length])

    def test(text: str, cut: bool) -> Verdict:
        if begins(text):
            return True
        return _may_begin(wanted, text) if cut else False

    return test


def _endswith(wanted: tuple[str, ...]) -> TextTest:
    ends = _any_end(wanted, str.endswith, lambda text, length: text[-length:])
    return lambda text, cut: None if cut else ends(text)


# From so many words on (lists), their ends are looked up instead of tried one by one.
_MANY_WORDS = 16


def _any_end(
    wanted: tuple[str, ...],
    tries: Callable[[str, tuple[str, ...]], bool],
    end: Callable[[str, int], str],
) -> Callable[[str], bool]:
    """Whether a text begins, or ends, with one of the words."""
    if len(wanted) < _MANY_WORDS or "" in wanted:
        return lambda text: tries(text, wanted)
    words = frozenset(wanted)
    lengths = sorted({len(word) for word in wanted})
    return lambda text: any(end(text, length) in words for length in lengths)


def _may_begin(wanted: tuple[str, ...], text: str) -> Verdict:
    """Unknown if the text is the known beginning of a word wanted, else false."""
    return None if any(word.startswith(text) for word in wanted) else False


_TEXT_TESTS: dict[str, Callable[[tuple[str, ...]], TextTest]] = {
    "eq": _equals,
    "contains": _contains,
    "startswith": _startswith,
    "endswith": _endswith,
}

_ONE_CHARACTER = rb"(?:[\x00-\x7f]|[\xc0-\xff][\x80-\xbf]*|[\x80-\xbf])"


@lru_cache(maxsize=4096)
def regex(pattern: str | bytes, flags: str = "") -> Callable[[bytes], bool]:
    """Whether an RE2 matches somewhere. ASCII patterns see bytes; others see characters (UTF-8).

    It is a set of one: that is asked for nothing but this, where a compiled pattern also works out
    the place of every group. Raises ValueError for a pattern that RE2 does not take.
    """
    options = re2.Options()
    options.log_errors = False
    if isinstance(pattern, bytes) or pattern.isascii():
        options.encoding = re2.Options.Encoding.LATIN1
    raw = pattern if isinstance(pattern, bytes) else encode(pattern)
    if flags:
        raw = f"(?{flags})".encode() + raw
    try:
        re2.compile(raw, options)  # a set does not say what is wrong
        one = re2.Set.SearchSet(options)
        one.Add(raw)
        one.Compile()
    except re2.error as error:
        raise ValueError(f"{pattern!r} is no regular expression: {error}") from error
    match = one.Match
    return lambda text: bool(match(text))


def wild_pattern(parts: Sequence[str | int], fold: bool) -> bytes:
    """A Sigma string with wildcards as a pattern over the whole value."""
    pattern = [rb"(?s)\A"]
    for part in parts:
        if isinstance(part, str):
            pattern.append(re2.escape(encode(part.lower() if fold else part)))
        else:
            pattern.append(b".*" if part == MANY else _ONE_CHARACTER)
    return b"".join([*pattern, rb"\z"])


def _wild(name: str, parts: Sequence[str | int], fold: bool) -> Test:
    if ONE in parts:
        return _wild_regular(name, parts, fold)
    first = parts[0] if isinstance(parts[0], str) else ""
    last = parts[-1] if isinstance(parts[-1], str) else ""
    middle = [part for part in parts if isinstance(part, str)]
    middle = middle[1 if first else 0 : -1 if last else None]
    if fold:
        first, last, middle = first.lower(), last.lower(), [part.lower() for part in middle]

    def test(text: str, cut: bool) -> Verdict:
        if not text.startswith(first):
            return _may_begin((first,), text) if cut else False
        end = len(text)
        if last:
            if cut:
                return None
            if not text.endswith(last):
                return False
            end -= len(last)
        position = len(first)
        for part in middle:
            position = text.find(part, position, end)
            if position < 0:
                return None if cut else False
            position += len(part)
        return position <= end

    return _on_texts(name, test, folded=fold)


def _wild_regular(name: str, parts: Sequence[str | int], fold: bool) -> Test:
    matches = regex(wild_pattern(parts, fold))
    open_ended = parts[-1] == MANY

    def run(facts: Facts) -> Verdict:
        cut = facts.cut(name)
        for blob in facts.blobs(name, fold):
            if (open_ended or not cut) and matches(blob):
                return True
        return None if cut else False

    return run


def _regular(name: str, value: tuple[str, str]) -> Test:
    pattern, flags = value
    matches = regex(pattern, flags)
    # Of many texts one can only match where they do as lines, in one pass, whatever their ends are.
    as_lines = None if _ABOUT_LINES.search(pattern) else regex(pattern, flags.replace("m", "") + "m")
    # What a pattern says about the end of a value is not known where the value is cut.
    about_the_end = any(mark in pattern for mark in ("$", r"\z", r"\b", r"\B"))

    def run(facts: Facts) -> Verdict:
        cut = facts.cut(name)
        if not (cut and about_the_end) and _may_match(facts):
            for blob in facts.blobs(name, fold=False):
                if matches(blob):
                    return True
        return None if cut else False

    def _may_match(facts: Facts) -> bool:
        return as_lines is None or len(facts.texts(name)) < FEW_TEXTS or as_lines(facts.lines(name))

    return run


def _cidr(name: str, value: tuple[str, ...]) -> Test:
    networks = tuple(map(ip_network, value))

    def test(text: str, cut: bool) -> Verdict:
        if cut:
            return None
        try:
            address = ip_address(text)
        except ValueError:
            return False
        mapped = getattr(address, "ipv4_mapped", None)
        return any((mapped or address) in network for network in networks)

    return _on_texts(name, test, folded=False)


def _number(name: str, holds: Callable[[float], bool]) -> Test:
    def test(text: str, cut: bool) -> Verdict:
        if cut:
            return None
        found = number(text)
        return found is not None and holds(found)

    return _on_texts(name, test, folded=False)


def _compared(compare: Callable[[float, float], bool]) -> Callable[[str, Any], Test]:
    def compiled(name: str, value: float) -> Test:
        return _number(name, lambda found: compare(found, value))

    return compiled


def number(text: str) -> int | float | None:
    """The number that a text is, or None; texts too long for a number are none."""
    if len(text) > 40:
        return None
    try:
        return int(text)
    except ValueError:
        pass
    try:
        return float(text)
    except ValueError:
        return None


def _exists(name: str, wanted: bool) -> Test:
    element = "#" in name

    def run(facts: Facts) -> Verdict:
        if facts.value(name) is not None:
            return wanted
        if facts.cut(name):  # a cut field is there, an element beyond the cut may be
            return None if element else wanted
        return not wanted

    return run


def _null(name: str, _: None) -> Test:
    def run(facts: Facts) -> Verdict:
        if facts.value(name) is not None:
            return False
        return None if facts.cut(name) else True

    return run


def _fieldref(name: str, value: tuple[str, str]) -> Test:
    other, how = value

    def run(facts: Facts) -> Verdict:
        if facts.cut(other):
            return None
        test = _TEXT_TESTS[how]
        cut = facts.cut(name)
        verdicts = [test(facts.folded(other))(text, cut) for text in facts.folded(name)]
        return True if True in verdicts else None if None in verdicts or cut else False

    return run


_OTHER_TESTS: dict[str, Callable[[str, Any], Test]] = {
    "wild": lambda name, value: _wild(name, value, fold=True),
    "wild" + CASED: lambda name, value: _wild(name, value, fold=False),
    "re": _regular,
    "cidr": _cidr,
    "num": lambda name, value: _number(name, frozenset(value).__contains__),
    "lt": _compared(operator.lt),
    "lte": _compared(operator.le),
    "gt": _compared(operator.gt),
    "gte": _compared(operator.ge),
    "exists": _exists,
    "null": _null,
    "fieldref": _fieldref,
}
