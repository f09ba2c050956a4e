"""Stratum: the protocols between miners and pools whose messages are JSON.

A verdict is given on parsed structure: a message's top-level `method` (or result, or what a
dialect has instead) compared exactly, together with the members that only this protocol puts
beside it. Words inside strings or deeper in a message (prompts, tool arguments, log lines) prove
nothing, nor does a method's name without the shape of a request.

Dialects: Bitcoin v1 and its descendants (BIP 310, NiceHash, Kaspa, Conflux, Ravencoin, ...),
ZIP 301 (`zcash`), EthereumStratum/1.0.0 and 2.0.0 (EIP-1571), Iron Fish, EthProxy, CryptoNote
(Monero and others), Grin, Beam, `getblocktemplate` and `getwork` (BIP 22, monerod) for solo
mining, merged mining, Nimiq, Dero, Xelis, and two of miners in web pages.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final, NamedTuple

from agentwatch.detect.finding import OUT, text
from agentwatch.detect.json_stream import Json, JsonStream, Message
from agentwatch.detect.layer import Context


class Verdict(NamedTuple):
    """What a message proves. `miner`: a miner sent it; otherwise a pool did."""

    dialect: str
    method: str
    miner: bool
    client: str = ""


# Names looked at, in a message or inside its params, body, result or job.
_ENVELOPE: Final = frozenset({"id", "jsonrpc", "method", "params", "worker", "error"})
_JOB_NAMES: Final = frozenset({"blob", "job_id", "target", "seed_hash", "algo", "height", "pre_pow"})
_REQUEST_NAMES: Final = frozenset(
    "agent proto publicaddress jobid job_id nonce epoch target algo extranonce"
    " fromgroup miningrequestid graffiti randomness header headerhash clientid xn versionexpected".split()
)
_VOCABULARY: Final = (
    _ENVELOPE
    | _JOB_NAMES
    | _REQUEST_NAMES
    | frozenset(
        "body result login pass rigid algo-perf api_key input nonceprefix difficulty output pow status job"
        " wallet_address capabilities rules blocktemplate_blob coinbasevalue previousblockhash data midstate"
        " version-rolling version-rolling.mask message mode address deviceid genesishash extradata"
        " targetcompact blockheader mineraddrproof type site_key identifier pool hash"
        " blockhashing_blob mbl_blob new_job miner_work addr work algos diff bodyhash"
        " username user password token".split()
    )
)

_MINER_METHODS: Final = (
    "mining.subscribe mining.authorize mining.configure mining.submit mining.extranonce.subscribe"
    " mining.suggest_difficulty mining.suggest_target mining.get_transactions mining.capabilities"
    " mining.multi_version mining.hello mining.noop mining.bye mining.hashrate mining.submit_hashrate"
    " mining.get_status mining.pong"
).split()
_POOL_METHODS: Final = (
    "mining.notify mining.set_difficulty mining.set_target mining.set_extranonce mining.set_version_mask"
    " mining.set_goal mining.set mining.set_epoch mining.subscribed mining.submitted mining.wait_for_work"
    " mining.disconnect mining.ping"
).split()
_EIP_1571: Final = frozenset({"mining.hello", "mining.noop", "mining.bye", "mining.set", "mining.hashrate"})

_HEX: Final = frozenset("0123456789abcdefABCDEF")


def judge(message: Message, cut: bool = False) -> Verdict | None:
    """What a message, or as much of it as is known, proves; None if nothing.

    `cut`: no more of the message will come. What is proven of a part stays proven of the whole,
    unless the message names a member twice.
    """
    method = message.get("method")
    if isinstance(method, str):
        rule = _RULES.get(method)
        return rule(message, method, cut) if rule is not None else None
    if "result" in message:
        return _judge_result(message["result"])
    if _OTHERS.keys().isdisjoint(message):
        return None
    for name, evidence in _OTHERS.items():
        if name in message and (verdict := evidence(message)) is not None:
            return verdict
    return None


# Requests and notifications, by method.


def _is_envelope(message: Message) -> bool:
    """Whether the message has no parameters, as far as it goes, and nothing that a request has not."""
    return not message.foreign and message.keys() <= _ENVELOPE and message.get("params") is None


def _bare(message: Message) -> bool:
    """Whether this is a whole request without parameters."""
    return message.complete and _is_envelope(message)


def _mining(message: Message, method: str, cut: bool) -> Verdict | None:
    params = message.get("params", message.get("body"))
    if isinstance(params, list):
        proven = method != "mining.submit" or len(params) >= 3
    elif isinstance(params, dict):
        proven = bool(params.keys() & _REQUEST_NAMES) or (
            params == {} and message.complete and "body" in message
        )
    else:
        proven = _bare(message) or (cut and method != "mining.submit" and _is_envelope(message))
    if not proven:
        return None
    return Verdict(
        _mining_dialect(message, method, params), method, method in _MINERS, _software(method, params)
    )


_MINERS: Final = frozenset(_MINER_METHODS)


def _mining_dialect(message: Message, method: str, params: Json) -> str:
    if "body" in message:
        return "ironfish"
    words = list(params.values() if isinstance(params, dict) else params if isinstance(params, list) else ())
    for word in words:
        if isinstance(word, str) and word.startswith("EthereumStratum/"):
            return "ethereumstratum-2" if word.startswith("EthereumStratum/2") else "ethereumstratum-1"
        if isinstance(word, str) and word.startswith("kaspa:"):
            return "kaspa"
    if method in _EIP_1571:
        return "ethereumstratum-2"
    if (
        method == "mining.subscribe"
        and len(words) == 4
        and isinstance(words[2], str)
        and isinstance(words[3], int)
    ):
        return "zcash"
    return "bitcoin"


def _software(method: str, params: Json) -> str:
    if isinstance(params, dict):
        return _string(params.get("agent"))
    if method == "mining.subscribe" and isinstance(params, list) and params:
        return _string(params[0])
    return ""


def _ethproxy(message: Message, method: str, cut: bool) -> Verdict | None:
    proven = isinstance(message.get("params"), list) or _bare(message)
    return Verdict("ethproxy", method, True) if proven else None


def _login(message: Message, method: str, cut: bool) -> Verdict | None:
    params = message.get("params")
    if isinstance(params, dict):
        if isinstance(params.get("login"), str) and _is_miners_login(params, message.complete):
            agent = _string(params.get("agent"))
            grin = agent.lower().startswith(("grin", "mwc", "epic"))
            return Verdict("grin" if grin else "cryptonote", method, True, agent)
    elif isinstance(message.get("api_key"), str) and message.get("id") == "login":
        return Verdict("beam", method, True)
    return None


def _is_miners_login(params: dict[str, Json], complete: bool) -> bool:
    """Miners say which algorithms they know, or name rig or software. Others' logins may name their
    software too, but have a password, a user or a token."""
    if params.keys() & {"algo", "rigid", "algo-perf"}:
        return True
    if "agent" not in params or params.keys() & {"password", "username", "user", "token"}:
        return False
    return complete or "pass" in params


def _submit(message: Message, method: str, cut: bool) -> Verdict | None:
    params = message.get("params")
    if not isinstance(params, dict) or not {"job_id", "nonce"} <= params.keys():
        return None
    if isinstance(params.get("pow"), list):
        return Verdict("grin", method, True)
    return Verdict("cryptonote", method, True) if _is_hex(params.get("result"), 32) else None


def _job(message: Message, method: str, cut: bool) -> Verdict | None:
    if _is_hex(message.get("input"), 32) and ("nonceprefix" in message or "difficulty" in message):
        return Verdict("beam", method, False)
    dialect = _job_dialect(message.get("params"))
    return Verdict(dialect, method, False) if dialect else None


def _job_dialect(job: Json) -> str:
    """The dialect of a pool's job object; empty if it is none."""
    if not isinstance(job, dict):
        return ""
    if _is_hex(job.get("pre_pow"), 100):
        return "grin"
    if _is_hex(job.get("blob"), 100) and job.keys() & {"job_id", "target", "seed_hash"}:
        return "cryptonote"
    if _is_hex(job.get("target"), 8) and "job_id" in job and job.keys() & {"seed_hash", "algo", "height"}:
        return "cryptonote"
    return ""


