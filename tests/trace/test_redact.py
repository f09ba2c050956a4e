"""Secrets are masked wherever they come, what detectors go by never is, and all of it is said."""

from __future__ import annotations

import base64
import json
import os
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agentwatch.schema import decode
from agentwatch.schema.decode import pack_notes
from agentwatch.schema.events import BY_NAME, PayloadFlag, Piece, Type
from agentwatch.sources.base import Batch, BatchKind, Round
from agentwatch.trace.redact import MAX_NOTED, Redactor
from tests.schema.records import raw

CORPUS = Path(os.environ.get("AGENTWATCH_CORPUS_DIR", Path(__file__).parents[3] / "shared" / "corpus"))
REDACT = Redactor()
KEY = "\n".join(
    [
        "-----BEGIN OPENSSH PRIVATE KEY-----",
        *["b3BlbnNzaC1rZXktdjEA" * 3] * 5,
        "-----END OPENSSH PRIVATE KEY-----",
    ]
)


def payload(data: bytes, *, sequence: int = 0, cookie: int = 5, flags: int = 0, slack: bytes = b"") -> bytes:
    fields = {"cookie": cookie, "sequence": sequence, "packet_length": len(data), "length": len(data)}
    return raw("payload", data=data + slack, flags=flags, **fields)


def piece(data: bytes, *, offset: int = 0, tid: int = 100, slack: bytes = b"") -> bytes:
    return raw("exec_piece", data=data + slack, tid=tid, offset=offset, length=len(data), kind=Piece.ARGV)


def records(*parts: bytes) -> Round:
    return (Batch(BatchKind.RECORDS, b"".join(parts)),)


def texts(batches: Round) -> list[bytes]:
    rows = decode.records(batches[0].data)
    return [
        decode.tail(row, decode.unpack(row)[-2 if row[decode.TYPE] == Type.EXEC_PIECE else -1])
        for row in rows
    ]


def in_payload(text: str) -> str:
    (found,) = texts(REDACT(records(payload(text.encode()))))
    return found.decode()


def in_arguments(*arguments: str) -> tuple[str, ...]:
    (found,) = texts(REDACT(records(piece("".join(f"{a}\0" for a in arguments).encode()))))
    assert found.endswith(b"\0")
    masked = tuple(found[:-1].decode().split("\0"))
    assert REDACT.command(arguments) == masked
    return masked


@pytest.mark.parametrize(
    ("before", "secret", "behind"),
    [
        ("GET / HTTP/1.1\r\nAuthorization: Bearer ", "abc.def-123=", "\r\nHost: h\r\n\r\n"),
        ("GET / HTTP/1.1\r\nproxy-authorization:basic ", "dXNlcjpwYXNz", "\r\n\r\n"),
        ("GET / HTTP/1.1\r\nCookie: ", "session=abc; other=d e f", "\r\n\r\n"),
        ("HTTP/1.1 200 OK\r\nSet-Cookie: ", "session=abc; Path=/", "\r\n\r\n"),
        ("GET / HTTP/1.1\r\nX-Api-Key: ", "0123456789", "\r\n\r\n"),
        ("GET /v1?a=1&access_token=", "0123456789", "&b=2 HTTP/1.1\r\n\r\n"),
        ('{"user": "me", "password": "', "hunter22", '"}'),
        ('{"client_secret":"', "hunter22", '"}'),
        ("remote: https://me:", "hunter22", "@git.example/repo.git"),
        ('{"headers": {"Authorization": "Bearer ', "0123456789", '"}}'),
        ("id ", "AKIAIOSFODNN7EXAMPLE", " used"),
        ("got ", "ghp_0123456789abcdefghijABCDEFGHIJ012345", "\n"),
        ("got ", "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxIn0aaaa.c2ln", "\n"),
    ],
)
def test_secrets_in_payloads(before: str, secret: str, behind: str) -> None:
    assert in_payload(before + secret + behind) == before + "*" * len(secret) + behind


def test_lines_of_a_private_key_and_nothing_else_of_it() -> None:
    masked = in_payload(f"before\n{KEY}\nafter the key {'x' * 40}")
    lines = masked.split("\n")
    assert lines[0] == "before" and lines[-1] == f"after the key {'x' * 40}"
    assert lines[2:-2] == ["*" * 60] * 5
    assert "b3Blb" not in in_payload(KEY[:200])  # the end is not there


