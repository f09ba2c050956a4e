"""Which rules can hold for an event at all: found without looking at each of them.

Every rule that is not a bare negation has guards: sets of atoms of which at least one must hold (or
be unknown) for the rule to hold. The guards of a category are indexed by field. Equality, prefixes,
suffixes and numbers are looked up in tables; literals that may stand anywhere go through one
RE2 set, and regular expressions through RE2's own literal filter, each in one pass over the
value; what was found of a value is remembered. A rule all of whose guards hold is evaluated in
full; rules without a guard always are.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import re2  # type: ignore[import-untyped]

from agentwatch.event import Event
from agentwatch.rules.expr import AGENT_FIELD, ANY_FIELD, CASED, Expr
from agentwatch.rules.literals import certain_literal
from agentwatch.rules.match import Facts, Test, compile_condition, encode, number, regex

# What a memory holds at most: events or values, and characters of all their texts. What is longer
# is unlikely to come again.
REMEMBERED_EVENTS = 2048
REMEMBERED_EVENT = 1024
REMEMBERED_VALUES = 1024
REMEMBERED_VALUE = 256

GUARDS = 3  # of a rule, at most

# Fields worth looking at first: a value too long to be remembered is not hashed either.
_LONG = ("CommandLine", "ParentCommandLine")

# Rough cost of a guard: how often it will let a rule through for nothing. Short literals stand
# everywhere and short values are common: `_LETTER` over their length is added. Fields that can be
# long are left alone where another serves.
_COST = {"eq": 1, "num": 1, "endswith": 2, "startswith": 3, "contains": 8, "wild": 8, "re": 20}
_LETTER = 40
_LETTER_OF_PATTERN = 120
_SHORTEST_FILTER = 3
_USELESS = 1000  # that of a pattern which anything may match
_LONG_COST = 4
# Fields whose values come again and again: what was found of them is remembered.
_RECURRING = ("Image", "ParentImage", "AncestorImages", "CurrentDirectory")
_RECURRING_COST = 50
# Programs that agents run all the time: to ask for them lets nearly everything through.
_EVERYDAY_COST = 40
_EVERYDAY = frozenset(
    ("bash", "bash -c", "cat", "curl", "dash", "env", "find", "git", "grep", "ls", "node", "python",
     "python3", "sed", "sh", "sh -c", "zsh")
)  # fmt: skip

Verdicts = tuple[tuple[int, bool], ...]
# (cost, atoms): a condition is false whenever all of the atoms are.
Guard = tuple[int, tuple[Expr, ...]]
# Of a field's value: bits of the rules that it lets through, numbers of the atoms of which a
# literal stands in it.
Found = tuple[int, frozenset[int]]
_NONE: frozenset[int] = frozenset()
# Literals of which one must stand in a value: bits of the rules, numbers of the atoms that ask for them.
_Groups = dict[tuple[str, ...], tuple[int, list[int]]]
_MANY = 64  # texts of a list: more of them are looked through as one


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
        guarded: dict[str, list[tuple[Expr, int]]] = {}
        for rule, (_, expr) in enumerate(rules):
            guards = _best(find_guards(expr))
            for part in range(GUARDS):
                bit = 1 << part * self._count + rule
                if part >= len(guards):
                    self._without |= bit
                    continue
                for atom in guards[part][1]:
                    guarded.setdefault(atom[1], []).append((atom, bit))
        searched = {atom for guards in guarded.values() for atom, _ in guards if _literals(atom)}
        atoms: dict[Expr, int] = {}
        self._tests: list[Test] = []
        self._read: list[frozenset[str]] = []
        for _, expr in rules:
            self._tests.append(compile_condition(expr, atoms, searched))
            self._read.append(_fields_read(expr))
        self._indexes = [FieldIndex(name, guarded[name], atoms) for name in sorted(guarded)]
        names = [index.name for index in self._indexes]
        # All that the guards look at, where it is short enough to be remembered as a whole.
        self._looked_at = tuple(names) if all(map(_is_short, names)) else None
        self._passed_over = Memory(REMEMBERED_EVENTS)
        self._reads = Memory(REMEMBERED_EVENTS)
        self._memory = Memory(REMEMBERED_EVENTS)

    def evaluate(self, event: Event) -> Verdicts:
        """(place of the rule, undecided) for each rule that holds or may hold, in order."""
        looked_at = None
        if self._looked_at is not None and not event.truncated:
            looked_at = tuple(map(event.fields.get, self._looked_at))
            if self._passed_over.get(looked_at):
                return ()
        facts = Facts(event)
        candidates = self._candidates(facts)
        if not candidates:
            if looked_at is not None and _small(looked_at):
                self._passed_over.put(looked_at, True)
            return ()
        key = self._key(candidates, event)
        found: Verdicts | None = None if key is None else self._memory.get(key)
        if found is None:
            found = self._evaluate(candidates, facts)
            if key is not None:
                self._memory.put(key, found)
        return found

    def _candidates(self, facts: Facts) -> int:
        """The rules whose guards all hold or may hold."""
        held = self._without
        for index in self._indexes:
            held |= index.candidates(facts)
        candidates = held & self._every
        for part in range(1, GUARDS):
            candidates &= held >> part * self._count
        return candidates

    def _key(self, candidates: int, event: Event) -> tuple[Any, ...] | None:
        """All that the candidates' verdicts depend on; None where it is too much to be remembered."""
        reads: tuple[str, ...] | None = self._reads.get(candidates)
        if reads is None:
            reads = self._fields_of(candidates)
            self._reads.put(candidates, reads)
        if ANY_FIELD in reads:
            return None
        fields = event.fields
        for name in _LONG:
            if name in reads:
                value = fields.get(name)
                if isinstance(value, str) and len(value) > REMEMBERED_EVENT:
                    return None
        key = (candidates, event.truncated, *map(fields.get, reads))
        return key if _small(key) else None

    def _fields_of(self, candidates: int) -> tuple[str, ...]:
        return tuple(sorted(frozenset[str]().union(*(self._read[rule] for rule in _bits(candidates)))))

    def _evaluate(self, candidates: int, facts: Facts) -> Verdicts:
        found = []
        for rule in _bits(candidates):
            verdict = self._tests[rule](facts)
            if verdict is not False:
                found.append((self._numbers[rule], verdict is None))
        return tuple(found)


