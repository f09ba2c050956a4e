"""Honest use of `ssh -L`: `local_forward.py PORT SSH-ARGUMENT...`.

Forwards a local port to the server's loopback port PORT, reads the page there through it,
twice, and exits with 0.
"""

import socket
import subprocess
import sys
import time

REQUEST = b"GET / HTTP/1.0\r\n\r\n"


def free_port() -> int:
    """A port of loopback that nobody listens on at this moment."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
        return port


def read_page(port: int) -> bytes:
    """Read the page behind the forward."""
    with socket.create_connection(("127.0.0.1", port)) as connection:
        connection.sendall(REQUEST)
        return b"".join(iter(lambda: connection.recv(4096), b""))


def main(remote_port: str, ssh: list[str]) -> None:
    """Open the forward and use it."""
    port = free_port()
    argv = ["ssh", "-N", "-o", "ExitOnForwardFailure=yes", "-L", f"{port}:127.0.0.1:{remote_port}", *ssh]
    with subprocess.Popen(argv, stdin=subprocess.DEVNULL) as process:
        pages = 0
        while pages < 2 and process.poll() is None:
            try:
                pages += read_page(port).startswith(b"HTTP/")
            except ConnectionRefusedError:  # ssh is not there yet
                time.sleep(0.02)
        process.terminate()
    if pages < 2:
        sys.exit("the forward did not open")


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2:])
