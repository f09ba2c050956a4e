"""A stratum client that sends every byte in a segment of its own: `stratum_bytes.py HOST PORT`.

Exits with 0 once both of its requests were answered.
"""

import socket
import sys

REQUESTS = (
    b'{"id":1,"method":"mining.subscribe","params":["bytes/1.0"]}\n',
    b'{"id":2,"method":"mining.authorize","params":["worker.1","x"]}\n',
)


def main(host: str, port: int) -> None:
    """Speak with the pool, a byte at a time."""
    with socket.create_connection((host, port)) as connection, connection.makefile("rb") as answers:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for request in REQUESTS:
            for value in request:
                connection.send(bytes([value]))
            if not answers.readline():
                sys.exit("the pool hung up")


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
