"""Which rules can hold for an event at all: found without looking at each of them.

Every rule that is not a bare negation has a guard: atoms of which at least one must hold (or be
unknown) for the rule to hold. The guards of a category are indexed by field. Equality, prefixes,
suffixes and numbers are looked up in tables; literals that may stand anywhere go through one
RE2 set, and regular expressions through RE2's own literal filter, each in one pass over the
value. What passes is evaluated in full; rules without a guard always are.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import re2  # type: ignore[import-untyped]

from agentwatch.event import Event
from agentwatch.rules.expr import ANY_FIELD, CASED, Expr
from agentwatch.rules.match import Facts, Test, compile_condition, encode, number

# What a memory holds at most: events or values, and characters of all their texts. What is longer
# is unlikely to come again.
REMEMBERED_EVENTS = 2048
REMEMBERED_EVENT = 1024
REMEMBERED_VALUES = 1024
REMEMBERED_VALUE = 256
# A value longer than this is worth scanning once for all rules that will look at it.
LONG_VALUE = 1024

# Fields worth looking at first: a value too long to be remembered is not hashed either.
_LONG = ("CommandLine", "ParentCommandLine")

# Rough cost of a guard: how often it will let a rule through for nothing. Short literals stand
# everywhere: `_LETTER` over their length is added. Fields that can be long are left alone where
# another serves.
_COST = {"eq": 1, "num": 1, "endswith": 2, "startswith": 3, "contains": 8, "wild": 8, "re": 60}
_LETTER = 40
_LONG_COST = 4

Verdicts = tuple[tuple[int, bool], ...]


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
        if found is None:
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
    """The rules of one category, compiled and indexed. `numbers` are the rules' places in the set."""

    def __init__(self, rules: Sequence[tuple[int, Expr]]) -> None:
        atoms: dict[Expr, int] = {}
        self._numbers = [place for place, _ in rules]
        self._tests: list[Test] = [compile_condition(expr, atoms) for _, expr in rules]
        self._always = 0
        guarded: dict[str, list[tuple[Expr, int]]] = {}
        for bit, (_, expr) in enumerate(rules):
            guard = find_guard(expr)
            if guard is None:
                self._always |= 1 << bit
                continue
            for atom in guard[1]:
                guarded.setdefault(atom[1], []).append((atom, 1 << bit))
        self._indexes = [FieldIndex(name, guarded[name], atoms) for name in sorted(guarded)]
        # The fields that verdicts depend on, by which they are remembered.
        self._reads = _fields_read(atoms)
        self._memory = Memory(REMEMBERED_EVENTS)

    def evaluate(self, event: Event) -> Verdicts:
        """(place of the rule, undecided) for each rule that holds or may hold, in order."""
        if self._reads is None:
            return self._evaluate(event)
        fields = event.fields
        for name in _LONG:
            value = fields.get(name)
            if isinstance(value, str) and len(value) > REMEMBERED_EVENT:
                return self._evaluate(event)
        key = (event.truncated, *map(fields.get, self._reads))
        found: Verdicts | None = self._memory.get(key)
        if found is None:
            found = self._evaluate(event)
            if _small(key):
                self._memory.put(key, found)
        return found

    def _evaluate(self, event: Event) -> Verdicts:
        facts = Facts(event)
        candidates = self._always
        for index in self._indexes:
            candidates |= index.candidates(facts)
        found = []
        while candidates:
            lowest = candidates & -candidates
            candidates ^= lowest
            bit = lowest.bit_length() - 1
            verdict = self._tests[bit](facts)
            if verdict is not False:
                found.append((self._numbers[bit], verdict is None))
        return tuple(found)


def _fields_read(atoms: Iterable[Expr]) -> tuple[str, ...] | None:
    """Fields that atoms read; None if keywords make them read all."""
    names = set()
    for _, name, op, value in atoms:
        names.add(name.partition("#")[0])
        if op == "fieldref":
            names.add(value[0].partition("#")[0])
    return None if ANY_FIELD in names else tuple(sorted(names))


