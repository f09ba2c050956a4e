"""Work beside other work gives its result, or its error, once all of it has ended."""

from __future__ import annotations

import threading

import pytest

from agentwatch.kernel.background import Background, results


def test_results_stand_in_the_order_of_the_works() -> None:
    assert results([Background(lambda: 1), Background(lambda: 2)]) == [1, 2]


def test_of_several_errors_the_first_is_raised_when_all_have_ended() -> None:
    go, ended = threading.Event(), threading.Event()

    def late() -> None:
        go.wait(10)
        ended.set()
        raise ValueError("second")

    def early() -> None:
        go.set()
        raise ValueError("first")

    with pytest.raises(ValueError, match="first"):
        results([Background(early), Background(late)])
    assert ended.is_set()
