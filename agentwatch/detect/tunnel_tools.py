"""Tunnel tools by the marks of their own protocols, never by port or program.

What these marks are is documented by the tools' own sources; a name asked for (SNI, DNS, Host) is
no proof and left to rules. Every finding has the tool as `Protocol`, `Behaviour` `tunnel_tool`,
and in `Method` the mark that told it.
"""

from __future__ import annotations

import base64
import re
from typing import Final

from agentwatch.detect.layer import Context
from agentwatch.event import Value

TOOL_BY_ALPN: Final = {
    "argotunnel": "cloudflared",
    "frp": "frp",
    "teleport-reversetunnel": "teleport",
    "teleport-reversetunnelv2": "teleport",
    "ziti-edge": "openziti",
}
"""Protocols that a tool names inside TLS and QUIC (ALPN)."""

TOOL_BY_UPGRADE: Final = {"derp": "tailscale", "tailscale-control-protocol": "tailscale"}
"""Values of HTTP's Upgrade header, lower-cased."""

_BY_SUBPROTOCOL: Final = (
    (re.compile(r"chisel-v\d+"), "chisel"),
    (re.compile(r"tunnel-relay-(host|client)[a-z0-9-]*"), "devtunnel"),
)
_FRP_PATH: Final = "/~!frp"
_BEARER: Final = "authorization.bearer."


def emit_tool(context: Context, tool: str, method: str, **attributes: Value) -> None:
    """Reports a tool by its mark."""
    context.emit(tool, Behaviour="tunnel_tool", Method=method, **attributes)


def of_upgrade(upgrade: str, path: str, subprotocols: str) -> tuple[str, str] | None:
    """The tool that asks for this upgrade of an HTTP connection, and its mark; None for others.

    `upgrade`: the Upgrade header, lower-cased; `subprotocols`: Sec-WebSocket-Protocol.
    """
    if upgrade in TOOL_BY_UPGRADE:
        return TOOL_BY_UPGRADE[upgrade], f"Upgrade {upgrade}"
    if upgrade != "websocket":
        return None
    names = [name.strip() for name in subprotocols.split(",")]
    for pattern, tool in _BY_SUBPROTOCOL:
        for name in names:
            if pattern.fullmatch(name):
                return tool, f"subprotocol {name}"
    if any(name.startswith(_BEARER) and _is_wstunnels(name[len(_BEARER) :]) for name in names):
        return "wstunnel", "subprotocol authorization.bearer"
    if path == _FRP_PATH:
        return "frp", f"path {_FRP_PATH}"
    return None


def _is_wstunnels(token: str) -> bool:
    """Whether a JWT claims what wstunnel's do: an id, a protocol `p`, the remote side `r` and `rp`.

    The token may be cut after its beginning.
    """
    _, _, claims = token.partition(".")
    claims = claims.partition(".")[0]
    try:
        clear = base64.urlsafe_b64decode(claims[: len(claims) & ~3])
    except ValueError:
        return False
    return clear.startswith(b'{"id":"') and b'"p":' in clear
