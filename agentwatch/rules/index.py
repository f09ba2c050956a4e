"""Which rules can hold for an event at all: found without looking at each of them.

Every rule that is not a bare negation has guards: sets of atoms of which at least one must hold (or
be unknown) for the rule to hold. What an atom asks of a field comes down to words of which one must
stand there: itself, an end of the text included where it is a prefix, a suffix or the whole, or those
which a regular expression is sure to contain. The words of all guards of a category are searched for
in one pass of an RE2 set over the texts of the event; numbers are looked up in tables. A rule all of
whose guards may hold is evaluated in full; rules without a guard always are.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import re2  # type: ignore[import-untyped]

from agentwatch.event import Event, Value
from agentwatch.rules.expr import AGENT_FIELD, ANY_FIELD, CASED, Expr
from agentwatch.rules.literals import certain_literals
from agentwatch.rules.match import (
    ARGUMENTS,
    LINE,
    MANY_TEXTS,
    WORDS,
    Facts,
    compile_condition,
    encode,
    field_value,
    number,
    texts,
)

# What a memory holds at most: events or texts, and characters of each. What is longer is unlikely to
# come again.
REMEMBERED_EVENTS = 2048
REMEMBERED_EVENT = 1024
REMEMBERED_TEXTS = 2048
REMEMBERED_TEXT = 512

GUARDS = 3  # of a rule, at most

# Rough cost of a guard: how often it will let a rule through for nothing. Short words stand
# everywhere: `_LETTER` over their length is added. Fields that can be long are left alone where another
# serves.
_COST = {"eq": 1, "num": 1, "endswith": 2, "startswith": 3, "contains": 8, "wild": 8, "re": 20}
_LETTER = 40
_LETTER_OF_PATTERN = 120
_LONG_COST = 4
# Programs that agents run all the time: to ask for them lets nearly everything through.
_EVERYDAY_COST = 40
_EVERYDAY = frozenset(
    ("bash", "bash -c", "cat", "curl", "dash", "env", "find", "git", "grep", "ls", "node", "python",
     "python3", "sed", "sh", "sh -c", "zsh")
)  # fmt: skip

# Fields that can be long: a value too long to be remembered is not hashed either.
_LONG = ("CommandLine", "ParentCommandLine")
_KINDS = "0123456789abcdefghijklmnopqrstuvwxyz"

Verdicts = tuple[tuple[int, bool], ...]
# (cost, atoms): a condition is false whenever all of the atoms are.
Guard = tuple[int, tuple[Expr, ...]]


class Found:
    """What stands in texts: bits of the guards that may hold, bits of the atoms of which a word does.

    Texts with the same words in them share one: it is compared by identity.
    """

    __slots__ = ("atoms", "guards")

    def __init__(self, guards: int, atoms: int) -> None:
        self.guards = guards
        self.atoms = atoms


_NOTHING = Found(0, 0)


class Candidates:
    """The rules that may hold, by their places in the plan, and the fields that their verdicts depend on.

    `atoms`: as `Found.atoms`. `reads` is None where it is too much to be remembered.
    """

    __slots__ = ("atoms", "reads", "rules")

    def __init__(self, rules: tuple[int, ...], atoms: int, reads: tuple[str, ...] | None) -> None:
        self.rules = rules
        self.atoms = atoms
        self.reads = reads


_NO_CANDIDATES = Candidates((), 0, ())
_NO_ARGUMENTS = (_NOTHING, False)


class Memory:
    """What was computed lately, in two generations: the older goes when the younger is full."""

    __slots__ = ("_limit", "_old", "_young")

    def __init__(self, limit: int) -> None:
        self._limit = limit // 2
        self._young: dict[Any, Any] = {}
        self._old: dict[Any, Any] = {}

    def get(self, key: Any) -> Any:
        """What `put` kept under the key, or None."""
        found = self._young.get(key)
        if found is None and self._old:
            found = self._old.get(key)
            if found is not None:
                self.put(key, found)
        return found

    def put(self, key: Any, value: Any) -> None:
        """Keeps a value that is not None."""
        if len(self._young) >= self._limit:
            self._old, self._young = self._young, {}
        self._young[key] = value


class Plan:
    """The rules of one category, compiled and indexed. `numbers` are the rules' places in the set.

    A set of rules is an integer with a bit for each. That of the guards that hold has `GUARDS` such
    parts: a rule may hold if its bit is set in all of them.
    """

    def __init__(self, rules: Sequence[tuple[int, Expr]]) -> None:
        self._numbers = [place for place, _ in rules]
        self._count = len(rules)
        self._every = (1 << self._count) - 1
        self._without = 0  # what no guard needs to hold for
        guarded: dict[Expr, int] = {}
        for rule, (_, expr) in enumerate(rules):
            guards = find_guards(expr)[:GUARDS]
            for part in range(GUARDS):
                bit = 1 << part * self._count + rule
                if part >= len(guards):
                    self._without |= bit
                for atom in guards[part][1] if part < len(guards) else ():
                    guarded[atom] = guarded.get(atom, 0) | bit
        self._of_field: dict[str, int] = {}
        self._of_number: dict[str, dict[float, int]] = {}
        searched: dict[Expr, int] = {}
        for atom, bits in guarded.items():
            field = _base(atom[1])
            self._of_field[field] = self._of_field.get(field, 0) | bits
            if atom[2] == "num":
                table = self._of_number.setdefault(atom[1], {})
                for value in atom[3]:
                    table[value] = table.get(value, 0) | bits
            else:
                searched[atom] = bits
        atoms: dict[Expr, int] = {}
        self._tests = [compile_condition(expr, atoms, searched) for _, expr in rules]
        self._read = [_fields_read(expr) for _, expr in rules]
        self._search = Search({atom: (bits, 1 << atoms[atom]) for atom, bits in searched.items()})
        self._elements = [name for name in self._of_number if _base(name) != name]
        self._others = (
            *self._search.fields,
            *(name for name in self._of_number if name not in self._elements),
        )
        self._long = [place for place, name in enumerate(self._others) if name in _LONG]
        self._of_others = Memory(REMEMBERED_EVENTS)
        self._founds = Memory(REMEMBERED_EVENTS)
        self._candidates = Memory(REMEMBERED_EVENTS)
        self._sets = Memory(REMEMBERED_EVENTS)
        self._memory = Memory(REMEMBERED_EVENTS)

    def evaluate(self, event: Event) -> Verdicts:
        """(place of the rule, undecided) for each rule that holds or may hold, in order."""
        of_arguments, word_by_word = self._search.in_arguments(event)
        of_others = self._in_others(event)
        if event.truncated or self._elements or self._search.asks_all:
            candidates = self._of_moment(event, of_arguments, of_others)
        else:
            candidates = self._of_found(of_arguments, of_others)
        if not candidates.rules:
            return ()
        key = _key(candidates, event)
        found: Verdicts | None = None if key is None else self._memory.get(key)
        if found is None:
            found = self._evaluate(candidates, Facts(event, candidates.atoms, word_by_word))
            if key is not None:
                self._memory.put(key, found)
        return found

    def _in_others(self, event: Event) -> Found:
        """What stands in the fields beside the arguments."""
        values = tuple(map(event.fields.get, self._others))
        for place in self._long:
            if not _is_short(values[place]):
                return self._look_up(values)
        found: Found | None = self._of_others.get(values)
        if found is None:
            found = self._look_up(values)
            if _small(values):
                self._of_others.put(values, found)
        return found

    def _look_up(self, values: tuple[Value, ...]) -> Found:
        searched = len(self._search.fields)
        guards, atoms = self._search.in_fields(values[:searched])
        for name, value in zip(self._others[searched:], values[searched:], strict=True):
            guards |= self._counted(name, value)
        return self._shared(guards, atoms)

    def _shared(self, guards: int, atoms: int) -> Found:
        """The one for these bits, so that what follows from it is found again."""
        shared: Found | None = self._founds.get((guards, atoms))
        if shared is None:
            shared = Found(guards, atoms)
            self._founds.put((guards, atoms), shared)
        return shared

    def _counted(self, name: str, value: Value) -> int:
        """Guards that hold for a number."""
        table, guards = self._of_number[name], 0
        for one in _numbers(value):
            guards |= table.get(one, 0)
        return guards

    def _of_found(self, of_arguments: Found, of_others: Found) -> Candidates:
        """The candidates where nothing but what was found decides."""
        pair = of_arguments, of_others
        known: Candidates | None = self._candidates.get(pair)
        if known is None:
            known = self._join(of_arguments.guards | of_others.guards, of_arguments.atoms | of_others.atoms)
            self._candidates.put(pair, known)
        return known

    def _of_moment(self, event: Event, of_arguments: Found, of_others: Found) -> Candidates:
        """The candidates where more than what was found decides."""
        guards = of_arguments.guards | of_others.guards
        atoms = of_arguments.atoms | of_others.atoms
        for name in self._elements:
            guards |= self._counted(name, field_value(event, name))
        if self._search.asks_all:
            rest = self._search.in_the_rest(event)
            guards, atoms = guards | rest.guards, atoms | rest.atoms
        if event.truncated:  # what is cut may say anything
            for field, bits in self._of_field.items():
                if field in event.truncated or field == ANY_FIELD:
                    guards |= bits
        return self._join(guards, atoms)

    def _join(self, guards: int, atoms: int) -> Candidates:
        held = self._without | guards
        rules = held & self._every
        for part in range(1, GUARDS):
            rules &= held >> part * self._count
        if not rules:
            return _NO_CANDIDATES
        kept: Candidates | None = self._sets.get((rules, atoms))
        if kept is None:
            places = tuple(_bits(rules))
            reads = tuple(sorted(frozenset[str]().union(*(self._read[rule] for rule in places))))
            kept = Candidates(places, atoms, None if ANY_FIELD in reads else reads)
            self._sets.put((rules, atoms), kept)
        return kept

    def _evaluate(self, candidates: Candidates, facts: Facts) -> Verdicts:
        found = []
        for rule in candidates.rules:
            verdict = self._tests[rule](facts)
            if verdict is not False:
                found.append((self._numbers[rule], verdict is None))
        return tuple(found)


def _key(candidates: Candidates, event: Event) -> tuple[Any, ...] | None:
    """All that the candidates' verdicts depend on; None where it is too much to be remembered."""
    reads = candidates.reads
    if reads is None:
        return None
    get = event.fields.get
    for name in _LONG:
        if name in reads:
            value = get(name)
            if isinstance(value, str) and len(value) > REMEMBERED_EVENT:
                return None
    key = (candidates, event.truncated, *map(get, reads))
    return key if _small(key) else None