@pytest.mark.parametrize(
    ("arguments", "secret"),
    [
        (["curl", "-s", "-H", "Authorization: Bearer SECRET", "https://api.example"], "Bearer SECRET"),
        (["curl", "-HX-Api-Key: SECRET"], "SECRET"),
        (["/usr/bin/curl", "-s", "-u", "me:SECRET", "https://api.example"], "SECRET"),
        (["sh", "-c", "curl -H 'Authorization: Bearer SECRET' https://api.example"], "Bearer SECRET"),
        (["echo", "Authorization: Basic SECRETSECRET"], "SECRETSECRET"),
        (["python3", "-c", "send(b'GET /\\r\\nAuthorization: Bearer SECRETSECRET\\r\\n')"], "SECRETSECRET"),
        (["git", "clone", "https://me:SECRET@git.example/x"], "SECRET"),
        (["mysql", "--password=SECRET"], "SECRET"),
        (["env", "PGPASSWORD=SECRET", "psql"], "SECRET"),
        (["tool", "--api-key", "SECRET", "run"], "SECRET"),
        (["sshpass", "-p", "SECRET", "ssh", "h"], "SECRET"),
        (["sh", "-c", "API_TOKEN=SECRET tool"], "SECRET"),
    ],
)
def test_secrets_in_arguments(arguments: list[str], secret: str) -> None:
    expected = tuple(argument.replace(secret, "*" * len(secret)) for argument in arguments)
    assert in_arguments(*arguments) == expected


@pytest.mark.parametrize(
    "arguments",
    [
        ["ssh", "-R", "password=x:8080:localhost:80", "h"],
        ["ssh", "-R", "token:8080:localhost:80", "h"],
        ["ssh", "-R", "authorization: 8080:localhost:80", "h"],
        ["ssh", "--password", "-R", "8080:localhost:80", "h"],
        ["ssh", "-oRemoteForward=8080 localhost:80", "h"],
        ["sshpass", "-e", "ssh", "-R", "8080:localhost:80", "h"],
    ],
)
def test_a_forwarding_cannot_be_hidden(arguments: list[str]) -> None:
    masked = in_arguments(*arguments)
    assert [m.split(":", 1)[1:] for m in masked] == [a.split(":", 1)[1:] for a in arguments]
    assert "-R" not in arguments or "-R" in masked


@pytest.mark.parametrize(
    "text",
    [
        '{"id":1,"method":"mining.subscribe","params":["token=x"]}\n',
        '{"id":1,"method":"login","params":{"login":"4A","pass":"x","agent":"XMRig/6"}}\n',
        "GET /?token= HTTP/1.1\r\nHost: h\r\n\r\n",
        "GET /cookie: a HTTP/1.1\r\n\r\n",
        "GET /authorization: Basic HTTP/1.1\r\n\r\n",
        "GET /authorization: Basic HTTP/1.1\r\n\r\n",
        "POST /bearer HTTP/1.1\r\n\r\n",
        "Authorization: HTTP/1.1\r\n",
        "SSH-2.0-OpenSSH_9.2\r\n",
        '-----BEGIN PRIVATE KEY-----\nPOST /getwork HTTP/1.1\r\n\r\n{"method":"getblocktemplate"}',
        'Authorization: {"method":"mining.subscribe"}',
        'x\r\nCookie: {"id":1,"method":"mining.submit","params":[]}',
    ],
)
def test_what_protocols_are_known_by_is_left(text: str) -> None:
    assert in_payload(text) == text


@pytest.mark.parametrize("name", ["payloads_stratum", "payloads_benign"])
def test_corpus_keeps_its_methods_and_lines(name: str) -> None:
    path = CORPUS / f"{name}.jsonl"
    if not path.exists():
        pytest.skip("no corpus: set AGENTWATCH_CORPUS_DIR")
    for line in path.read_text().splitlines():
        data = base64.b64decode(json.loads(line)["payload_b64"])
        (masked,) = texts(REDACT(records(payload(data))))
        assert len(masked) == len(data)
        if name == "payloads_stratum" and masked != data:
            for word in (b"method", b"mining.", b"login", b"submit", b"eth_", b"HTTP/1"):
                assert masked.count(word) == data.count(word), (data, masked)


def test_what_segments_and_pieces_divide_is_found() -> None:
    text = b"GET / HTTP/1.1\r\nAuthorization: Bearer abcdefgh\r\n\r\n"
    parts = [payload(text[n : n + 1], sequence=1000 + n) for n in range(len(text))]
    others = [payload(b"y", sequence=n, cookie=6, flags=PayloadFlag.IN) for n in range(len(text))]
    mixed = [part for pair in zip(parts, others, strict=True) for part in pair]
    masked = texts(REDACT(records(*mixed)))
    assert b"".join(masked[::2]) == text.replace(b"abcdefgh", b"*" * 8)
    assert b"".join(masked[1::2]) == b"y" * len(text)
    argv = b"tool\0--password=abcdefgh\0"
    pieces = [piece(argv[:20], tid=7), piece(b"other\0", tid=8), piece(argv[20:], offset=20, tid=7)]
    masked = texts(REDACT(records(*pieces)))
    assert masked[0] + masked[2] == argv.replace(b"abcdefgh", b"*" * 8) and masked[1] == b"other\0"


