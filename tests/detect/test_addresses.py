"""What is inside and what is outside."""

from __future__ import annotations

import pytest

from agentwatch.detect.addresses import is_inside, is_loopback


@pytest.mark.parametrize(
    "address", ["127.0.0.1", "10.1.2.3", "192.168.0.1", "100.64.0.1", "::1", "fd00::1", "::ffff:10.0.0.1"]
)
def test_inside(address: str) -> None:
    assert is_inside(address)


@pytest.mark.parametrize("address", ["198.51.100.1", "8.8.8.8", "2001:db8::1", "", "x"])
def test_outside(address: str) -> None:
    assert not is_inside(address)


def test_loopback() -> None:
    assert is_loopback("127.0.0.53") and is_loopback("::1") and not is_loopback("10.0.0.1")
