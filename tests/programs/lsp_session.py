"""An honest session of the Language Server Protocol over loopback that talks about stratum.

Client and server are both here. The client opens a document whose text is a stratum
request, searches for one, and gets one back in the answer: the words of mining, in
parameters and results, framed as LSP (base protocol: `Content-Length`). Exits with 0.
"""

import json
import socket
import threading
from io import BufferedRWPair
from typing import Any

QUOTED = '{"id":1,"method":"mining.subscribe","params":["cpuminer/2.5.1"]}\n'


def send(stream: BufferedRWPair, message: dict[str, Any]) -> None:
    """Write one message in LSP's framing."""
    body = json.dumps({"jsonrpc": "2.0", **message}).encode()
    stream.write(b"Content-Length: %d\r\n\r\n" % len(body) + body)
    stream.flush()


def receive(stream: BufferedRWPair) -> dict[str, Any]:
    """Read one message in LSP's framing."""
    length = int(stream.readline().removeprefix(b"Content-Length: "))
    stream.readline()
    message: dict[str, Any] = json.loads(stream.read(length))
    return message


def serve(listener: socket.socket) -> None:
    """Answer requests, with the words of mining in the answer, until `exit`."""
    connection, _ = listener.accept()
    with connection, connection.makefile("rwb") as stream:
        while (message := receive(stream))["method"] != "exit":
            if "id" in message:
                send(stream, {"id": message["id"], "result": {"contents": QUOTED}})


def main() -> None:
    """Speak with the server."""
    document = {"uri": "file:///stratum.py", "languageId": "python", "version": 1, "text": QUOTED}
    where = {"textDocument": {"uri": document["uri"]}, "position": {"line": 0, "character": 9}}
    with socket.create_server(("127.0.0.1", 0)) as listener:
        threading.Thread(target=serve, args=(listener,)).start()
        with socket.create_connection(listener.getsockname()) as client, client.makefile("rwb") as stream:
            send(stream, {"id": 1, "method": "initialize", "params": {"processId": None, "rootUri": None}})
            receive(stream)
            send(stream, {"method": "textDocument/didOpen", "params": {"textDocument": document}})
            send(stream, {"id": 2, "method": "textDocument/hover", "params": where})
            receive(stream)
            send(stream, {"id": 3, "method": "workspace/symbol", "params": {"query": QUOTED}})
            receive(stream)
            send(stream, {"method": "exit"})


if __name__ == "__main__":
    main()