def _is_short(name: str) -> bool:
    """Whether a guard's field is one whose value is neither long nor a list of the agent's making."""
    return name not in (*_LONG, "Argv", ANY_FIELD, AGENT_FIELD) and "#" not in name


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
    return frozenset(one.partition("#")[0] for one in names)


def _small(key: Iterable[Any]) -> bool:
    room = REMEMBERED_EVENT
    for value in key:
        if isinstance(value, str):
            room -= len(value)
        elif isinstance(value, tuple):
            if len(value) > _MANY:
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


def _best(guards: Sequence[Guard]) -> Sequence[Guard]:
    """The cheapest guard, and as many more as are of use."""
    return [guard for place, guard in enumerate(guards[:GUARDS]) if not place or guard[0] < _USELESS]


def _joined(guards: Sequence[Guard]) -> Guard:
    return sum(cost for cost, _ in guards), tuple(
        dict.fromkeys(atom for _, atoms in guards for atom in atoms)
    )


def _atom_cost(atom: Expr) -> int | None:
    _, name, op, value = atom
    op = op.removesuffix(CASED)
    if op not in _COST:
        return None
    cost = _COST[op] + (_LONG_COST if name in _LONG else 0)
    if op == "re":
        # RE2's literal filter is about bytes here: folding of other letters would mislead it.
        return _pattern_cost(cost, name, value[0]) if value[0].isascii() else None
    if op == "num":
        return cost
    words = (longest(value),) if op == "wild" else value
    if any(word.strip(" /").rpartition("/")[2] in _EVERYDAY for word in words):
        cost += _EVERYDAY_COST
    shortest = min(map(len, words))
    if op == "eq":
        return cost + _LETTER // max(1, shortest)
    return cost + _LETTER // shortest if shortest else None


