"""A mining pool of all dialects, hashing nothing: every login is taken, every share is stale."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from bench.scoreboard.internet.stream import Stream

JOB_SECONDS = 0.7
_LINE_LIMIT = 65536
_HEX = "0" * 64
_NOTIFY = {
    "id": None,
    "method": "mining.notify",
    "params": ["1", _HEX, "", "", [], "20000000", "1d00ffff", "0", True],
}
_JOB = {
    "blob": "0" * 152,
    "job_id": "1",
    "target": "ffffffff",
    "seed_hash": _HEX,
    "height": 1,
    "algo": "rx/0",
}
_WORK = ["0x" + _HEX, "0x" + _HEX, "0x" + "f" * 64]
_TEMPLATE = {"version": 1, "previousblockhash": _HEX, "transactions": [], "bits": "1d00ffff", "height": 1}

RESULTS: Mapping[str, Any] = {
    "mining.subscribe": [[["mining.notify", "1"]], "00000001", 4],
    "mining.authorize": True,
    "mining.configure": {"version-rolling": True},
    "mining.hello": {"proto": "EthereumStratum/2.0.0", "node": "pool/1"},
    "mining.extranonce.subscribe": True,
    "login": {"id": "1", "job": _JOB, "status": "OK"},
    "keepalived": {"status": "KEEPALIVED"},
    "eth_submitLogin": True,
    "eth_getWork": _WORK,
    "eth_submitHashrate": True,
    "getblocktemplate": _TEMPLATE,
    "getwork": {"data": "0" * 256, "target": "f" * 64},
    "get_block_template": {"blocktemplate_blob": "0" * 152, "difficulty": 1, "height": 1, "status": "OK"},
}
_PUSHES: Mapping[str, Any] = {
    "mining.": _NOTIFY,
    "login": {"jsonrpc": "2.0", "method": "job", "params": _JOB},
    "eth_": {"jsonrpc": "2.0", "id": 0, "result": _WORK},
}

_XATUM_JOB = b'job~{"algo":"xel/v2","blob":"' + b"0a" * 112 + b'","diff":1000}\n'


def answer(request: Mapping[str, Any]) -> dict[str, Any] | None:
    """The answer to a request of one of the dialects; None for anything else."""
    method = str(request.get("method"))
    if method in RESULTS:
        return {"id": request.get("id"), "jsonrpc": "2.0", "result": RESULTS[method], "error": None}
    if "submit" in method:
        return {
            "id": request.get("id"),
            "jsonrpc": "2.0",
            "result": None,
            "error": [21, "Job not found", None],
        }
    return None


def serve(stream: Stream) -> None:
    """Answer each line, and push a job now and then once somebody has logged in.

    One thread reads and writes: a TLS connection is not for two.
    """
    pushes: list[dict[str, Any]] = []
    data = b""
    while len(data) < _LINE_LIMIT:
        if stream.peek(JOB_SECONDS) is None:
            for push in pushes:
                stream.write(json.dumps(push).encode() + b"\n")
            continue
        if not (more := stream.read()):
            break
        *lines, data = (data + more).split(b"\n")
        # Some write no line ends: WebSocket messages, nul-terminated JSON.
        if not lines and _messages(data):
            lines, data = [data], b""
        for line in lines:
            if line.startswith(b"shake~"):
                stream.write(_XATUM_JOB)
                continue
            for request in _messages(line):
                _reply(stream, request, pushes)


def _reply(stream: Stream, request: Mapping[str, Any], pushes: list[dict[str, Any]]) -> None:
    told = answer(request) or {"id": request.get("id"), "result": None, "error": [-3, "Unknown method", None]}
    stream.write(json.dumps(told).encode() + b"\n")
    method = str(request.get("method", ""))
    if not pushes:
        pushes += [push for name, push in _PUSHES.items() if method.startswith(name)]


def _messages(line: bytes) -> list[Mapping[str, Any]]:
    try:
        told = json.loads(line.strip(b" \t\r\n\0"))
    except ValueError:
        return []
    return [one for one in (told if isinstance(told, list) else [told]) if isinstance(one, dict)]