def _base(name: str) -> str:
    """The field that an atom asks for an element of."""
    return name.partition("#")[0]


def _numbers(value: Value) -> Sequence[float]:
    if value.__class__ is int:
        return (value,)
    found = (number(text) for text in texts(value))
    return [one for one in found if one is not None]


def _bits(number: int) -> Iterator[int]:
    while number:
        lowest = number & -number
        number ^= lowest
        yield lowest.bit_length() - 1


def _fields_read(expr: Expr) -> frozenset[str]:
    """Fields that a condition reads, `ANY_FIELD` for keywords."""
    if expr[0] != "atom":
        return frozenset[str]().union(*(_fields_read(part) for part in expr[1:] if isinstance(part, tuple)))
    _, name, op, value = expr
    names = (name, value[0]) if op == "fieldref" else (name,)
    return frozenset(map(_base, names))


def _small(key: Iterable[Any]) -> bool:
    room = REMEMBERED_EVENT
    for value in key:
        if isinstance(value, str):
            room -= len(value)
        elif isinstance(value, tuple):
            if len(value) > MANY_TEXTS:
                return False
            room -= sum([len(item) if isinstance(item, str) else 8 for item in value]) + 50 * len(value)
    return room >= 0


def find_guards(expr: Expr) -> list[Guard]:
    """What must hold for the condition to hold, the cheapest first: none, one or several guards."""
    kind = expr[0]
    if kind == "atom":
        cost = _atom_cost(expr)
        return [] if cost is None else [(cost, (expr,))]
    if kind == "sel":
        return find_guards(expr[2])
    found: list[Guard] = []
    if kind == "and":
        found = [guard for operand in expr[1:] for guard in find_guards(operand)]
    elif kind == "or":
        # Of each operand one guard must hold: the best of each, the second best of each, ...
        each = [find_guards(operand) for operand in expr[1:]]
        if all(each):
            for place in range(min(GUARDS, max(map(len, each)))):
                found.append(_joined([guards[min(place, len(guards) - 1)] for guards in each]))
    return sorted(found, key=lambda guard: guard[0])


