"""Which services a command finds at its own loopback."""

from __future__ import annotations

import pytest

from bench.scoreboard.network import LOCAL_PORTS, local_ports


@pytest.mark.parametrize(
    ("script", "ports"),
    [
        ("ssh -R 9001:localhost:8000 u@h", {8000}),
        ("socat TCP:203.0.113.5:4000 TCP:127.0.0.1:2200", {2200}),
        ("ssh -fNL 3333:198.51.100.10:3333 u@h; m --to 127.0.0.1:3333", set()),
        ("python3 -m http.server 8899 & curl http://127.0.0.1:8899/", set()),
        ("socat TCP-LISTEN:8080,fork TCP:127.0.0.1:80 & curl http://127.0.0.1:8080", {80}),
        ("curl http://[::1]:5000/ http://127.0.0.1:70000/", {5000}),
    ],
)
def test_ports_that_lead_somewhere_and_are_not_the_commands_own(script: str, ports: set[int]) -> None:
    assert local_ports(script) == LOCAL_PORTS | ports
