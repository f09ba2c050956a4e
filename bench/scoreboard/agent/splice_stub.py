"""A login that no send() sees, by splice(2), sendfile(2) or both: `splice_stub.py [HOST PORT] [WAY]`."""

import os
import socket
import sys
import tempfile

LOGIN = (
    b'{"id":1,"method":"mining.subscribe","params":["splice/1.0"]}\n'
    b'{"id":2,"method":"mining.authorize","params":["w.1","x"]}\n'
)
words = [word for word in sys.argv[1:] if not word.startswith("-")]
host, port = (words[0], int(words[1])) if len(words) > 1 else ("198.51.100.10", 3333)
ways = ["splice", "sendfile"] if len(words) < 3 else [words[2]]
for way in ways:
    with socket.create_connection((host, port), timeout=5) as pool, tempfile.TemporaryFile() as file:
        file.write(LOGIN)
        file.flush()
        if way == "sendfile":
            os.sendfile(pool.fileno(), file.fileno(), 0, len(LOGIN))
        else:
            read, write = os.pipe()
            os.write(write, LOGIN)
            os.splice(read, pool.fileno(), len(LOGIN))
        for _ in range(3):
            pool.recv(65536)