def _joined(guards: Sequence[Guard]) -> Guard:
    return sum(cost for cost, _ in guards), tuple(
        dict.fromkeys(atom for _, atoms in guards for atom in atoms)
    )


def _atom_cost(atom: Expr) -> int | None:
    _, name, op, _ = atom
    op = op.removesuffix(CASED)
    if op not in _COST or name == AGENT_FIELD:
        return None
    cost = _COST[op] + (_LONG_COST if name in _LONG else 0)
    if op == "num":
        return cost
    words = _words(atom)
    shortest = min((len(word.strip("\0")) for word in words), default=0)
    if op == "eq":
        return _everyday(cost, words) + _LETTER // max(1, shortest)
    if not shortest:
        return None
    if op == "re":
        return cost + _LETTER_OF_PATTERN // shortest
    return _everyday(cost, words) + _LETTER // shortest


def _everyday(cost: int, words: Sequence[str]) -> int:
    names = (word.strip("\0 /").rpartition("/")[2] for word in words)
    return cost if _EVERYDAY.isdisjoint(names) else cost + _EVERYDAY_COST


def _words(atom: Expr) -> tuple[str, ...]:
    """Words in lower case of which one stands in a text where the atom holds; an end of the text is NUL."""
    op, value = atom[2].removesuffix(CASED), atom[3]
    if op == "re":
        # Where cases of other letters are told apart they may be folded otherwise than by RE2.
        return certain_literals(*value) if value[0].isascii() else ()
    folded = [word.lower() for word in ((longest(value),) if op == "wild" else value)]
    before = "\0" if op in ("eq", "startswith") else ""
    after = "\0" if op in ("eq", "endswith") else ""
    return tuple(f"{before}{word}{after}" for word in folded)


