"""Stratum in its JSON dialects, and Stratum v2's opening: what one message of a flow says.

Decided by the structure of a decoded message, never by words in it: agents speak JSON-RPC all
day, and prompts, tool arguments and logs quote mining protocols. Sources: BIP 310 and the
original Stratum for `mining.*`, ZIP 301 (Zcash), EIP-1571 (EthereumStratum 2), NiceHash's
EthereumStratum 1, EthProxy's `eth_*`, xmrig's STRATUM.md (CryptoNote), and the miners' own code
for Beam, Grin, Iron Fish, Kaspa, Nimiq and Xelis; BIP 22/23 for getblocktemplate.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from dataclasses import dataclass

from agentwatch.detect.json_stream import Json

VOCABULARY = frozenset(
    """addr address agent algo algos api_key blob body capabilities deviceid difficulty edge_bits
    genesishash height id input job job_id login message method mode nonce nonceprefix output params
    pass pow pre_pow publicaddress result rigid seed_hash status target wallet_address work""".split()
)
"""Names of members that decide, case-folded."""

CLIENT, SERVER = "client", "server"

_FROM_CLIENT = frozenset(
    f"mining.{name}"
    for name in (
        "authorize bye capabilities configure extranonce.subscribe extranonce hashrate hello multi_version noop "
        "submit subscribe suggest_difficulty suggest_target get_transactions"
    ).split()
)
_FROM_SERVER = frozenset(
    f"mining.{name}"
    for name in "notify set set_difficulty set_extranonce set_target set_version_mask ping submitted".split()
)
_ETHPROXY = frozenset(("eth_getWork", "eth_submitHashrate", "eth_submitLogin", "eth_submitWork"))
_SOLO = frozenset(("getblocktemplate", "getwork", "submitblock"))
_V2_FRAME = struct.Struct("<HB3sBHHI")  # extension, message, length (u24), protocol, versions, flags


@dataclass(frozen=True, slots=True)
class Verdict:
    """A message of a mining protocol: its dialect, its method, which side sends such, who it says it is."""

    dialect: str
    method: str
    sender: str
    software: str = ""


def classify(message: Mapping[str, Json]) -> Verdict | None:
    """What a decoded message (names case-folded, pruned to VOCABULARY) is, if it is mining."""
    method = message.get("method")
    if isinstance(method, str):
        return _request(method, message)
    if message.get("message") == "register" and "address" in message:
        if {"deviceid", "genesishash"} & message.keys():
            return Verdict("nimiq", "register", CLIENT)
        return None
    return _reply(message)


def _request(method: str, message: Mapping[str, Json]) -> Verdict | None:
    params = message.get("params")
    if method.startswith("mining."):
        return _mining(method, message)
    if method in _ETHPROXY:
        return Verdict("ethproxy", method, CLIENT)
    if method in _SOLO:
        return Verdict("getblocktemplate", method, CLIENT)
    if method == "set_extranonce" and isinstance(params, list) and params and isinstance(params[0], str):
        return Verdict("kaspa", method, SERVER)
    fields = params if isinstance(params, dict) else {}
    return _cryptonote(method, fields) or _beam_or_grin(method, message, fields)


def _mining(method: str, message: Mapping[str, Json]) -> Verdict | None:
    if method not in _FROM_CLIENT and method not in _FROM_SERVER:
        return None
    sender = CLIENT if method in _FROM_CLIENT else SERVER
    body, params = message.get("body"), message.get("params")
    if isinstance(body, dict):
        return Verdict("ironfish", method, sender, _text(body.get("agent")))
    words = [word for word in params if isinstance(word, str)] if isinstance(params, list) else []
    software = words[0] if method == "mining.subscribe" and words else ""
    if any(word.startswith("EthereumStratum/1") for word in words):
        return Verdict("ethereumstratum-1", method, sender, software)
    if method in ("mining.hello", "mining.noop", "mining.bye", "mining.set"):
        return Verdict("ethereumstratum-2", method, sender, software)
    if any(word.startswith("kaspa:") for word in words):
        return Verdict("kaspa", method, sender, software)
    return Verdict("stratum-1", method, sender, software)


def _cryptonote(method: str, params: Mapping[str, Json]) -> Verdict | None:
    if method == "login" and isinstance(params.get("login"), str):
        if {"agent", "algo", "rigid"} & params.keys():
            return Verdict("cryptonote", method, CLIENT, _text(params.get("agent")))
        return None
    if method == "submit" and {"nonce", "job_id", "result"} <= params.keys():
        return Verdict("cryptonote", method, CLIENT)
    if method == "job" and {"blob", "seed_hash"} & params.keys():
        return Verdict("cryptonote", method, SERVER)
    if method == "keepalived" and "id" in params:
        return Verdict("cryptonote", method, CLIENT)
    return None


def _beam_or_grin(method: str, message: Mapping[str, Json], params: Mapping[str, Json]) -> Verdict | None:
    if method == "login" and "api_key" in message:
        return Verdict("beam", method, CLIENT)
    if method == "solution" and {"nonce", "output"} <= message.keys():
        return Verdict("beam", method, CLIENT)
    if method == "job" and {"input", "difficulty"} <= message.keys():
        return Verdict("beam", method, SERVER)
    if method == "getjobtemplate":
        return Verdict("grin", method, CLIENT)
    if method == "submit" and {"edge_bits", "nonce", "pow"} <= params.keys():
        return Verdict("grin", method, CLIENT)
    if method == "job" and "pre_pow" in params:
        return Verdict("grin", method, SERVER)
    return None


def _reply(message: Mapping[str, Json]) -> Verdict | None:
    """A server's answer: it has no method, so its result must speak for itself."""
    result = message.get("result")
    if isinstance(result, dict):
        job = result.get("job")
        if isinstance(job, dict) and {"blob", "seed_hash"} & job.keys():
            return Verdict("cryptonote", "login", SERVER)
        if result.get("status") == "KEEPALIVED":
            return Verdict("cryptonote", "keepalived", SERVER)
    if isinstance(result, list) and result and isinstance(result[0], list):
        # The answer to mining.subscribe lists the subscriptions it made.
        names = [item[0] for item in result[0] if isinstance(item, list) and item] + result[0][:1]
        if "mining.notify" in names:
            return Verdict("stratum-1", "mining.subscribe", SERVER)
    return None


