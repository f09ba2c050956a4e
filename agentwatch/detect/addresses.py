"""Which addresses are this machine's or its network's, and which are outside."""

from __future__ import annotations

from functools import lru_cache
from ipaddress import IPv6Address, ip_address, ip_network
from typing import Final

ADDRESSES_KEPT: Final = 4096  # addresses whose answer is remembered

_INSIDE: Final = tuple(
    ip_network(network)
    for network in (
        *("0.0.0.0/8", "10.0.0.0/8", "100.64.0.0/10", "127.0.0.0/8", "169.254.0.0/16", "172.16.0.0/12"),
        *("192.168.0.0/16", "::/127", "fc00::/7", "fe80::/10"),
    )
)


@lru_cache(maxsize=ADDRESSES_KEPT)
def is_inside(address: str) -> bool:
    """Whether an address is this machine's or its network's: loopback, private, shared, link-local."""
    try:
        ip = ip_address(address)
    except ValueError:
        return False
    if isinstance(ip, IPv6Address) and ip.ipv4_mapped is not None:
        ip = ip.ipv4_mapped
    return any(ip in network for network in _INSIDE)


def is_loopback(address: str) -> bool:
    """Whether an address is this machine's own."""
    return address.startswith("127.") or address == "::1"
