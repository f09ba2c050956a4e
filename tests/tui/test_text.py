"""Whatever an agent writes, what is printed is one harmless line."""

from __future__ import annotations

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentwatch.tui.text import byte_count, gpu_share, gpu_words, printable

ANY = st.text(alphabet=st.characters(codec=None, categories=None))


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("ssh -N -R 9000", "ssh -N -R 9000"),
        ("\x1b[2J\x07", "\\x1b[2J\\x07"),
        ("a\nb\tc", "a\\x0ab\\x09c"),
        ("\x9b31m", "\\x9b31m"),
        ("\u202egpj.exe", "\\u202egpj.exe"),
        ("pay\u200bpal", "pay\\u200bpal"),
        ("\U000e0041", "\\U000e0041"),
        ("\udc80", "\\udc80"),
        ("a\u00a0b", "a\\xa0b"),
        ("日本語 🦀 café", "日本語 🦀 café"),
        ("e\u0301", "é"),
        ("☎\ufe0f", "☎\\ufe0f"),
        ("x" + "\u0300" * 4, "x̀\u0300\\u0300\\u0300"),
        ("[red]x[/red] :bomb:", "[red]x[/red] :bomb:"),
    ],
)
def test_shows_what_it_is(text: str, shown: str) -> None:
    assert printable(text) == unicodedata.normalize("NFC", shown)


@given(ANY)
def test_nothing_hidden_is_left(text: str) -> None:
    shown = printable(text)
    assert all(unicodedata.category(c)[0] not in "CZ" or c == " " for c in shown)
    shown.encode()
    assert printable(shown, len(shown)) == shown


def test_cut_is_marked() -> None:
    assert printable("x" * 20, 8) == "x" * 8 + "…"
    assert printable("x" * 8, 8) == "x" * 8


@pytest.mark.parametrize(
    ("count", "words"),
    [
        (0, "0 B"),
        (999, "999 B"),
        (1000, "1.0 kB"),
        (9949, "9.9 kB"),
        (9950, "10 kB"),
        (999_499, "999 kB"),
        (999_500, "1.0 MB"),
        (2_100_000_000, "2.1 GB"),
        (10**22, "10000 EB"),
    ],
)
def test_byte_count(count: int, words: str) -> None:
    assert byte_count(count) == words


def test_use_of_gpus_in_words_and_in_a_cell() -> None:
    known = {"on": ["0", "1"], "percent": 97, "memory": 2 << 30}
    instance = {"on": ["1/0"], "percent": None, "memory": 1 << 30}
    assert (gpu_words(known), gpu_share(known)) == ("GPU 0,1: 97 %, 2.1 GB", "97 %")
    assert (gpu_words(instance), gpu_share(instance)) == ("GPU 1/0: 1.1 GB", "1.1 GB")
    assert (gpu_words(None), gpu_share(None)) == ("", "")