def _solution(message: Message, method: str, cut: bool) -> Verdict | None:
    proven = _is_hex(message.get("nonce"), 8) and _is_hex(message.get("output"), 32)
    return Verdict("beam", method, True) if proven else None


def _keepalive(message: Message, method: str, cut: bool) -> Verdict | None:
    params = message.get("params")
    proven = (isinstance(params, dict) and "id" in params) or _bare(message)
    return Verdict("cryptonote", method, True) if proven else None


def _set_extranonce(message: Message, method: str, cut: bool) -> Verdict | None:
    """Kaspa's bridges leave out the prefix `mining.`."""
    params = message.get("params")
    proven = isinstance(params, list) and 1 <= len(params) <= 2 and _is_hex(params[0], 2)
    return Verdict("kaspa", method, False) if proven else None


def _reconnect(message: Message, method: str, cut: bool) -> Verdict | None:
    """A pool sends its miners to another host: name, port, seconds to wait."""
    params = message.get("params")
    proven = (
        isinstance(params, list)
        and len(params) in (2, 3)
        and isinstance(params[0], str)
        and str(params[1]).isdigit()
        and message.get("id") is None
    )
    return Verdict("bitcoin", method, False) if proven else None


def _getwork(message: Message, method: str, cut: bool) -> Verdict | None:
    params = message.get("params")
    asks = params == [] or (isinstance(params, list) and _is_hex(params[0], 128)) or _bare(message)
    return Verdict("getwork", method, True) if asks and message.complete else None


