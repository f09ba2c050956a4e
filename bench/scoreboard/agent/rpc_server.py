"""A server of JSON-RPC at loopback and its client, no miner: `rpc_server.py mcp|lsp|electrum|geth|cdp`."""

import json
import socket
import sys
import threading

MESSAGES: dict[str, list[dict[str, object]]] = {
    "mcp": [
        {"method": "initialize", "params": {"clientInfo": {"name": "agent"}}},
        {
            "method": "tools/call",
            "params": {"name": "search", "arguments": {"q": "what is mining.subscribe"}},
        },
    ],
    "lsp": [
        {"method": "initialize", "params": {"rootUri": "file:///src/mining"}},
        {"method": "textDocument/hover"},
    ],
    "electrum": [{"method": "server.version", "params": ["electrum", "1.4"]}, {"method": "mempool.get_info"}],
    "geth": [
        {"method": "eth_blockNumber", "params": []},
        {"method": "eth_getBlockByNumber", "params": ["latest"]},
    ],
    "cdp": [{"method": "Page.navigate", "params": {"url": "https://pool.example/submit"}}],
}
chosen = MESSAGES[sys.argv[1] if len(sys.argv) > 1 else "mcp"]


def serve(listener: socket.socket) -> None:
    connection, _ = listener.accept()
    with connection, connection.makefile("rb") as lines:
        for line in lines:
            number = json.loads(line)["id"]
            connection.sendall(
                json.dumps({"jsonrpc": "2.0", "id": number, "result": {"ok": True}}).encode() + b"\n"
            )


with socket.create_server(("127.0.0.1", 0)) as listener:
    threading.Thread(target=serve, args=(listener,), daemon=True).start()
    with socket.create_connection(listener.getsockname()) as client, client.makefile("rb") as answers:
        for number, message in enumerate(chosen * 3, 1):
            client.sendall(json.dumps({"jsonrpc": "2.0", "id": number, **message}).encode() + b"\n")
            answers.readline()
