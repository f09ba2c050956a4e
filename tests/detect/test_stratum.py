from __future__ import annotations

import base64
import json
import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentwatch.detect.finding import IN, OUT
from agentwatch.detect.json_stream import Message
from agentwatch.detect.stratum import judge
from agentwatch.event import Value
from tests.detect.talk import Talk

CORPUS = Path(os.environ.get("AGENTWATCH_CORPUS_DIR", Path(__file__).parents[3] / "shared" / "corpus"))
needs_corpus = pytest.mark.skipif(
    not (CORPUS / "payloads_stratum.jsonl").exists(), reason="no corpus: set AGENTWATCH_CORPUS_DIR"
)

H = "ab" * 32  # 64 hexadecimal digits
BLOB = "0e" * 76
WORK = [f"0x{H}", f"0x{H}", "0x00000000ffff" + "0" * 52]

# What a miner says: (dialect, method, message).
MINERS: list[tuple[str, str, object]] = [
    ("bitcoin", "mining.subscribe", {"id": 1, "method": "mining.subscribe", "params": []}),
    ("bitcoin", "mining.subscribe", {"id": 1, "method": "mining.subscribe"}),
    (
        "bitcoin",
        "mining.extranonce.subscribe",
        {"id": 3, "method": "mining.extranonce.subscribe", "params": []},
    ),
    (
        "bitcoin",
        "mining.submit",
        {"id": 4, "method": "mining.submit", "params": ["w", "job", "00", "65", "b2"]},
    ),
    (
        "bitcoin",
        "mining.submit",
        {
            "id": 4,
            "jsonrpc": "2.0",
            "method": "mining.submit",
            "params": {"jobId": 1, "fromGroup": 0, "nonce": "ff", "worker": "a"},
        },
    ),
    ("bitcoin", "mining.suggest_target", {"id": 4, "method": "mining.suggest_target", "params": [H]}),
    (
        "ethereumstratum-1",
        "mining.subscribe",
        {"id": 1, "method": "mining.subscribe", "params": ["miner/1", "EthereumStratum/1.0.0"]},
    ),
    (
        "ethereumstratum-2",
        "mining.hello",
        {
            "id": 0,
            "method": "mining.hello",
            "params": {
                "agent": "ethminer-0.17",
                "host": "pool",
                "port": "cafe",
                "proto": "EthereumStratum/2.0.0",
            },
        },
    ),
    ("ethereumstratum-2", "mining.bye", {"id": 9, "method": "mining.bye"}),
    (
        "zcash",
        "mining.subscribe",
        {"id": 1, "method": "mining.subscribe", "params": ["nheqminer", H, "host", 3333]},
    ),
    ("kaspa", "mining.authorize", {"id": 2, "method": "mining.authorize", "params": ["kaspa:qq.rig", "x"]}),
    (
        "ironfish",
        "mining.submit",
        {
            "id": 3,
            "method": "mining.submit",
            "body": {"miningRequestId": 7, "randomness": "00", "graffiti": "x"},
        },
    ),
    ("ethproxy", "eth_getWork", {"id": 1, "method": "eth_getWork", "params": []}),
    ("ethproxy", "eth_login", {"id": 1, "method": "eth_login", "params": ["0xabc"], "worker": "rig"}),
    ("ethproxy", "eth_submitWork", {"id": 1, "method": "eth_submitWork", "params": WORK}),
    (
        "cryptonote",
        "login",
        {"id": 1, "method": "login", "params": {"login": "4abc", "pass": "x", "algo": ["rx/0"]}},
    ),
    (
        "cryptonote",
        "login",
        {"id": 1, "method": "login", "params": {"rigid": "", "login": "4abc", "pass": "x"}},
    ),
    ("cryptonote", "keepalived", {"id": 5, "method": "keepalived", "params": {"id": "s"}}),
    (
        "cryptonote",
        "submit",
        {"id": 6, "method": "submit", "params": {"id": "s", "job_id": "j", "nonce": "d0030040", "result": H}},
    ),
    (
        "grin",
        "login",
        {"id": "0", "method": "login", "params": {"login": "u", "pass": "x", "agent": "GrinPro"}},
    ),
    (
        "grin",
        "submit",
        {
            "id": "0",
            "jsonrpc": "2.0",
            "method": "submit",
            "params": {"edge_bits": 31, "height": 1, "job_id": 64, "nonce": 5, "pow": [1, 2, 3]},
        },
    ),
    ("grin", "getjobtemplate", {"id": "2", "jsonrpc": "2.0", "method": "getjobtemplate", "params": None}),
    ("beam", "login", {"method": "login", "api_key": "k.rig", "id": "login", "jsonrpc": "2.0"}),
    (
        "beam",
        "solution",
        {"method": "solution", "id": "5", "nonce": "00a1b2c3d4e5f607", "output": "ab" * 104},
    ),
    (
        "getblocktemplate",
        "getblocktemplate",
        {"id": 0, "method": "getblocktemplate", "params": [{"rules": ["segwit"]}]},
    ),
    (
        "getblocktemplate",
        "get_block_template",
        {"id": 0, "method": "get_block_template", "params": {"wallet_address": "4abc", "reserve_size": 60}},
    ),
    ("getblocktemplate", "submitblock", {"id": 0, "method": "submitblock", "params": ["00" * 120]}),
    ("getwork", "getwork", {"id": 0, "method": "getwork", "params": ["00" * 128]}),
    ("auxpow", "getauxblock", {"id": 0, "method": "getauxblock", "params": []}),
    ("nimiq", "register", {"message": "register", "mode": "smart", "address": "NQ07 0000", "deviceId": 1}),
    ("nimiq", "share", {"message": "share", "blockHeader": "AAE=", "minerAddrProof": "x"}),
    ("coinhive", "auth", {"type": "auth", "params": {"site_key": "k", "type": "anonymous", "user": None}}),
    ("webminerpool", "handshake", {"identifier": "handshake", "login": "4abc", "pool": "p", "userid": ""}),
    ("dero", "submit", {"jobid": "1.2", "mbl_blob": "41" * 48}),
    ("xelis", "submit", {"miner_work": "00" * 112}),
]