def test_what_lay_in_the_ring_before_is_cleared() -> None:
    discarded = bytearray(payload(b"left over"))
    discarded[3] |= 0x40
    parts = payload(b"new", slack=b"old secret"), piece(b"a\0", slack=b"old secret"), bytes(discarded)
    (batch,) = REDACT(records(*parts))
    assert b"old secret" not in batch.data and b"left over" not in batch.data
    assert len(batch.data) == sum(map(len, parts))
    assert texts((batch,)) == [b"new", b"a\0"]


def test_each_place_is_noted() -> None:
    data = payload(b'{"password":"hunter22","token":"abcdef"}')
    before = (Batch(BatchKind.SLOTS, raw("exit")), *records(payload(b"plain"), data))
    *after, noted = REDACT(before)
    assert after[0] == before[0]
    rows = decode.notes(noted.data)
    assert [row[decode.TYPE] for row in rows] == [Type.REDACTED] * 2
    for row, secret in zip(rows, (b"hunter22", b"abcdef"), strict=True):
        place, offset, length, reason = decode.unpack(row)
        assert before[place].data[offset : offset + length] == secret
        assert after[place].data[offset : offset + length] == b"*" * len(secret)
        assert reason == "key in JSON"
        assert (row[decode.TIME], row[decode.TGID], row[decode.START]) == (1, 100, 7)


def test_many_places_are_summed_up() -> None:
    *_, noted = REDACT(records(payload(b'"token":"abcdef"' * 1000)))
    rows = decode.notes(noted.data)
    assert len(rows) == MAX_NOTED + 1
    assert decode.unpack(rows[-1])[2:] == (6 * (1000 - MAX_NOTED), f"{1000 - MAX_NOTED} more secrets")


def test_notes_are_masked_too() -> None:
    empty: dict[str, object] = {"str": "", "strs": (), "bytes": b""}
    told = {f.name: empty.get(f.type, 0) for f in BY_NAME["process"].fields}
    told["argv"] = ("x", "--token=abcdef", "\u00fc")
    process = (int(Type.PROCESS), 5, 1, 9, 8, *told.values())
    file = (int(Type.FILE), 6, 1, 9, 8, "/root/.ssh/id", KEY.encode(), "")
    first, second = REDACT((Batch(BatchKind.NOTES, pack_notes([process, file])),))
    rows = decode.notes(first.data)
    assert decode.unpack(rows[0])[list(told).index("argv")] == ("x", "--token=******", "\u00fc")
    assert b"b3Blb" not in decode.unpack(rows[1])[1]
    assert len(decode.notes(second.data)) == 6


def test_a_round_without_secrets_has_no_notes() -> None:
    batches = (Batch(BatchKind.SLOTS, raw("exit")), *records(payload(b"GET / HTTP/1.1\r\n\r\n")))
    assert REDACT(batches) == batches
    assert REDACT(()) == ()
    assert REDACT.command([]) == ()


_WORDS = st.sampled_from(
    [b"authorization: ", b"Bearer ", b"token=", b'"password":"', b"-----BEGIN PRIVATE KEY-----",
     b"curl\0-u\0a:", b"x" * 40, b"\0", b"\r\n", b"https://a:b@c", b"AKIAIOSFODNN7EXAMPLE"]
)  # fmt: skip
_TEXT = st.lists(_WORDS | st.binary(max_size=8), max_size=8).map(b"".join)
_RECORD = st.one_of(
    st.builds(payload, _TEXT, sequence=st.integers(0, 50), slack=st.binary(max_size=9)),
    st.builds(piece, _TEXT, offset=st.integers(0, 50), slack=st.binary(max_size=9)),
)


@given(st.lists(_RECORD | st.binary(max_size=80), max_size=6), st.binary(max_size=60))
@settings(deadline=None)
def test_any_bytes(parts: list[bytes], notes: bytes) -> None:
    before = (*records(*parts), Batch(BatchKind.NOTES, notes), Batch(BatchKind.SLOTS, notes))
    after = REDACT(before)
    assert [len(batch.data) for batch in after[::2][:2]] == [len(batch.data) for batch in before[::2]]
    assert after[1:3] == before[1:]
    for batch in after[3:]:
        for row in decode.notes(batch.data):
            place, offset, length, _ = decode.unpack(row)
            assert place == 0 and offset + length <= len(before[0].data)


@given(st.lists(_TEXT, max_size=4))
@settings(deadline=None)
def test_one_pass_over_all_finds_what_passes_over_each_find(many: list[bytes]) -> None:
    alone = [text for one in many for text in texts(REDACT(records(payload(one))))]
    assert texts(REDACT(records(*(payload(one, cookie=n) for n, one in enumerate(many))))) == alone
    alone = [text for one in many for text in texts(REDACT(records(piece(one))))]
    assert texts(REDACT(records(*(piece(one, tid=n) for n, one in enumerate(many))))) == alone
