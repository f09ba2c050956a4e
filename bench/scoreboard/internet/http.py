"""The web: pages, scripts to download, the metadata service, a model's API, a coin's daemon."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from dataclasses import dataclass

from bench.scoreboard.internet import pool
from bench.scoreboard.internet.stream import Stream
from bench.scoreboard.internet.websocket import Frames

HEAD_LIMIT = 65536
BODY_LIMIT = 64 << 20
_REQUEST = re.compile(rb"[A-Z]{3,10} \S+ HTTP/1\.[01]\r?\n")
_WEBSOCKET_GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"  # RFC 6455, section 1.3
SCRIPT = b"#!/bin/sh\n# A script of the scoreboard: does nothing.\necho hello from a script\n"
TOKEN = {"Code": "Success", "AccessKeyId": "ASIAEXAMPLE", "SecretAccessKey": "none", "Token": "none"}
COMPLETION = {"choices": [{"message": {"role": "assistant", "content": "Hello."}}], "usage": {}}


@dataclass(frozen=True)
class Request:
    """A request: `headers` by name in small letters, `body` as it came."""

    method: str
    path: str
    headers: dict[str, str]
    body: bytes


def begins_request(data: bytes) -> bool:
    """Whether these are the first bytes of HTTP/1."""
    return _REQUEST.match(data) is not None


def read_head(stream: Stream) -> bytes:
    """Everything up to the blank line; what follows stays."""
    data = b""
    while b"\r\n\r\n" not in data:
        more = stream.read()
        if not more or len(data) > HEAD_LIMIT:
            return b""
        data += more
    head, _, rest = data.partition(b"\r\n\r\n")
    stream.unread(rest)
    return head


def _read_request(stream: Stream) -> Request | None:
    head = read_head(stream).decode("latin-1")
    if not head:
        return None
    line, *lines = head.split("\r\n")
    method, path, *_ = [*line.split(" "), "", ""]
    headers = {
        name.strip().lower(): value.strip() for name, _, value in (one.partition(":") for one in lines)
    }
    if headers.get("expect", "").lower() == "100-continue":
        stream.write(b"HTTP/1.1 100 Continue\r\n\r\n")
    size = headers.get("content-length", "0")
    wanted = min(int(size), BODY_LIMIT) if size.isdecimal() else 0
    body = bytearray()
    while len(body) < wanted and (data := stream.read()):
        body += data
    stream.unread(bytes(body[wanted:]))
    return Request(method, path, headers, bytes(body[:wanted]))


def serve(stream: Stream) -> Stream | None:
    """Answer until the client leaves; the stream inside, if it upgrades to WebSocket."""
    while (request := _read_request(stream)) is not None:
        if request.headers.get("upgrade", "").lower() == "websocket":
            return _upgrade(stream, request)
        kind, body = _page(request)
        head = f"HTTP/1.1 200 OK\r\nContent-Type: {kind}\r\nContent-Length: {len(body)}\r\n\r\n"
        stream.write(head.encode() + (b"" if request.method == "HEAD" else body))
        if request.headers.get("connection", "").lower() == "close":
            break
    return None


def _upgrade(stream: Stream, request: Request) -> Stream:
    key = request.headers.get("sec-websocket-key", "").encode()
    accept = base64.b64encode(hashlib.sha1(key + _WEBSOCKET_GUID).digest()).decode()
    lines = ["HTTP/1.1 101 Switching Protocols", "Upgrade: websocket", "Connection: Upgrade"]
    protocol = request.headers.get("sec-websocket-protocol", "").split(",")[0]
    lines += [f"Sec-WebSocket-Accept: {accept}"]
    lines += [f"Sec-WebSocket-Protocol: {protocol}"] if protocol else []
    stream.write("\r\n".join([*lines, "", ""]).encode())
    return Stream(Frames(stream))


def _page(request: Request) -> tuple[str, bytes]:
    """Content type and content of what was asked for."""
    called = _method_called(request.body)
    if called is not None and (answer := pool.answer(called)) is not None:
        return "application/json", json.dumps(answer).encode()
    if "security-credentials" in request.path or "/token" in request.path:
        return "application/json", json.dumps(TOKEN).encode()
    if request.path.startswith("/v1/"):
        return "application/json", json.dumps(COMPLETION).encode()
    if request.path.rstrip("/") == "":
        return "text/plain", b"The answer is 42.\n"
    return "text/x-shellscript", SCRIPT


def _method_called(body: bytes) -> dict[str, object] | None:
    try:
        message = json.loads(body)
    except ValueError:
        return None
    return message if isinstance(message, dict) and isinstance(message.get("method"), str) else None