# What a pool says.
POOLS: list[tuple[str, str, object]] = [
    ("ironfish", "mining.wait_for_work", {"id": 2, "method": "mining.wait_for_work", "body": {}}),
    (
        "ironfish",
        "mining.subscribed",
        {"id": 1, "method": "mining.subscribed", "body": {"clientId": 0, "xn": "00"}},
    ),
    (
        "bitcoin",
        "client.reconnect",
        {"id": None, "method": "client.reconnect", "params": ["pool.example", 3333, 0]},
    ),
    ("nimiq", "new-block", {"message": "new-block", "bodyHash": "x", "height": 1}),
    (
        "bitcoin",
        "mining.notify",
        {"id": None, "method": "mining.notify", "params": ["1", H, "00", "00", [], "2", "1", "5", True]},
    ),
    (
        "bitcoin",
        "mining.set_version_mask",
        {"method": "mining.set_version_mask", "params": ["1fffe000"], "id": None},
    ),
    (
        "bitcoin",
        "mining.subscribe",
        {
            "id": 1,
            "result": [[["mining.set_difficulty", "b"], ["mining.notify", "a"]], "08", 4],
            "error": None,
        },
    ),
    ("bitcoin", "mining.subscribe", {"id": 1, "result": [["mining.notify", "ae68"], "08000002", 4]}),
    (
        "bitcoin",
        "mining.configure",
        {"id": 1, "result": {"version-rolling": True, "version-rolling.mask": "18000000"}},
    ),
    (
        "ethereumstratum-1",
        "mining.subscribe",
        {"id": 1, "result": [["mining.notify", "a", "EthereumStratum/1.0.0"], "08"]},
    ),
    (
        "ethereumstratum-2",
        "mining.hello",
        {"id": 0, "result": {"proto": "EthereumStratum/2.0.0", "encoding": "plain"}},
    ),
    ("bitcoin", "mining.set_target", {"id": None, "method": "mining.set_target", "params": [H]}),
    (
        "ironfish",
        "mining.notify",
        {"id": 1, "method": "mining.notify", "body": {"miningRequestId": 1, "header": H}},
    ),
    ("kaspa", "set_extranonce", {"id": None, "method": "set_extranonce", "params": ["00c3"]}),
    ("ethproxy", "eth_getWork", {"id": 0, "jsonrpc": "2.0", "result": WORK}),
    ("ethproxy", "eth_getWork", {"id": 0, "jsonrpc": "2.0", "result": [*WORK, "0x96e4a2"]}),
    (
        "cryptonote",
        "login",
        {
            "id": 1,
            "result": {"id": "s", "job": {"blob": BLOB, "job_id": "j", "target": "b88d0600"}, "status": "OK"},
        },
    ),
    (
        "cryptonote",
        "job",
        {"jsonrpc": "2.0", "method": "job", "params": {"blob": BLOB, "job_id": "j", "target": "b88d0600"}},
    ),
    (
        "cryptonote",
        "job",
        {"id": 3, "result": {"blob": BLOB, "job_id": "j", "target": "b88d0600"}, "error": None},
    ),
    ("grin", "job", {"id": "0", "method": "job", "params": {"job_id": 5, "pre_pow": "00" * 60}}),
    ("beam", "job", {"method": "job", "id": "5", "input": H, "difficulty": 1, "height": 2}),
    (
        "getblocktemplate",
        "getblocktemplate",
        {"id": 0, "result": {"blocktemplate_blob": "0e" * 200, "difficulty": 1}},
    ),
    (
        "getblocktemplate",
        "getblocktemplate",
        {"id": 0, "result": {"version": 1, "previousblockhash": H, "coinbasevalue": 5}},
    ),
    ("getwork", "getwork", {"id": 0, "result": {"data": "00" * 128, "target": "ff" * 32}}),
    ("nimiq", "settings", {"message": "settings", "address": "NQ", "extraData": "x", "targetCompact": 1}),
    ("coinhive", "job", {"type": "job", "params": {"job_id": "1", "blob": BLOB, "target": "ff"}}),
    ("dero", "job", {"jobid": "1", "blockhashing_blob": "41" * 48, "difficulty": "1"}),
    ("xelis", "new_job", {"new_job": {"algorithm": "xel/v2", "miner_work": "00" * 112, "height": 3}}),
]

