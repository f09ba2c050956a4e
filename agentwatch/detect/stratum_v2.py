"""Stratum V2 (stratumprotocol.org specification): SetupConnection in the clear, and the Noise handshake."""

from __future__ import annotations

from typing import Final

from agentwatch.detect.finding import OUT, text
from agentwatch.detect.layer import Context

_HEADER: Final = 6  # extension type u16, message type u8, message length u24, little endian
_MAX_PAYLOAD: Final = 1200


def is_setup_connection(head: bytes) -> bool | None:
    """Whether a stream starts with SetupConnection; None if more bytes are needed to tell.

    Extension 0, type 0x00, then protocol (0 to 2), the range of versions (2 up to now), flags.
    """
    if len(head) < _HEADER + 5:
        return None if head.startswith(b"\0\0\0"[: len(head)]) else False
    length = int.from_bytes(head[3:6], "little")
    lowest, highest = int.from_bytes(head[7:9], "little"), int.from_bytes(head[9:11], "little")
    return (
        head[:3] == b"\0\0\0"
        and 16 <= length <= _MAX_PAYLOAD
        and head[6] <= 2
        and 2 <= lowest <= highest <= 8
    )


def is_setup_success(head: bytes) -> bool | None:
    """Whether a stream starts with SetupConnection.Success: type 0x01, length 6, version 2, flags."""
    if len(head) < 8:
        return None if _SUCCESS.startswith(head) else False
    return head.startswith(_SUCCESS)


_SUCCESS: Final = b"\0\0\x01\x06\0\0\x02\0"


class SetupSuccess:
    """A pool accepts. Seen first only where the miner's part was not captured."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self.finished = False

    def feed(self, direction: int, data: bytes, gap: bool, start: bool) -> None:
        if not self.finished:
            self.finished = True
            role = "server" if direction == OUT else "client"
            _emit(self._context, role, "SetupConnection.Success", "asked")


class SetupConnection:
    """Collects the message and takes the software out of it: four counted strings at its end.

    Reported with `Stage` `asked`, and with `answered` once the pool accepts or refuses.
    """

    def __init__(self, context: Context) -> None:
        self._context = context
        self._client: int | None = None
        self._message = b""
        self._answer = b""
        self._asked = False
        self.finished = False

    def feed(self, direction: int, data: bytes, gap: bool, start: bool) -> None:
        if self._client is None:
            self._client = direction
        if direction != self._client:
            self._read_answer(data, gap)
            return
        if self._asked:
            return
        if not gap:
            self._message += data[: _HEADER + _MAX_PAYLOAD]
        strings = _counted_strings(self._message)
        if gap or (strings is not None and len(strings) >= 5):
            self._asked = True
            self._report(direction, strings or [])

    def _read_answer(self, data: bytes, gap: bool) -> None:
        self._answer = (self._answer + data)[:_HEADER]
        if not self._asked or gap or not _ANSWER.startswith(self._answer[:2]):
            self.finished = True
        elif len(self._answer) == _HEADER:
            self.finished = True
            method = _ANSWERS.get(self._answer[2])
            if method is not None and self._client is not None:
                role = "client" if self._client == OUT else "server"
                _emit(self._context, role, method, "answered")

    def _report(self, direction: int, strings: list[bytes]) -> None:
        # endpoint_host, vendor, hardware_version, firmware, device_id
        software = b" ".join(part for part in strings[1:4] if part)
        role = "client" if direction == OUT else "server"
        _emit(self._context, role, "SetupConnection", "asked", text(software))


_ANSWER: Final = b"\0\0"
_ANSWERS: Final = {1: "SetupConnection.Success", 2: "SetupConnection.Error"}


def _emit(context: Context, role: str, method: str, stage: str, client: str = "") -> None:
    context.emit("stratum", role, Dialect="stratum-v2", Method=method, Client=client, Stage=stage)


def _counted_strings(message: bytes) -> list[bytes] | None:
    """The strings of SetupConnection as far as they came; None if the message ends before any."""
    length = int.from_bytes(message[3:6], "little")
    position = _HEADER + 9
    strings: list[bytes] = []
    while position < len(message) and len(strings) < 5:
        size = message[position]
        if position + 1 + size > min(len(message), _HEADER + length):
            break
        strings.append(message[position + 1 : position + 1 + size])
        position += 1 + size + (2 if len(strings) == 1 else 0)  # endpoint_port follows its host
    if len(message) >= _HEADER + length:  # complete, if malformed
        strings += [b""] * (5 - len(strings))
    return strings or None


_ACT_1: Final = 64  # an ElligatorSwift-encoded key
_ACT_2: Final = 234  # another, an encrypted static key, an encrypted certificate
_FRAME: Final = 22 + 22  # the encrypted header, and the least that SetupConnection encrypts to
_DISTINCT: Final = 40  # of 64 random bytes about 57 differ; fewer than 44 is a one in 10**8 event


class NoiseHandshake:
    """Recognises the handshake by its sizes: 64 bytes that look random, answered by 234.

    All bytes of the handshake are indistinguishable from random, so this is likelihood and not
    proof; `Confidence` says so. A client that sends more before the answer, or a server that
    answers in another length, is none.
    """

    def __init__(self, context: Context) -> None:
        self._context = context
        self._client: int | None = None
        self._acts = [b"", b""]  # client's, server's
        self.finished = False

    def feed(self, direction: int, data: bytes, gap: bool, start: bool) -> None:
        if self.finished:
            return
        if self._client is None:
            self._client = direction
        act = 0 if direction == self._client else 1
        answered = len(self._acts[1]) > 0
        if act == 0 and len(self._acts[1]) == _ACT_2:
            self.finished = True
            if not gap and len(data) >= _FRAME:
                self._report(direction)
            return
        room = (_ACT_1, _ACT_2)[act] - len(self._acts[act])
        early = act == 1 and len(self._acts[0]) < _ACT_1
        if gap or len(data) > room or early or (act == 0 and answered):
            self.finished = True
            return
        self._acts[act] += data
        if len(self._acts[act]) == (_ACT_1, _ACT_2)[act] and len(set(self._acts[act])) < _DISTINCT:
            self.finished = True

    def _report(self, direction: int) -> None:
        role = "client" if direction == OUT else "server"
        self._context.emit("stratum", role, Dialect="stratum-v2", Method="Noise_NX", Confidence="likely")