def _small(key: Iterable[Any]) -> bool:
    room = REMEMBERED_EVENT
    for value in key:
        if isinstance(value, str):
            room -= len(value)
        elif isinstance(value, tuple):
            room -= sum(len(item) + 50 if isinstance(item, str) else 50 for item in value)
    return room >= 0


def find_guard(expr: Expr) -> tuple[int, tuple[Expr, ...]] | None:
    """(cost, atoms) such that the condition is false whenever all of the atoms are; None if none."""
    kind = expr[0]
    if kind == "atom":
        cost = _atom_cost(expr)
        return None if cost is None else (cost, (expr,))
    if kind == "sel":
        return find_guard(expr[2])
    if kind == "and":
        guards = [guard for guard in map(find_guard, expr[1:]) if guard is not None]
        return min(guards, key=lambda guard: guard[0]) if guards else None
    if kind == "or":
        return _joined([find_guard(operand) for operand in expr[1:]])
    return None


def _joined(guards: Sequence[tuple[int, tuple[Expr, ...]] | None]) -> tuple[int, tuple[Expr, ...]] | None:
    cost, atoms = 0, list[Expr]()
    for guard in guards:
        if guard is None:
            return None
        cost += guard[0]
        atoms += guard[1]
    return cost, tuple(atoms)


def _atom_cost(atom: Expr) -> int | None:
    _, name, op, value = atom
    op = op.removesuffix(CASED)
    if op not in _COST:
        return None
    cost = _COST[op] + (_LONG_COST if name in _LONG else 0)
    if op == "re":
        # RE2's literal filter is about bytes here: folding of other letters would mislead it.
        return cost if value[0].isascii() else None
    words = (longest(value),) if op == "wild" else value
    if op in ("contains", "startswith", "endswith", "wild"):
        shortest = min(map(len, words))
        if not shortest:
            return None
        return cost + _LETTER // shortest
    return cost


def longest(parts: Sequence[str | int]) -> str:
    """The longest literal of a pattern with wildcards."""
    return max((part for part in parts if isinstance(part, str)), key=len, default="")


class FieldIndex:
    """The guards on one field: a value in, the bits of the rules that may hold out.

    `atoms` numbers all atoms of the category.
    """

    def __init__(self, name: str, guards: Sequence[tuple[Expr, int]], atoms: Mapping[Expr, int]) -> None:
        self.name = name
        self._all = 0
        self._exact: dict[str, int] = {}
        self._numbers: dict[float, int] = {}
        self._prefixes: dict[int, dict[str, int]] = {}
        self._suffixes: dict[int, dict[str, int]] = {}
        literals: dict[tuple[str, ...], int] = {}
        patterns: dict[tuple[str, str], int] = {}
        for (_, _, full_op, value), bits in guards:
            self._all |= bits
            op = full_op.removesuffix(CASED)
            if op == "num":
                _add(self._numbers, value, bits)
            elif op == "re":
                _add(patterns, (value,), bits)
            elif op == "eq":
                _add(self._exact, _folded(value), bits)
            elif op in ("startswith", "endswith"):
                tables = self._prefixes if op == "startswith" else self._suffixes
                for word in _folded(value):
                    _add(tables.setdefault(len(word), {}), (word,), bits)
            else:
                _add(literals, (_folded((longest(value),) if op == "wild" else value),), bits)
        self._literals = LiteralSet(name, literals, atoms) if literals else None
        self._patterns = PatternFilter(patterns) if patterns else None
        self._memory = Memory(REMEMBERED_VALUES)

    def candidates(self, facts: Facts) -> int:
        """Bits of the rules whose guard holds or may hold."""
        value = facts.value(self.name)
        if facts.cut(self.name):
            # All may hold. What the known part says is noted all the same: it is scanned once.
            if self._literals is not None and isinstance(value, str) and len(value) > LONG_VALUE:
                blob = facts.blobs(self.name, fold=True)[0]
                self._literals.candidates(blob, facts.verdicts, missed=None)
            return self._all
        if isinstance(value, str):
            if len(value) > REMEMBERED_VALUE:
                return self._look_up(facts, 0, facts.verdicts if len(value) > LONG_VALUE else None)
            found: int | None = self._memory.get(value)
            if found is None:
                found = self._look_up(facts, 0)
                self._memory.put(value, found)
            return found
        bits = 0
        for place in range(len(facts.texts(self.name))):
            bits |= self._look_up(facts, place)
        return bits

    def _look_up(self, facts: Facts, place: int, verdicts: dict[int, bool | None] | None = None) -> int:
        text = facts.folded(self.name)[place]
        bits = self._exact.get(text, 0)
        if self._numbers:
            value = number(text)
            bits |= 0 if value is None else self._numbers.get(value, 0)
        for length, table in self._prefixes.items():
            bits |= table.get(text[:length], 0)
        for length, table in self._suffixes.items():
            bits |= table.get(text[-length:], 0)
        if self._literals is None and self._patterns is None:
            return bits
        blob = facts.blobs(self.name, fold=True)[place]
        if self._patterns is not None:
            bits |= self._patterns.candidates(blob)
        if self._literals is not None:
            bits |= self._literals.candidates(blob, verdicts)
        return bits


