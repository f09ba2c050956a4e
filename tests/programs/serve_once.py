"""Lets one visitor in: `serve_once.py PORTFILE`.

Listens on a free port of loopback, writes its number to PORTFILE, answers the first
connection that asks something, and exits with 0.
"""

import socket
import sys
from pathlib import Path


def main(port_file: Path) -> None:
    """Listen, say where, answer."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        part = port_file.with_suffix(".part")
        part.write_text(str(listener.getsockname()[1]))
        part.replace(port_file)
        connection, _ = listener.accept()
        with connection:
            if not connection.recv(4096):
                sys.exit("the visitor said nothing")
            connection.sendall(b"HTTP/1.0 200 OK\r\n\r\ninside\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