# What others say.
OTHERS: list[object] = [
    {"method": "login", "params": {"login": "alice", "password": "x", "agent": "Mozilla/5.0"}, "id": 1},
    {"method": "login", "params": {"agent": "cli/1", "login": "alice", "token": "x"}, "id": 1},
    {"id": 5, "method": "client.reconnect", "params": []},
    {"id": 5, "method": "mining.start", "body": {}},
    {"message": "new-block", "height": 7},
    {
        "jsonrpc": "2.0",
        "method": "login",
        "params": {"username": "bob", "password": "x", "agent": "web"},
        "id": 1,
    },
    {"jsonrpc": "2.0", "method": "login", "params": ["alice", "x"], "id": 1},
    {"jsonrpc": "2.0", "method": "login", "api_key": "k", "id": 1},
    {"jsonrpc": "2.0", "method": "user.login", "params": {"login": "a", "agent": "b"}, "id": 1},
    {
        "jsonrpc": "2.0",
        "method": "submit",
        "params": {"job_id": "7", "nonce": "x", "result": "done"},
        "id": 1,
    },
    {"jsonrpc": "2.0", "method": "submit", "params": {"task": "train"}, "id": 1},
    {"method": "job", "params": {"job_id": "7", "blob": "s3://bucket/key", "target": "gpu-1"}},
    {"method": "job", "params": {"job_id": "7", "algo": "ppo", "target": "gpu-1"}},
    {"method": "getwork", "params": {"worker": "w1"}, "id": 1},
    {"method": "getwork", "queue": "default", "id": 1},
    {"method": "get_work", "params": [], "id": 1},
    {"id": 1, "method": "mining.start", "params": {"dataset": "logs"}},
    {"id": 1, "method": "mining.submit", "params": {"dataset": "logs"}},
    {"id": 1, "method": "mining.submit", "params": ["logs"]},
    {"id": 1, "method": "process-mining.subscribe", "params": []},
    {"ts": 1, "level": "info", "method": "mining.subscribe", "peer": "10.0.0.1"},
    {"id": "e1", "kind": "alert", "method": "mining.subscribe"},
    {"method": ["mining.subscribe"], "params": []},
    {"params": {"method": "mining.subscribe", "params": []}, "id": 1},
    {"jsonrpc": "2.0", "id": 1, "method": "eth_mining", "params": []},
    {"jsonrpc": "2.0", "id": 1, "method": "eth_hashrate", "params": []},
    {"jsonrpc": "2.0", "id": 1, "method": "eth_getBlockByNumber", "params": ["latest", False]},
    {"jsonrpc": "2.0", "id": 1, "result": [f"0x{H}", f"0x{H}", f"0x{H}"]},
    {"jsonrpc": "2.0", "id": 1, "result": {"status": "OK"}},
    {"jsonrpc": "2.0", "id": 1, "result": {"job": {"id": 7, "state": "queued"}, "status": "OK"}},
    {"jsonrpc": "2.0", "id": 1, "result": [["mining", "x"], "y"]},
    {"id": 0, "method": "getmininginfo", "params": []},
    {"id": 0, "method": "blockchain.block.header", "params": [5]},
    {"id": 0, "method": "submitblock", "params": ["draft"]},
    {"method": "set_extranonce", "params": {"to": 1}},
    {"message": "register", "address": "5 Main Street", "mode": "new"},
    {"message": "settings", "theme": "dark"},
    {"type": "auth", "params": {"token": "x"}},
    {"type": "job", "params": {"job_id": 5, "blob": "x"}},
    {"type": "submit", "params": {"form": 1}},
    {"identifier": "handshake", "version": 7},
    {"identifier": "job", "job_id": "5"},
    {"new_job": {"name": "train", "command": ["python"]}},
    {
        "jsonrpc": "2.0",
        "id": 6,
        "method": "tools/call",
        "params": {"name": "mining.subscribe", "arguments": {"method": "mining.subscribe", "params": []}},
    },
    {"jsonrpc": "2.0", "id": 6, "method": "keepalived", "service": "vrrp", "state": "MASTER"},
]