def _block_template(message: Message, method: str, cut: bool) -> Verdict | None:
    params = message.get("params")
    names = {"wallet_address", "capabilities", "rules", "mode"}
    proven = (
        isinstance(params, list) or (isinstance(params, dict) and params.keys() & names) or _bare(message)
    )
    return Verdict("getblocktemplate", method, True) if proven else None


def _submit_block(message: Message, method: str, cut: bool) -> Verdict | None:
    params = message.get("params")
    proven = isinstance(params, list) and len(params) > 0 and _is_hex(params[0], 160)
    return Verdict("getblocktemplate", method, True) if proven else None


def _named(dialect: str, miner: bool = True) -> Callable[[Message, str, bool], Verdict | None]:
    """A rule for a method that no other protocol has: any parameters will do."""

    def rule(message: Message, method: str, cut: bool) -> Verdict | None:
        proven = isinstance(message.get("params"), (list, dict)) or _bare(message)
        return Verdict(dialect, method, miner) if proven else None

    return rule


_RULES: Final[Mapping[str, Callable[[Message, str, bool], Verdict | None]]] = {
    **dict.fromkeys((*_MINER_METHODS, *_POOL_METHODS), _mining),
    **dict.fromkeys(
        (
            "eth_submitLogin eth_login eth_getWork eth_submitWork eth_submitHashrate"
            " ctxc_submitLogin ctxc_getWork ctxc_submitWork ctxc_submitHashrate"
        ).split(),
        _ethproxy,
    ),
    "login": _login,
    "submit": _submit,
    "job": _job,
    "solution": _solution,
    "keepalived": _keepalive,
    "set_extranonce": _set_extranonce,
    "client.reconnect": _reconnect,
    "getjobtemplate": _named("grin"),
    "getwork": _getwork,
    "getblocktemplate": _block_template,
    "get_block_template": _block_template,
    "submitblock": _submit_block,
    "submit_block": _submit_block,
    "getminingcandidate": _named("getblocktemplate"),
    "submitminingsolution": _named("getblocktemplate"),
    "getauxblock": _named("auxpow"),
    "createauxblock": _named("auxpow"),
    "submitauxblock": _named("auxpow"),
    "miner-notify": _named("pascal", miner=False),
    "miner-submit": _named("pascal"),
}


