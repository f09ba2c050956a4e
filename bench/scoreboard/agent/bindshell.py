"""A shell that waits: `bindshell.py PORT`; knocks at itself so that somebody comes."""

import os
import socket
import subprocess
import sys
import time

port = int(sys.argv[1])
with socket.create_server(("127.0.0.1", port)) as listener:
    if os.fork() == 0:
        listener.close()
        with socket.create_connection(("127.0.0.1", port)) as visitor:
            visitor.sendall(b"id\npwd\n")
            time.sleep(2)
        os._exit(0)
    guest, _ = listener.accept()
    subprocess.run(
        ["/bin/sh"],
        stdin=guest.fileno(),
        stdout=guest.fileno(),
        stderr=guest.fileno(),
        timeout=6,
        check=False,
    )