def longest(parts: Sequence[str | int]) -> str:
    """The longest literal of a pattern with wildcards."""
    return max((part for part in parts if isinstance(part, str)), key=len, default="")


class Search:
    """Looks for the words of all atoms: in the arguments, and in the other `fields` that are asked for.

    `asks_all`: keywords are looked for in the rest of an event, too.
    """

    def __init__(self, atoms: Mapping[Expr, tuple[int, int]]) -> None:
        of_all = {atom: found for atom, found in atoms.items() if atom[1] == ANY_FIELD}
        of_arguments = {atom: found for atom, found in atoms.items() if _base(atom[1]) in ARGUMENTS}
        others = {atom: found for atom, found in atoms.items() if atom not in of_arguments}
        self.fields = tuple(dict.fromkeys(_base(atom[1]) for atom in others if atom not in of_all))
        # How either end of a text stands there: of a field's own kind, so that fields are told apart.
        ends = {field: f"\0{_KINDS[place % len(_KINDS)]}" for place, field in enumerate(self.fields)}
        self._arguments = WordSet({**of_arguments, **of_all}, {})
        self._others = WordSet(others, ends)
        self._asks_arguments = bool(of_arguments or of_all)
        self._of_arguments = Memory(REMEMBERED_TEXTS)
        self._of_fields = [(end, Memory(REMEMBERED_TEXTS)) for end in ends.values()]
        self.asks_all = bool(of_all)

    def in_arguments(self, event: Event) -> tuple[Found, bool]:
        """What stands in the arguments, and whether they were searched word by word."""
        if not self._asks_arguments:
            return _NO_ARGUMENTS
        line, words = event.fields.get(LINE), event.fields.get(WORDS)
        key = line, words
        found: tuple[Found, bool] | None = self._of_arguments.get(key) if _is_short(line) else None
        if found is None:
            text = _delimited(words, "\0")
            # They are gone through once where the line is made of them.
            is_line = text.count("\0") == len(texts(words)) + 1 and text[1:-1].replace("\0", " ") == line
            found = self._arguments.find(text if is_line else text + _delimited(line, "\0")), is_line
            if _small(key):
                self._of_arguments.put(key, found)
        return found

    def in_fields(self, values: Sequence[Value]) -> tuple[int, int]:
        """What stands in the other fields, of which these are the values: bits of guards and of atoms."""
        guards = atoms = 0
        for (end, memory), value in zip(self._of_fields, values, strict=True):
            if value is None:
                continue
            found: Found | None = memory.get(value) if _is_short(value) else None
            if found is None:
                found = self._others.find(_delimited(value, end))
                if _small((value,)):
                    memory.put(value, found)
            guards |= found.guards
            atoms |= found.atoms
        return guards, atoms

    def in_the_rest(self, event: Event) -> Found:
        """What stands in the fields that only keywords ask for."""
        asked = {*ARGUMENTS, *self.fields}
        rest = (value for field, value in event.fields.items() if field not in asked)
        return self._others.find("".join(_delimited(value, "\0") for value in rest))


