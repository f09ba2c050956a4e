"""The index finds what evaluating every rule finds, and no event makes it raise."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from agentwatch.event import Event, Value
from agentwatch.rules.expr import CASED, MANY, ONE, Expr
from agentwatch.rules.index import REMEMBERED_EVENT, Memory, Plan, find_guards
from agentwatch.rules.match import Facts, compile_condition
from tests.rules.helpers import event

# Few letters and short words, so that rules and events meet often; with what folding and
# encoding stumble over: the Kelvin sign, a dotted capital I, lone surrogates, NUL.
LETTERS = "abAB. \u212a\u0130é\udcff\ud800\0"
WORDS = st.text(LETTERS, max_size=3)
SOME = st.lists(WORDS, min_size=1, max_size=3).map(tuple)
FIELDS = st.sampled_from(["CommandLine", "Image", "Argv", "Argv#1", "*"])
NAMED = st.sampled_from(["CommandLine", "Image", "Argv#0"])
NUMBERS = st.sampled_from([0, 1, 10, 2.5])


def _atoms() -> st.SearchStrategy[Expr]:
    def atom(
        fields: st.SearchStrategy[str], ops: list[str], value: st.SearchStrategy[object]
    ) -> st.SearchStrategy[Expr]:
        return st.tuples(st.just("atom"), fields, st.sampled_from(ops), value)

    text_ops = ["eq", "contains", "startswith", "endswith"]
    parts = st.lists(st.one_of(WORDS.filter(bool), st.sampled_from([MANY, ONE])), min_size=1, max_size=4)
    patterns = st.tuples(
        st.sampled_from(["a+b", "^b", "a.b", "[^a]$", "K|a"]), st.sampled_from(["", "i", "ms"])
    )
    return st.one_of(
        atom(FIELDS, text_ops + [op + CASED for op in text_ops], SOME),
        atom(NAMED, ["wild", "wild" + CASED], parts.map(tuple)),
        atom(NAMED, ["re"], patterns),
        atom(NAMED, ["num"], st.lists(NUMBERS, min_size=1, max_size=2).map(tuple)),
        atom(NAMED, ["lt", "lte", "gt", "gte"], NUMBERS),
        atom(NAMED, ["exists"], st.booleans()),
        atom(NAMED, ["null"], st.none()),
        atom(NAMED, ["cidr"], st.just(("10.0.0.0/8", "::/1"))),
        atom(NAMED, ["fieldref"], st.tuples(NAMED, st.sampled_from(text_ops))),
    )


CONDITIONS = st.recursive(
    _atoms(),
    lambda inner: st.one_of(
        st.lists(inner, min_size=2, max_size=3).map(lambda parts: ("and", *parts)),
        st.lists(inner, min_size=2, max_size=3).map(lambda parts: ("or", *parts)),
        inner.map(lambda part: ("not", part)),
        inner.map(lambda part: ("sel", "s", part)),
    ),
    max_leaves=6,
)

TEXTS = st.one_of(
    st.text(LETTERS + "10", max_size=8), st.sampled_from(["10", "10.1.2.3", "a" * 2000, "ab" * 700 + "K"])
)
EVENTS = st.builds(
    lambda fields, truncated: event(truncated=truncated, values=fields),
    st.fixed_dictionaries(
        {},
        optional={
            "CommandLine": TEXTS,
            "Image": st.one_of(TEXTS, st.integers(0, 11), st.booleans(), st.none()),
            "Argv": st.one_of(
                st.lists(TEXTS, max_size=3).map(tuple),
                st.lists(TEXTS, min_size=1, max_size=3).map(lambda texts: tuple(texts * 40)),
            ),
        },
    ),
    st.lists(st.sampled_from(["CommandLine", "Image", "Argv"]), max_size=2),
)


def in_full(conditions: list[Expr], of: Event) -> tuple[tuple[int, bool], ...]:
    """What evaluating every rule on its own says."""
    verdicts = [compile_condition(condition, {})(Facts(of)) for condition in conditions]
    return tuple((place, verdict is None) for place, verdict in enumerate(verdicts) if verdict is not False)


@settings(max_examples=300, deadline=None)
@given(st.lists(CONDITIONS, min_size=1, max_size=6), st.lists(EVENTS, min_size=1, max_size=4))
def test_the_index_finds_what_evaluating_every_rule_finds(
    conditions: list[Expr], events: list[Event]
) -> None:
    plan = Plan(list(enumerate(conditions)))
    for one in [*events, *events]:  # a second time from memory
        assert plan.evaluate(one) == in_full(conditions, one)


@settings(max_examples=200, deadline=None)
@given(CONDITIONS, EVENTS)
def test_a_rule_is_false_where_one_of_its_guards_is(condition: Expr, of: Event) -> None:
    for _, atoms in find_guards(condition):
        if all(compile_condition(atom, {})(Facts(of)) is False for atom in atoms):
            assert compile_condition(condition, {})(Facts(of)) is False


def test_programs_of_every_day_are_no_good_guard() -> None:
    word = ("atom", "CommandLine", "contains", ("a rare word",))
    for program, field in (("/rare", "Image"), ("/sh", "CommandLine"), ("/usr/bin/python3", "CommandLine")):
        _, atoms = find_guards(("and", ("atom", "Image", "endswith", (program,)), word))[0]
        assert [atom[1] for atom in atoms] == [field]


def test_all_guards_of_a_rule_must_hold() -> None:
    shell = ("atom", "Image", "endswith", ("/sh",))
    plan = Plan(
        [(0, ("and", shell, ("atom", "Argv", "contains", ("needle",)), ("atom", "User", "eq", ("me",))))]
    )
    whole: dict[str, Value] = {"Image": "/bin/sh", "Argv": ("a needle",), "User": "me"}
    assert plan.evaluate(event(values=whole)) == ((0, False),)
    tried: list[Facts] = []
    plan._tests = [tried.append]
    for name in whole:
        assert plan.evaluate(event(values={**whole, name: "other"})) == ()
    assert not tried


def test_of_alternatives_the_second_guards_are_guards_too() -> None:
    ways = [
        ("and", ("atom", "Image", "endswith", (f"/{name}",)), ("atom", "Argv", "contains", (f"--{name}-it",)))
        for name in ("first", "second")
    ]
    guards = find_guards(("or", *ways))
    assert [{atom[1] for atom in atoms} for _, atoms in guards] == [{"Image"}, {"Argv"}]


def test_a_literal_found_in_one_element_of_a_list_is_found() -> None:
    atom = ("atom", "Argv", "contains", ("needle",))
    plan = Plan([(0, atom), (1, ("and", ("not", atom), ("atom", "Argv", "contains", ("hay",))))])
    assert plan.evaluate(event(Argv=("hay", "needle", "x"))) == ((0, False),)
    assert plan.evaluate(event(Argv=("hay", "x"))) == ((1, False),)
    assert plan.evaluate(event(Argv=("hay", "x"), truncated=["Argv"])) == ((0, True), (1, True))


def test_numbers_of_rules_are_kept() -> None:
    plan = Plan([(7, ("atom", "User", "eq", ("root",))), (3, ("atom", "User", "contains", ("oo",)))])
    assert plan.evaluate(event(User="root")) == ((7, False), (3, False))


def test_fields_that_no_rule_reads_do_not_matter_and_those_read_do() -> None:
    plan = Plan([(0, ("atom", "User", "eq", ("root",)))])
    assert plan.evaluate(event(User="root", ProcessId=1)) == ((0, False),)
    assert plan.evaluate(event(User="root", ProcessId=2)) == ((0, False),)
    assert plan.evaluate(event(User="me", ProcessId=2)) == ()
    assert plan.evaluate(event(User="ro", truncated=["User"])) == ((0, True),)


def test_long_values_are_not_kept() -> None:
    plan = Plan([(0, ("atom", "CommandLine", "contains", ("needle",)))])
    for i in range(100):
        assert plan.evaluate(event(CommandLine="x" * REMEMBERED_EVENT + str(i))) == ()
        assert plan.evaluate(event(CommandLine="x" * REMEMBERED_EVENT + f"needle{i}")) == ((0, False),)
    assert not plan._memory._young and not plan._memory._old


def test_memory_forgets_the_oldest_and_keeps_what_is_asked_for() -> None:
    memory = Memory(limit=4)
    memory.put("kept", 1)
    for i in range(20):
        memory.put(i, i)
        assert memory.get("kept") == 1
    assert memory.get(0) is None
    assert len(memory._young) + len(memory._old) <= 4