def line(value: object) -> bytes:
    return json.dumps(value).encode() + b"\n"


def verdict(talk: Talk) -> tuple[object, object, object]:
    (found,) = talk.seen("stratum")
    return found["Dialect"], found["Method"], found["Role"]


@pytest.mark.parametrize(("dialect", "method", "message"), MINERS)
def test_what_miners_say(dialect: str, method: str, message: object) -> None:
    talk = Talk()
    talk.says(line(message))
    assert verdict(talk) == (dialect, method, "client")


@pytest.mark.parametrize(("dialect", "method", "message"), POOLS)
def test_what_pools_say(dialect: str, method: str, message: object) -> None:
    talk = Talk()
    talk.hears(line(message))
    assert verdict(talk) == (dialect, method, "client")


@pytest.mark.parametrize("message", OTHERS)
@pytest.mark.parametrize("segment", [0, 1])
def test_what_others_say(message: object, segment: int) -> None:
    for direction in (OUT, IN):
        talk = Talk(segment=segment)
        talk.passes(direction, line(message))
        assert talk.seen("stratum") == []


@pytest.mark.parametrize("message", OTHERS)
def test_what_others_say_proves_nothing_when_cut(message: object) -> None:
    data = line(message)
    for end in range(1, len(data)):
        talk = Talk()
        talk.says(data, captured=end)
        assert talk.seen("stratum") == [], data[:end]


def test_the_watched_process_may_be_the_pool() -> None:
    talk = Talk(initiated=False)
    talk.hears(line(MINERS[0][2]))
    talk.says(line({"id": None, "method": "mining.set_difficulty", "params": [1]}))
    assert [found["Role"] for found in talk.seen("stratum")] == ["server", "server"]


def test_each_verdict_is_reported_once() -> None:
    talk = Talk()
    share = {"id": 4, "method": "mining.submit", "params": ["w", "job", "00", "65", "b2"]}
    assert len(talk.says(line(share))) == 1
    assert talk.says(line(share)) == []
    assert talk.says(line({"id": 5, "method": "mining.authorize", "params": ["w", "x"]})) != []