def _pattern_cost(cost: int, name: str, pattern: str) -> int:
    if name in _RECURRING:
        return cost + _RECURRING_COST
    length = certain_literal(pattern)
    # RE2 filters by no shorter ones.
    return cost + _LETTER_OF_PATTERN // length if length >= _SHORTEST_FILTER else _USELESS


def _literals(atom: Expr) -> tuple[str, ...]:
    """Of a guard that is looked for anywhere in a value: words of which one must stand there."""
    op = atom[2].removesuffix(CASED)
    if op == "wild":
        return _folded((longest(atom[3]),))
    return _folded(atom[3]) if op == "contains" else ()


def longest(parts: Sequence[str | int]) -> str:
    """The longest literal of a pattern with wildcards."""
    return max((part for part in parts if isinstance(part, str)), key=len, default="")


class FieldIndex:
    """The guards on one field: a value in, the bits of the rules that may hold out.

    `atoms` numbers all atoms of the category.
    """

    def __init__(self, name: str, guards: Sequence[tuple[Expr, int]], atoms: Mapping[Expr, int]) -> None:
        self.name = name
        self._whole = "#" not in name and name != AGENT_FIELD
        self._all = 0
        self._exact: dict[str, int] = {}
        self._numbers: dict[float, int] = {}
        self._prefixes: dict[int, dict[str, int]] = {}
        self._suffixes: dict[int, dict[str, int]] = {}
        literals: _Groups = {}
        self._delimited: _Groups = {}
        self._in_joined: LiteralSet | None = None  # made when many texts come
        patterns: dict[tuple[str, str], int] = {}
        for atom, bits in guards:
            self._all |= bits
            op, value = atom[2].removesuffix(CASED), atom[3]
            if op == "num":
                _add(self._numbers, value, bits)
            elif op == "re":
                _add(patterns, (value,), bits)
            elif op == "eq":
                _add(self._exact, _folded(value), bits)
                _group(self._delimited, tuple(f"\0{word}\0" for word in _folded(value)), bits)
            elif op in ("startswith", "endswith"):
                tables = self._prefixes if op == "startswith" else self._suffixes
                for word in _folded(value):
                    _add(tables.setdefault(len(word), {}), (word,), bits)
                ends = ("\0", "") if op == "startswith" else ("", "\0")
                _group(self._delimited, tuple(word.join(ends) for word in _folded(value)), bits)
            else:
                words = _literals(atom)
                _group(literals, words, bits, atoms[atom])
                _group(self._delimited, words, bits, atoms[atom])
        # A literal with a NUL in it could stand over the end of one text and the beginning of the next.
        self._joinable = not self._numbers and "\0" not in "".join(
            word for words in literals for word in words
        )
        self._literals = LiteralSet(literals) if literals else None
        self._patterns = PatternFilter(patterns) if patterns else None
        self._memory = Memory(REMEMBERED_VALUES)

    def candidates(self, facts: Facts) -> int:
        """Bits of the guards that hold or may hold. Notes which literals were found."""
        name = self.name
        if facts.event.truncated and facts.cut(name):
            # All may hold. What stands in the known part is noted all the same: one pass, not many.
            self._look_up_all(facts)
            return self._all
        value = facts.event.fields.get(name) if self._whole else facts.value(name)
        if value is None and name != ANY_FIELD:
            return 0
        is_list = isinstance(value, tuple)
        known: Found | None = None
        if is_list or (isinstance(value, str) and len(value) <= REMEMBERED_VALUE):
            known = self._memory.get(value)
        found = self._look_up_all(facts) if known is None else known
        if known is None and is_list and _small((value,)):
            self._memory.put(value, found)
        if self._literals is not None:
            facts.found[name] = found[1]
        return found[0]

    def _look_up_all(self, facts: Facts) -> Found:
        texts = facts.texts(self.name)
        if len(texts) > _MANY and self._joinable:
            joined = self._look_up_joined(texts)
            facts.found[self.name] = joined[1]
            return joined
        bits, numbers = 0, _NONE
        for text in texts:
            if len(text) > REMEMBERED_VALUE:
                more, found = self._look_up(text)
            else:
                known: Found | None = self._memory.get(text)
                if known is None:
                    known = self._look_up(text)
                    self._memory.put(text, known)
                more, found = known
            bits |= more
            if found:
                numbers |= found
        facts.found[self.name] = numbers
        return bits, numbers

    def _look_up_joined(self, texts: Sequence[str]) -> Found:
        """Of many texts at once: in one pass, in which an end of a text is a NUL."""
        if self._in_joined is None:
            self._in_joined = LiteralSet(self._delimited)
        blob = encode("\0".join(("", *texts, "")).lower())
        bits, numbers = self._in_joined.find(blob)
        if self._patterns is not None:
            bits |= self._patterns.candidates(blob, None)
        return bits, numbers

    def _look_up(self, text: str) -> Found:
        folded = text.lower()
        bits = self._exact.get(folded, 0)
        if self._numbers:
            value = number(folded)
            bits |= 0 if value is None else self._numbers.get(value, 0)
        for length, table in self._prefixes.items():
            bits |= table.get(folded[:length], 0)
        for length, table in self._suffixes.items():
            bits |= table.get(folded[-length:], 0)
        if self._literals is None and self._patterns is None:
            return bits, _NONE
        blob = encode(folded)
        if self._patterns is not None:
            bits |= self._patterns.candidates(blob, text)
        if self._literals is None:
            return bits, _NONE
        more, found = self._literals.find(blob)
        return bits | more, found


