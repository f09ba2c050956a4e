"""The detectors together, over the state: records in, events out."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from agentwatch.detect import applications
from agentwatch.detect.chain import Chain
from agentwatch.enrich.sighting import Sighting
from agentwatch.enrich.state import Change, State
from agentwatch.schema import decode
from agentwatch.schema.events import PayloadFlag, Piece, Type
from tests.detect.hellos import alpn, client_hello, records, server_name
from tests.schema.records import raw

WANTED = ("flow", "dns_query", "process_creation", "network_connection")
CLIENT: dict[str, Any] = {
    "cookie": 5, "family": 2, "socktype": 1, "protocol": 6,
    "local": b"\x0a\0\0\1", "local_port": 4000, "remote": b"\x0a\0\0\2", "remote_port": 22,
}  # fmt: skip


class Asked:
    """Remembers what was asked for."""

    def __init__(self) -> None:
        self.files: list[str] = []
        self.flows: list[int] = []

    def read_file(self, path: str, change: Change) -> None:
        self.files.append(path)

    def follow(self, cookie: int) -> None:
        self.flows.append(cookie)

    def unfollow(self, cookie: int) -> None:
        self.flows.remove(cookie)


class Fold:
    """State and chain over records."""

    def __init__(self, wanted: Collection[str] = WANTED) -> None:
        self.state, self.asked = State(), Asked()
        self.chain = Chain(self.state, wanted, self.asked)
        self.seq = 0

    def __call__(self, *records: bytes) -> list[Sighting]:
        found = []
        for record in records:
            decoder = decode.slots if len(record) == 128 and record[0] == 120 else decode.records
            for row in decoder(record):
                found += self._row(row)
        return found

    def applications(self) -> applications.Applications:
        """The detector that holds the conversations."""
        owners = [getattr(of, "__self__", None) for of in self.chain._by_type[Type.CLOSE]]
        (found,) = [one for one in owners if isinstance(one, applications.Applications)]
        return found

    def note(self, *fields: object) -> list[Sighting]:
        (row,) = decode.notes(decode.pack_notes([fields]))
        return self._row(row)

    def _row(self, row: decode.Row) -> list[Sighting]:
        self.seq += 1
        change = self.state.apply(self.seq, row)
        return [] if change is None else self.chain.of(change)


def payload(
    data: bytes, *, incoming: bool = False, message: int = 1, sequence: int = 1, **more: Any
) -> bytes:
    flags = int(PayloadFlag.IN) if incoming else 0
    fields = CLIENT | {
        "message": message,
        "sequence": sequence,
        "packet_length": len(data),
        "length": len(data),
    }
    return raw("payload", flags=flags, data=data.ljust(64, b"\0"), **(fields | more))


def execution(*argv: bytes) -> list[bytes]:
    data = b"".join(word + b"\0" for word in argv)
    return [
        raw("exec_piece", kind=Piece.EXE, length=4, data=b"ssh\0"),
        raw("exec_piece", kind=Piece.CWD, length=0),
        raw("exec_piece", kind=Piece.ARGV, length=len(data), data=data),
        raw("exec", argv_length=len(data)),
    ]


def of_flow(found: list[Sighting]) -> list[dict[str, Any]]:
    return [dict(event.fields) for event in found if event.category == "flow"]


def test_stratum_is_an_event_that_names_flow_and_process() -> None:
    fold = Fold()
    fold(raw("connect", **CLIENT))
    (event,) = of_flow(fold(payload(b'{"id":1,"method":"mining.subscribe","params":[]}\n')))
    assert (event["Protocol"], event["Role"]) == ("stratum", "client")
    assert (event["DestinationIp"], event["DestinationPort"], event["Initiated"]) == ("10.0.0.2", 22, "true")
    flow = fold.state.flows.known(5)
    assert flow is not None
    assert flow.application == "stratum"


def test_renamed_ssh_with_a_forward_is_told_by_its_banner() -> None:
    fold = Fold()
    fold(*execution(b"backup", b"-N", b"-R", b"9001:localhost:22", b"u@h"), raw("connect", **CLIENT))
    events = of_flow(fold(payload(b"SSH-2.0-OpenSSH_9.6\r\n")))
    stages = [event["Stage"] for event in events if event.get("Behaviour") == "remote_forward"]
    assert stages == ["opened"]
    assert fold.asked.flows == [5]


def test_configuration_is_asked_for_and_decides() -> None:
    fold = Fold()
    fold(*execution(b"ssh", b"-F", b"conf", b"pool"))
    assert fold.asked.files == ["conf"]
    content = b"Host pool\nRemoteForward 9001 localhost:22\n"
    (event,) = of_flow(fold.note(int(Type.FILE), 5, 1, 100, 7, "conf", content, ""))
    assert (event["Behaviour"], event["Stage"]) == ("remote_forward", "asked")


def test_session_open_before_its_configuration_was_read_is_named() -> None:
    fold = Fold()
    fold(
        *execution(b"ssh", b"-F", b"conf", b"pool"),
        raw("connect", **CLIENT),
        payload(b"SSH-2.0-OpenSSH_9\r\n"),
    )
    content = b"Host pool\nRemoteForward 9001 localhost:22\n"
    (sighting,) = fold.note(int(Type.FILE), 5, 1, 100, 7, "conf", content, "")
    assert sighting.fields["Stage"] == "opened"
    assert sighting.flow is not None
    assert sighting.flow.cookie == 5


def test_inbound_channel_of_a_session_is_its_use() -> None:
    fold = Fold()
    fold(*execution(b"ssh", b"-N", b"h"), raw("connect", **CLIENT), payload(b"SSH-2.0-OpenSSH_9\r\n"))
    inwards = CLIENT | {"cookie": 6, "remote": b"\x7f\0\0\1", "remote_port": 8080}
    (event,) = of_flow(fold(raw("connect", time=2, **inwards)))
    assert event["Stage"] == "used"
    assert (event["DestinationIp"], event["DestinationPort"]) == ("127.0.0.1", 8080)


def test_child_of_ssh_goes_on_with_its_session() -> None:
    fold = Fold()
    fold(*execution(b"ssh", b"-f", b"-N", b"h"), raw("connect", **CLIENT), payload(b"SSH-2.0-OpenSSH_9\r\n"))
    fold(raw("fork", tgid=200, start=9, parent=100, parent_start=7))
    inwards = CLIENT | {"cookie": 6, "remote": b"\x7f\0\0\1", "remote_port": 8080}
    (event,) = of_flow(fold(raw("connect", tgid=200, start=9, time=2, **inwards)))
    assert event["Stage"] == "used"


def _dns(question: bytes, answer: bytes = b"") -> bytes:
    flags = b"\x81\x80" if answer else b"\x01\x00"
    counts = b"\0\1" + (b"\0\1" if answer else b"\0\0") + b"\0\0\0\0"
    name = b"".join(bytes([len(label)]) + label for label in question.split(b".")) + b"\0"
    record = b"\xc0\x0c\0\1\0\1\0\0\0\x3c\0\4" + answer if answer else b""
    return b"\x12\x34" + flags + counts + name + b"\0\1\0\1" + record


def test_dns_answers_name_later_connects() -> None:
    fold = Fold()
    datagram = {"cookie": 9, "socktype": 2, "protocol": 17, "remote_port": 53}
    question = _dns(b"pool.example")
    fields = CLIENT | datagram | {"packet_length": len(question), "length": len(question)}
    (asked,) = fold(raw("payload", flags=int(PayloadFlag.DNS), data=question.ljust(64, b"\0"), **fields))
    assert (asked.fields["QueryName"], asked.fields["QueryStatus"]) == ("pool.example", None)
    answer = _dns(b"pool.example", b"\x0a\0\0\2")
    fields |= {"packet_length": len(answer), "length": len(answer)}
    flags = int(PayloadFlag.DNS) | int(PayloadFlag.IN)
    (told,) = fold(raw("payload", flags=flags, data=answer.ljust(64, b"\0"), **fields))
    assert told.fields["QueryResults"] == ("10.0.0.2",)
    (connect,) = [e for e in fold(raw("connect", **CLIENT)) if e.category == "network_connection"]
    assert connect.fields["DestinationHostname"] == "pool.example"


def _datagram(data: bytes, port: int, *, incoming: bool = False, cookie: int = 9) -> bytes:
    fields = {"cookie": cookie, "socktype": 2, "protocol": 17, "remote_port": port}
    return payload(data, incoming=incoming, **fields)


def test_dns_on_another_port_is_dns_and_that_of_neighbours_is_not() -> None:
    fold = Fold()
    question, answer = _dns(b"c2.example"), _dns(b"c2.example", b"\x0a\0\0\2")
    found = fold(_datagram(answer, 5300, incoming=True), _datagram(question, 5300))
    assert [event.fields["QueryName"] for event in found] == ["c2.example"]
    (told,) = fold(_datagram(answer, 5300, incoming=True))
    assert told.fields["QueryResults"] == ("10.0.0.2",)
    assert fold.state.name_of("10.0.0.2") == "c2.example"
    assert fold(_datagram(question, 5353, cookie=10), _datagram(question, 5355, cookie=11)) == []


def test_dns_over_tcp_is_a_query_and_names_later_connects() -> None:
    fold = Fold()
    question, answer = _dns(b"pool.example"), _dns(b"pool.example", b"\x0a\0\0\2")
    found = fold(
        payload(len(question).to_bytes(2, "big") + question),
        payload(len(answer).to_bytes(2, "big") + answer, incoming=True),
    )
    assert [event.category for event in found] == ["dns_query", "dns_query"]
    assert found[1].fields["QueryResults"] == ("10.0.0.2",)
    (connect,) = [e for e in fold(raw("connect", **CLIENT)) if e.category == "network_connection"]
    assert connect.fields["DestinationHostname"] == "pool.example"


def test_the_name_in_a_hello_is_the_flow_s_where_it_has_none() -> None:
    fold = Fold()
    fold(raw("connect", **CLIENT))
    hello = records(client_hello([0x1301], [server_name(b"some.example")]))
    (event,) = of_flow(fold(payload(hello)))
    assert (event["Protocol"], event["DestinationHostname"]) == ("tls", "some.example")
    fold = Fold()
    fold.state.learn_name("10.0.0.2", "asked.example")
    fold(raw("connect", **CLIENT))
    (event,) = of_flow(fold(payload(hello)))
    assert (event["DestinationHostname"], event["ServerName"]) == ("asked.example", "some.example")


def test_of_a_hello_that_was_cut_fields_are_undecided() -> None:
    fold = Fold()
    hello = records(client_hello([0x1301], [server_name(b"some.example")]))
    (event,) = fold(payload(hello[:80], packet_length=len(hello)))
    assert event.truncated >= {"ServerName", "Ja4"}


def test_a_tunnel_tool_does_not_rename_its_flow() -> None:
    fold = Fold()
    found = of_flow(fold(payload(records(client_hello([0x1301], [alpn(b"argotunnel")])))))
    assert [event["Protocol"] for event in found] == ["tls", "cloudflared"]
    flow = fold.state.flows.known(5)
    assert flow is not None
    assert flow.application == "tls"


def test_names_asked_of_proxies_are_the_destination() -> None:
    fold = Fold()
    (event,) = of_flow(fold(payload(b"CONNECT pool.example:443 HTTP/1.1\r\n\r\n")))
    assert (event["Protocol"], event["DestinationHostname"], event["DestinationPort"]) == (
        "http-connect", "pool.example", 443,
    )  # fmt: skip
    fold = Fold()
    (event,) = of_flow(fold(payload(b"\5\1\0\5\1\0\3\x0cpool.example\x01\xbb")))
    assert (event["Protocol"], event["DestinationHostname"]) == ("socks5", "pool.example")


def test_conversations_are_bounded() -> None:
    fold = Fold()
    for cookie in range(1, applications.CONVERSATIONS_KEPT + 10):
        fold(payload(b"x", cookie=cookie))
    kept = fold.applications()
    assert len(kept._open) == applications.CONVERSATIONS_KEPT


def test_closed_flows_are_forgotten() -> None:
    fold = Fold()
    fold(payload(b"x"), raw("close", **CLIENT))
    kept = fold.applications()
    assert not kept._open