def _folded(words: Sequence[str]) -> tuple[str, ...]:
    return tuple(word.lower() for word in words)


def _add(table: dict[Any, int], keys: Iterable[Any], bits: int) -> None:
    for key in keys:
        table[key] = table.get(key, 0) | bits


class LiteralSet:
    """Groups of literals, each with the bits of the rules that one of them lets through."""

    def __init__(self, name: str, groups: Mapping[tuple[str, ...], int], atoms: Mapping[Expr, int]) -> None:
        numbers = {
            _folded(value): place
            for (_, field, op, value), place in atoms.items()
            if field == name and op == "contains"
        }
        self._masks = list(groups.values())
        self._numbers = [numbers.get(group, -1) for group in groups]
        self._set = re2.Set.SearchSet(_options(len(groups)))
        for group in groups:
            self._set.Add(b"|".join(re2.escape(encode(word)) for word in group))
        self._set.Compile()
        # A set that is short of memory finds nothing and says so only on standard error.
        if not self._set.Match(encode(next(iter(groups))[0])):
            raise RuntimeError("RE2 has no memory for the literals of the rules")

    def candidates(
        self, blob: bytes, verdicts: dict[int, bool | None] | None = None, missed: bool | None = False
    ) -> int:
        """Bits of the rules of which a literal stands in the value, folded and encoded.

        Notes in `verdicts`, by number, what that says about atoms: a long value is scanned once.
        `missed` is the verdict of those that are not there.
        """
        hits = self._set.Match(blob) or ()
        if verdicts is not None:
            verdicts.update(dict.fromkeys(self._numbers, missed))
            verdicts.update((self._numbers[hit], True) for hit in hits)
        bits = 0
        for hit in hits:
            bits |= self._masks[hit]
        return bits


class PatternFilter:
    """Regular expressions behind RE2's own filter on the literals that they need."""

    def __init__(self, patterns: Mapping[tuple[str, str], int]) -> None:
        self._filter = re2.Filter()
        for pattern, flags in patterns:
            prefix = f"(?{flags})" if "i" in flags else f"(?{flags}i)"
            self._filter.Add(encode(prefix + pattern), _options())
        self._filter.Compile()
        self._masks = list(patterns.values())

    def candidates(self, blob: bytes) -> int:
        """Bits of the rules whose pattern may match the value, folded."""
        bits = 0
        for hit in self._filter.Match(blob, True) or ():
            bits |= self._masks[hit]
        return bits


def _options(patterns: int = 1) -> Any:
    options = re2.Options()
    options.encoding = re2.Options.Encoding.LATIN1
    options.log_errors = False
    options.max_mem = (8 << 20) + 4096 * patterns
    return options