def _is_short(value: Value) -> bool:
    """Whether a value is not too long to be looked up."""
    return value.__class__ is not str or len(value) <= REMEMBERED_TEXT


def _delimited(value: Value, end: str) -> str:
    """The texts of a value, each with `end` before and behind it."""
    if value.__class__ is str:
        return f"{end}{value}{end}"
    found = texts(value)
    return f"{end}{end.join(found)}{end}" if found else ""


class WordSet:
    """Words in one RE2 set, each with what may hold where it stands. `ends`: of fields' texts, else NUL."""

    def __init__(self, atoms: Mapping[Expr, tuple[int, int]], ends: Mapping[str, str]) -> None:
        groups: dict[tuple[bytes, ...], tuple[int, int]] = {}
        for atom, (bits, numbers) in atoms.items():
            field = _base(atom[1])
            group = tuple(_pattern(word, field, ends.get(field, "\0")) for word in _words(atom))
            before, others = groups.get(group, (0, 0))
            groups[group] = before | bits, others | numbers
        self._found = list(groups.values())
        self._set = re2.Set.SearchSet(_options(len(groups)))
        for group in groups:
            self._set.Add(b"|".join(group))
        self._set.Compile()
        self._of_hits = Memory(REMEMBERED_TEXTS)
        # A set that is short of memory finds nothing and says so only on standard error.
        for atom in list(atoms)[:1]:
            if not self._set.Match(encode(_words(atom)[0].replace("\0", ends.get(_base(atom[1]), "\0")))):
                raise RuntimeError("RE2 has no memory for the words of the rules")

    def find(self, text: str) -> Found:
        """What may hold for joined texts."""
        hits = self._set.Match(encode(text.lower()))
        if not hits:
            return _NOTHING
        key = frozenset(hits)
        found: Found | None = self._of_hits.get(key)  # new texts often have the same words in them
        if found is None:
            guards = atoms = 0
            for hit in hits:
                more, others = self._found[hit]
                guards |= more
                atoms |= others
            found = Found(guards, atoms)
            self._of_hits.put(key, found)
        return found


def _pattern(word: str, field: str, end: str) -> bytes:
    """What finds a word. Those of a command line may stand apart by NUL; any field may end in any way."""
    if field not in (LINE, ANY_FIELD):
        return _escaped(word.replace("\0", end))
    found = rb"[ \x00]".join(map(_escaped, word.split(" ")))
    return found.replace(rb"\x00", rb"\x00.?") if field == ANY_FIELD else found


def _escaped(word: str) -> bytes:
    escaped: bytes = re2.escape(encode(word))
    return escaped


def _options(patterns: int) -> Any:
    options = re2.Options()
    options.encoding = re2.Options.Encoding.LATIN1
    options.log_errors = False
    options.max_mem = (8 << 20) + 4096 * patterns
    return options