def xatum(data: bytes) -> Verdict | None:
    """Xelis' Xatum: `method~json`, one message a line; decided by its opening `shake~{"addr"`."""
    if data.startswith(b"shake~{") and b'"addr"' in data and b'"algos"' in data:
        return Verdict("xelis", "shake", CLIENT)
    return None


def version_2(data: bytes) -> Verdict | None:
    """A Stratum v2 SetupConnection in the clear (sv2 specification, sections 3.2 and 3.5.1)."""
    if len(data) < _V2_FRAME.size + 2:
        return None
    extension, kind, length, protocol, lowest, highest, _ = _V2_FRAME.unpack_from(data)
    host_length = data[_V2_FRAME.size]
    host = data[_V2_FRAME.size + 1 : _V2_FRAME.size + 1 + host_length]
    if extension or kind or protocol > 2 or not 2 <= lowest <= highest <= 16:
        return None
    if int.from_bytes(length, "little") < 13 + host_length or not host.isascii() or b"." not in host:
        return None
    return Verdict("sv2", "SetupConnection", CLIENT)


NOISE_CLIENT, NOISE_SERVER = 64, 234
"""Bytes of the first message of each side in Stratum v2's Noise NX handshake (ElligatorSwift)."""


def looks_random(data: bytes) -> bool:
    """Whether bytes could be a Noise message: most values differ and none of it is text."""
    return len(set(data)) > len(data) * 0.7 if len(data) <= 64 else len(set(data)) > 120


def _text(value: Json) -> str:
    return value if isinstance(value, str) else ""