def _folded(words: Sequence[str]) -> tuple[str, ...]:
    return tuple(word.lower() for word in words)


def _add(table: dict[Any, int], keys: Iterable[Any], bits: int) -> None:
    for key in keys:
        table[key] = table.get(key, 0) | bits


def _group(groups: _Groups, words: tuple[str, ...], bits: int, *atoms: int) -> None:
    before, numbers = groups.get(words, (0, []))
    groups[words] = (before | bits, [*numbers, *atoms])


class LiteralSet:
    """Groups of literals, each with the bits of the rules and the numbers of the atoms that ask for it."""

    def __init__(self, groups: _Groups) -> None:
        self._groups = list(groups.values())
        self._set = re2.Set.SearchSet(_options(len(groups)))
        for group in groups:
            self._set.Add(b"|".join(re2.escape(encode(word)) for word in group))
        self._set.Compile()
        if not groups:
            return
        # A set that is short of memory finds nothing and says so only on standard error.
        if not self._set.Match(encode(next(iter(groups))[0])):
            raise RuntimeError("RE2 has no memory for the literals of the rules")

    def find(self, blob: bytes) -> Found:
        """What the literals that stand in the value, folded and encoded, let through."""
        hits = self._set.Match(blob)
        if not hits:
            return 0, _NONE
        bits, numbers = 0, list[int]()
        for hit in hits:
            bits |= self._groups[hit][0]
            numbers += self._groups[hit][1]
        return bits, frozenset(numbers)


class PatternFilter:
    """Regular expressions behind RE2's own filter on the literals that they need."""

    def __init__(self, patterns: Mapping[tuple[str, str], int]) -> None:
        self._filter = re2.Filter()
        for pattern, flags in patterns:
            prefix = f"(?{flags})" if "i" in flags else f"(?{flags}i)"
            self._filter.Add(encode(prefix + pattern), _options())
        self._filter.Compile()
        self._patterns = list(patterns.items())
        # Those without a literal that is long enough pass whatever the value is.
        self._unfiltered = self._passing(b"")
        self._filters = len(self._unfiltered) < len(self._patterns)

    def candidates(self, folded: bytes, text: str | None) -> int:
        """Bits of the patterns that match the text; of none or a long one, those that may match it."""
        bits = 0
        exact = None if text is None or len(text) > REMEMBERED_EVENT else encode(text)
        for place in self._passing(folded) if self._filters else self._unfiltered:
            pattern, mask = self._patterns[place]
            if exact is None or regex(*pattern).search(exact) is not None:
                bits |= mask
        return bits

    def _passing(self, folded: bytes) -> Sequence[int]:
        return self._filter.Match(folded, True) or ()


def _options(patterns: int = 1) -> Any:
    options = re2.Options()
    options.encoding = re2.Options.Encoding.LATIN1
    options.log_errors = False
    options.max_mem = (8 << 20) + 4096 * patterns
    return options
