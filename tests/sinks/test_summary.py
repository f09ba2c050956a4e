from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from agentwatch.sinks.summary import facts, headline
from tests.sinks.samples import alert


def test_a_headline_says_what_who_where_and_what_was_done() -> None:
    assert headline(alert(5)) == (
        "Stratum handshake: python3[4005] of agent job, stratum to pool.test (pause)"
    )


def test_what_was_only_advised_is_told_as_such() -> None:
    made = {**alert(5), "acted": "none", "flow": None}
    assert headline(made) == "Stratum handshake: python3[4005] of agent job (pause advised)"
    assert "remote" not in facts(made)


@given(st.text(), st.text())
def test_nothing_an_agent_wrote_can_act_on_a_terminal(exe: str, cmdline: str) -> None:
    made = alert(0, exe=exe, cmdline=cmdline)
    for text in (headline(made), *facts(made).values()):
        assert text.isprintable()
        assert len(text) < 1200
