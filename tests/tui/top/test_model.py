"""Rates from one look to the next, and values for people."""

from __future__ import annotations

from agentwatch.tui.top.model import (
    Listing,
    Meter,
    Row,
    many,
    nanoseconds,
    percent,
    size,
    sparkline,
    speed,
    words,
)

BEGIN = {"name": "job", "cpu_us": 0, "bytes_out": 100, "bytes_in": 0}
LATER = {"name": "job", "cpu_us": 3_000_000, "bytes_out": 2100, "bytes_in": 0}


def test_rates_are_what_changed_in_a_second() -> None:
    meter = Meter()
    meter.look("2026-01-01T00:00:00.000000000Z", [BEGIN])
    assert meter.rates["job"].cpu is None
    meter.look("2026-01-01T00:00:02.000000000Z", [LATER])
    rates = meter.rates["job"]
    assert (rates.cpu, rates.out, rates.inward) == (150.0, 1000.0, 0.0)
    assert list(rates.history) == [150.0]


def test_flows_that_are_forgotten_make_no_rate_below_zero() -> None:
    meter = Meter()
    meter.look("2026-01-01T00:00:00.000000000Z", [LATER])
    meter.look("2026-01-01T00:00:01.000000000Z", [{**LATER, "bytes_out": 0}])
    assert meter.rates["job"].out == 0.0


def test_a_recording_that_is_moved_back_begins_anew_and_who_is_gone_is_forgotten() -> None:
    meter = Meter()
    meter.look("2026-01-01T00:00:05.000000000Z", [LATER])
    meter.look("2026-01-01T00:00:01.000000000Z", [BEGIN])
    meter.look("2026-01-01T00:00:03.000000000Z", [LATER])
    assert meter.rates["job"].cpu == 150.0
    meter.look("2026-01-01T00:00:04.000000000Z", [])
    assert meter.rates == {}


def test_values_for_people() -> None:
    assert (size(None), size(2048), speed(None), speed(10.0)) == ("-", "2.0 kB", "-", "10 B/s")
    assert (percent(None), percent(99.6)) == ("-", "100 %")
    assert sparkline([0, 50, 100], 8, 100.0) == "▁▅█"
    assert sparkline([0, 400], 1, 100.0) == "█"
    assert (many(1, "process"), many(2, "process"), many(1000, "alert")) == (
        "1 process",
        "2 processes",
        "1,000 alerts",
    )
    assert words(["a", None, {"b": 1}]) == "a  -  b=1"
    assert nanoseconds("1970-01-01T00:00:01.000000005Z") == 1_000_000_005


def test_rows_are_made_when_one_looks_at_them_and_once() -> None:
    made: list[str] = []

    def make(key: str, item: int) -> Row:
        made.append(key)
        return Row(key, "job", (), {"Number": item}, {})

    rows = Listing(((str(number), number) for number in range(10_000)), make)
    assert (len(rows), rows.place("9999"), rows.place("x"), made) == (10_000, 9999, None, [])
    assert rows[7].fields == {"Number": 7} and rows[7].key == "7"
    assert made == ["7"]
    few = rows.where(lambda fields: fields["Number"] > 9997)
    assert [few[place].key for place in range(len(few))] == ["9998", "9999"]
    assert few.place("9999") == 1