# Replies, which carry no method: all are a pool's.


def _judge_result(result: Json) -> Verdict | None:
    if isinstance(result, dict):
        return _judge_result_object(result)
    if not isinstance(result, list) or not result:
        return None
    subscription = result[0]
    if isinstance(subscription, list) and subscription:
        first = subscription[0]
        notification = first[0] if isinstance(first, list) and first else first
        if isinstance(notification, str) and notification in _POOL_METHODS:
            ethereum = any(
                isinstance(word, str) and word.startswith("EthereumStratum/") for word in subscription
            )
            return Verdict("ethereumstratum-1" if ethereum else "bitcoin", "mining.subscribe", False)
    if _is_work_package(result):
        return Verdict("ethproxy", "eth_getWork", False)
    return None


def _is_work_package(result: list[Json]) -> bool:
    """Ethash work: header hash, seed hash, boundary (and block number).

    A node's answer to `eth_getFilterChanges` is a list of hashes as well; a boundary is told from
    a hash by its leading zeros, which any difficulty worth mining brings.
    """
    if len(result) not in (3, 4) or not all(_is_hash(word) for word in result[:3]):
        return False
    return str(result[2]).startswith("0x000000")


def _is_hash(word: Json) -> bool:
    return isinstance(word, str) and len(word) == 66 and word.startswith("0x") and _is_hex(word[2:], 64)


def _judge_result_object(result: dict[str, Json]) -> Verdict | None:
    if not result:
        return None
    dialect = _job_dialect(result.get("job"))
    if dialect:
        return Verdict(dialect, "login", False)
    if result.get("status") == "KEEPALIVED":
        return Verdict("cryptonote", "keepalived", False)
    dialect = _job_dialect(result)
    if dialect:
        return Verdict(dialect, "job", False)
    if (
        _is_hex(result.get("blocktemplate_blob"), 100)
        or {"coinbasevalue", "previousblockhash"} <= result.keys()
    ):
        return Verdict("getblocktemplate", "getblocktemplate", False)
    if _is_hex(result.get("data"), 128) and (_is_hex(result.get("target"), 32) or "midstate" in result):
        return Verdict("getwork", "getwork", False)
    if result.keys() & {"version-rolling", "version-rolling.mask"}:
        return Verdict("bitcoin", "mining.configure", False)
    if _string(result.get("proto")).startswith("EthereumStratum/"):
        return Verdict("ethereumstratum-2", "mining.hello", False)
    return None


# Dialects whose messages are told by another member than `method`.


def _nimiq(message: Message) -> Verdict | None:
    kind = message["message"]
    if kind == "register" and _string(message.get("address")).startswith("NQ"):
        marks, miner = {"deviceid", "mode", "genesishash"}, True
    elif kind == "settings":
        marks, miner = {"extradata", "target", "targetcompact"}, False
    elif kind == "new-block":
        marks, miner = {"bodyhash"}, False
    elif kind == "share":
        marks, miner = {"blockheader", "mineraddrproof"}, True
    else:
        return None
    return Verdict("nimiq", str(kind), miner) if message.keys() & marks else None


def _web_miner(message: Message) -> Verdict | None:
    """The protocol of CoinHive and its successors."""
    kind, params = message["type"], message.get("params")
    if not isinstance(params, dict):
        return None
    if kind == "auth" and "site_key" in params:
        return Verdict("coinhive", "auth", True)
    if kind == "job" and _job_dialect(params):
        return Verdict("coinhive", "job", False)
    if kind == "submit" and {"job_id", "nonce"} <= params.keys() and _is_hex(params.get("result"), 32):
        return Verdict("coinhive", "submit", True)
    return None


