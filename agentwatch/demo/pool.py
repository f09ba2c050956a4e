"""A stand-in for a mining pool: it speaks stratum and hashes nothing.

Both common dialects, told apart by the first request: Bitcoin's (`mining.subscribe`,
`mining.authorize`, pushes of `mining.notify`) and Monero's (`login`, pushes of `job`).
Jobs are zeros; every share is answered as stale.
"""

from __future__ import annotations

import json
import socket
import threading
from typing import Any

from agentwatch.demo.service import note, serve

PORT = 3333
JOB_SECONDS = 0.3
_LINE_LIMIT = 16384

_NOTIFY = ["1", "00" * 32, "", "", [], "20000000", "1d00ffff", "00000000", True]
_JOB = {"blob": "00" * 76, "job_id": "1", "target": "ffffffff", "seed_hash": "00" * 32, "height": 1}


class Session:
    """One miner's connection: answers its requests, pushes jobs once it has logged in."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self._writing = threading.Lock()
        self._gone = threading.Event()

    def run(self) -> None:
        """Serve until the miner leaves or sends a line beyond the limit."""
        try:
            with self._connection.makefile("rb") as lines:
                while line := lines.readline(_LINE_LIMIT):
                    self._answer(line)
        finally:
            self._gone.set()
            note("session over")

    def _answer(self, line: bytes) -> None:
        try:
            request = json.loads(line)
            method, number = request["method"], request.get("id")
        except (ValueError, KeyError, TypeError, AttributeError):
            return
        note(f"{method}")
        if method == "mining.subscribe":
            self._send({"id": number, "result": [[["mining.notify", "1"]], "00000001", 4], "error": None})
        elif method == "mining.authorize":
            self._send({"id": number, "result": True, "error": None})
            self._push({"id": None, "method": "mining.notify", "params": _NOTIFY})
        elif method == "login":
            result = {"id": "1", "job": _JOB, "status": "OK"}
            self._send({"id": number, "jsonrpc": "2.0", "result": result, "error": None})
            self._push({"jsonrpc": "2.0", "method": "job", "params": _JOB})
        else:
            self._send({"id": number, "result": None, "error": [21, "Job not found", None]})

    def _send(self, message: dict[str, Any]) -> None:
        with self._writing:
            self._connection.sendall(json.dumps(message).encode() + b"\n")

    def _push(self, message: dict[str, Any]) -> None:
        def push() -> None:
            try:
                while not self._gone.wait(JOB_SECONDS):
                    self._send(message)
            except OSError:
                self._gone.set()

        threading.Thread(target=push, daemon=True).start()


if __name__ == "__main__":
    serve(PORT, lambda connection: Session(connection).run())