def test_the_software_is_named() -> None:
    talk = Talk()
    talk.says(line({"id": 1, "method": "mining.subscribe", "params": ["cgminer/4.9\x1b[2J"]}))
    assert talk.seen("stratum")[0]["Client"] == "cgminer/4.9\N{REPLACEMENT CHARACTER}[2J"


def test_the_verdict_comes_with_the_byte_that_decides() -> None:
    data = b'{"id":1,"method":"mining.authorize","params":["w","x"]}\n'
    talk = Talk()
    decisive = next(at for at in range(len(data)) if talk.says(data[at : at + 1]))
    assert data[: decisive + 1] == b'{"id":1,"method":"mining.authorize","params":['


def test_a_batch_is_read() -> None:
    talk = Talk()
    talk.says(line([{"id": 0, "method": "ping"}, MINERS[0][2]]))
    assert verdict(talk)[1] == "mining.subscribe"


def test_a_message_cut_after_its_method_is_judged() -> None:
    talk = Talk()
    data = b'{"id":1,"method":"mining.authorize","params":["' + b"w" * 600 + b'"]}\n'
    assert talk.says(data, captured=512) != []
    talk = Talk()
    assert talk.says(b'{"id":1,"method":"mining.authorize"  , "params":[]}\n', captured=36) != []


def test_padding_before_the_method_does_not_hide_what_follows() -> None:
    talk = Talk()
    padded = b'{"pad":"' + b"A" * 600 + b'","id":1,"method":"mining.subscribe","params":[]}\n'
    assert talk.says(padded, captured=512) == []
    assert talk.hears(line(POOLS[2][2])) != []
    assert talk.says(line({"id": 2, "method": "mining.authorize", "params": ["w", "x"]})) != []


def test_a_lost_record_hides_only_its_line() -> None:
    talk = Talk()
    talk.says(b'{"id":1,"method":"ping","params":["')
    talk.loses(OUT, 30)
    talk.says(b'x"]}\n' + line(MINERS[0][2]))
    talk.hears(b"{}\n")
    assert talk.seen("stratum") != []


def test_a_word_before_the_protocol_does_not_hide_it() -> None:
    talk = Talk()
    talk.says(b"AUTH secret\n")
    talk.hears(b"OK\n")
    assert talk.says(line(MINERS[0][2])) != []


def test_xatum_lines() -> None:
    talk = Talk(segment=3)
    talk.says(b'shake~{"addr":"xel:x","work":"w","agent":"a/1","algos":["xel/0"]}\n')
    talk.hears(b'job~{"diff":5,"blob":"00"}\n')
    assert [(found["Dialect"], found["Method"]) for found in talk.seen("stratum")] == [
        ("xelis", "shake"),
        ("xelis", "job"),
    ]
    other = Talk()
    other.says(b'shake~{"hand":1}\n')
    assert other.findings == []


SUBSCRIBE = line({"id": 1, "method": "mining.subscribe", "params": []})
NOTIFY = line({"id": None, "method": "mining.notify", "params": ["bf"]})


def stages(talk: Talk) -> list[tuple[Value, Value]]:
    return [(found["Method"], found.get("Stage")) for found in talk.seen("stratum")]


def test_what_was_asked_is_answered_once() -> None:
    talk = Talk(segment=5)
    talk.says(SUBSCRIBE)
    talk.says(line({"id": 2, "method": "mining.authorize", "params": ["w", "x"]}))
    assert stages(talk) == [("mining.subscribe", "asked"), ("mining.authorize", None)]
    talk.hears(line({"id": 2, "result": True, "error": None}))
    assert stages(talk)[2:] == [("mining.authorize", "answered")]
    talk.hears(NOTIFY)
    talk.hears(line({"id": 1, "result": [["mining.notify", "x"]], "error": None}))
    talk.says(line({"id": 4, "method": "mining.submit", "params": ["w", "j", "00"]}))
    talk.hears(line({"id": 4, "result": True, "error": None}))
    assert all(stage is None for _, stage in stages(talk)[3:])