def _webminerpool(message: Message) -> Verdict | None:
    kind = message["identifier"]
    if kind == "handshake" and {"login", "pool"} <= message.keys():
        return Verdict("webminerpool", "handshake", True)
    if kind == "job" and _job_dialect(message):
        return Verdict("webminerpool", "job", False)
    if kind == "solved" and {"job_id", "nonce"} <= message.keys() and _is_hex(message.get("result"), 32):
        return Verdict("webminerpool", "solved", True)
    return None


def _dero_job(message: Message) -> Verdict | None:
    proven = _is_hex(message["blockhashing_blob"], 64) and "jobid" in message
    return Verdict("dero", "job", False) if proven else None


def _dero_submit(message: Message) -> Verdict | None:
    proven = _is_hex(message["mbl_blob"], 64) and "jobid" in message
    return Verdict("dero", "submit", True) if proven else None


def _xelis_job(message: Message) -> Verdict | None:
    job = message["new_job"]
    proven = isinstance(job, dict) and _is_hex(job.get("miner_work"), 64)
    return Verdict("xelis", "new_job", False) if proven else None


def _xelis_submit(message: Message) -> Verdict | None:
    return Verdict("xelis", "submit", True) if _is_hex(message["miner_work"], 64) else None


_OTHERS: Final[Mapping[str, Callable[[Message], Verdict | None]]] = {
    "message": _nimiq,
    "type": _web_miner,
    "identifier": _webminerpool,
    "blockhashing_blob": _dero_job,
    "mbl_blob": _dero_submit,
    "new_job": _xelis_job,
    "miner_work": _xelis_submit,
}


def _string(value: Json) -> str:
    return value if isinstance(value, str) else ""


def _is_hex(value: Json, at_least: int) -> bool:
    """Whether this is a hexadecimal string of so many digits or more (as far as it was kept)."""
    return isinstance(value, str) and len(value) >= at_least and _HEX.issuperset(value)


# Layers.

_ASKED_KEPT: Final = 16
"""Requests whose answer would be known; the oldest is let go."""


class Exchange:
    """What both sides of a conversation have said: each verdict is reported once.

    The first report has `Stage` `asked`. The first by which the other side has spoken too has
    `answered`: a pool's message to a miner or the reverse, or a good result to what was asked.
    """

    def __init__(self) -> None:
        self._reported: set[tuple[str, str, bool]] = set()
        self._spoke: set[tuple[int, bool]] = set()  # direction, whether a miner did
        self._asked: dict[tuple[int, int | str], Verdict] = {}  # by direction and id
        self._answered = False

    def tell(self, context: Context, direction: int, verdict: Verdict, id: Json = None) -> None:
        """A message that went in `direction` proves this; `id` is its own."""
        key = (verdict.dialect, verdict.method, verdict.miner)
        stage = "" if self._spoke else "asked"
        if not self._answered and (1 - direction, not verdict.miner) in self._spoke:
            self._answered, stage = True, "answered"
        self._spoke.add((direction, verdict.miner))
        if isinstance(id, (int, str)):
            self._asked[direction, id] = verdict
            if len(self._asked) > _ASKED_KEPT:
                del self._asked[next(iter(self._asked))]
        if key not in self._reported or stage == "answered":
            self._reported.add(key)
            _emit(context, direction, verdict, stage)

    def reply(self, context: Context, direction: int, message: Message) -> None:
        """A whole message that proves nothing by itself."""
        if not self._asked or self._answered or not message.get("result") or message.get("error"):
            return
        id = message.get("id")
        asked = self._asked.get((1 - direction, id)) if isinstance(id, (int, str)) else None
        if asked is not None:
            self._answered = True
            _emit(context, 1 - direction, asked, "answered")


def _emit(context: Context, direction: int, verdict: Verdict, stage: str) -> None:
    role = "client" if verdict.miner == (direction == OUT) else "server"
    client = text(verdict.client) or context.software
    context.emit("stratum", role, Dialect=verdict.dialect, Method=verdict.method, Client=client, Stage=stage)


class JsonMessages:
    """The layer of plain JSON messages: one after another, one a line, or in batches.

    `single`: one value between calls of `restart`, as in HTTP bodies, where a file of lines is none
    of a protocol's. `exchange`: that of the layer around, where that reads messages as well.
    """

    def __init__(self, context: Context, single: bool = False, exchange: Exchange | None = None) -> None:
        self._context = context
        self._single = single
        self._streams: list[JsonStream | None] = [None, None]  # made for what may be read
        self._passed_over = [False, False]  # bodies that are no JSON
        self._exchange = exchange or Exchange()
        self.finished = False

    def feed(self, direction: int, data: bytes, gap: bool, start: bool) -> None:
        stream = self._streams[direction]
        if stream is None:
            if self._passed_over[direction]:
                return
            if self._single and data and data[:1] not in _MAY_START_BODY:
                self._passed_over[direction] = True
                return
            stream = self._streams[direction] = JsonStream(_VOCABULARY, self._single)
        if gap:
            if stream.partial is not None:
                self._consider(direction, stream.partial, cut=True)
            stream.lose()
        if start and stream.lost and data[:1] in _MAY_START:
            stream.reset()
        for message in stream.feed(data):
            self._consider(direction, message, cut=False)
        if stream.changed and stream.partial is not None:
            self._consider(direction, stream.partial, cut=False)
            stream.changed = False

    def restart(self, direction: int) -> None:
        """The next bytes begin a message, whatever came before (an HTTP body)."""
        self._passed_over[direction] = False
        stream = self._streams[direction]
        if stream is not None:
            stream.reset()

    def _consider(self, direction: int, message: Message, cut: bool) -> None:
        verdict = judge(message, cut)
        if verdict is not None:
            self._exchange.tell(self._context, direction, verdict, message.get("id"))
        elif message.complete or cut:
            self._exchange.reply(self._context, direction, message)


_MAY_START: Final = frozenset({b"{", b"[", b" ", b"\t", b"\r", b"\n"})
_MAY_START_BODY: Final = _MAY_START | {b"\0", b"\x1e"}


_XATUM: Final = {
    b"shake": (True, {"addr", "agent"}),
    b"submit": (True, {"hash", "data"}),
    b"job": (False, {"blob", "diff"}),
}
"""Xelis' Xatum: a word, `~`, a JSON object; who says it, and which members it has at least one of."""


def is_xatum(head: bytes) -> bool | None:
    """Whether a stream starts with a Xatum message; None if more bytes are needed to tell."""
    for word in _XATUM:
        opening = word + b"~{"
        if head.startswith(opening):
            return True
        if opening.startswith(head):
            return None
    return False


class Xatum:
    """The layer of Xatum lines."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._words: list[bytes | None] = [b"", b""]  # the word so far; None: within the object
        self._methods = [b"", b""]
        self._streams = (JsonStream(_VOCABULARY), JsonStream(_VOCABULARY))
        self._exchange = Exchange()

    finished = False

    def feed(self, direction: int, data: bytes, gap: bool, start: bool) -> None:
        if gap:
            self._words[direction] = b"" if start else None
            self._streams[direction].lose()
        for line in data.splitlines(keepends=True):
            self._feed_line(direction, line)

    def _feed_line(self, direction: int, line: bytes) -> None:
        word, stream = self._words[direction], self._streams[direction]
        if word is not None:
            head, tilde, line_rest = line.partition(b"~")
            word = (word + head)[:16].lstrip()
            self._words[direction] = word
            if tilde:
                self._methods[direction] = word
                self._words[direction] = None
                stream.reset()
                self._read(direction, line_rest)
        else:
            self._read(direction, line)
        if line.endswith(b"\n"):
            self._words[direction] = b""

    def _read(self, direction: int, data: bytes) -> None:
        method = self._methods[direction]
        miner, names = _XATUM.get(method, (False, set()))
        for message in self._streams[direction].feed(data):
            if message.keys() & names:
                verdict = Verdict("xelis", method.decode(), miner, _string(message.get("agent")))
                self._exchange.tell(self._context, direction, verdict)