def test_a_job_is_an_answer_whoever_began() -> None:
    talk = Talk(initiated=None)
    talk.hears(NOTIFY)
    talk.says(line({"id": 4, "method": "mining.submit", "params": ["w", "j", "00"]}))
    assert stages(talk) == [("mining.notify", "asked"), ("mining.submit", "answered")]
    assert {found["Role"] for found in talk.seen("stratum")} == {"client"}


@pytest.mark.parametrize(
    "reply",
    [
        {"id": 7, "result": True},
        {"id": 1, "result": None, "error": {"code": -32601, "message": "method not found"}},
        {"id": 1, "error": "no", "result": True},
        {"id": 1, "result": False},
        {"method": "mining.subscribe", "id": 1, "params": ["echo"]},
    ],
)
def test_what_is_no_answer(reply: object) -> None:
    talk = Talk()
    talk.says(SUBSCRIBE)
    talk.hears(line(reply))
    assert [stage for _, stage in stages(talk) if stage] == ["asked"]


def test_solo_mining_over_http_is_asked_and_answered() -> None:
    talk = Talk()
    body = json.dumps({"id": 0, "method": "getblocktemplate", "params": [{"rules": ["segwit"]}]}).encode()
    talk.says(b"POST / HTTP/1.1\r\nHost: n:8332\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
    result = json.dumps({"id": 0, "result": {"previousblockhash": H, "coinbasevalue": 5}}).encode()
    talk.hears(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(result) + result)
    assert stages(talk) == [("getblocktemplate", "asked"), ("getblocktemplate", "answered")]


# Verdicts that the corpus wants from elsewhere: names of pools are a rule's, one act of a
# handshake of random bytes proves nothing.
BY_NAME = {"connect-proxy", "socks5"}


def corpus(name: str) -> list[dict[str, str]]:
    return [json.loads(row) for row in (CORPUS / name).read_text().splitlines()]


def content(row: dict[str, str]) -> bytes:
    return base64.b64decode(
        row[next(key for key in row if "b64" in key or "base64" in key or "payload" in key)]
    )


@needs_corpus
@pytest.mark.parametrize("segment", [0, 1, 7])
def test_the_corpus_mining(segment: int) -> None:
    for row in corpus("payloads_stratum.jsonl"):
        if row["dialect"] in (*BY_NAME, "sv2-noise"):
            continue
        talk = Talk(segment=segment)
        talk.passes(OUT if row["dir"] == "c2s" else IN, content(row))
        assert talk.seen("stratum"), row["note"]
        assert all(found["Role"] == "client" for found in talk.seen("stratum")), row["note"]


@needs_corpus
def test_the_corpus_proxies_name_the_destination() -> None:
    for row in corpus("payloads_stratum.jsonl"):
        if row["dialect"] in BY_NAME:
            talk = Talk()
            talk.says(content(row))
            assert talk.findings[0].attributes["DestinationHostname"] == "pool.supportxmr.com"


@needs_corpus
@pytest.mark.parametrize("segment", [0, 1, 7])
def test_the_corpus_benign(segment: int) -> None:
    for row in corpus("payloads_benign.jsonl"):
        talk = Talk(segment=segment)
        talk.passes(OUT if row["dir"] == "c2s" else IN, content(row))
        assert not talk.seen("stratum"), row["note"]
        assert all("Behaviour" not in found.attributes for found in talk.findings), row["note"]


NAMES = st.sampled_from("id method params result message type identifier new_job body job login blob".split())
WORDS = st.sampled_from("mining.subscribe login job submit getwork register NQ 00 auth handshake".split())
TREES = st.recursive(
    st.none() | st.booleans() | st.integers() | WORDS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(NAMES, inner, max_size=4),
    max_leaves=10,
)


@given(st.dictionaries(NAMES, TREES, max_size=6), st.booleans(), st.booleans())
def test_no_message_raises(members: dict[str, object], complete: bool, cut: bool) -> None:
    message = Message()
    message.update(members)  # type: ignore[arg-type]
    message.complete = complete
    judge(message, cut)
