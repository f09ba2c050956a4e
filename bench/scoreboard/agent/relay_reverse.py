"""A reverse tunnel of twenty lines: `relay_reverse.py OUT_HOST:PORT IN_HOST:PORT [--tls]`."""

import selectors
import socket
import ssl
import sys
import time

words = [word for word in sys.argv[1:] if not word.startswith("-")] or ["203.0.113.5:4000", "127.0.0.1:22"]
(out_host, out_port), (in_host, in_port) = (word.rsplit(":", 1) for word in words[:2])
outside = socket.create_connection((out_host, int(out_port)), timeout=5)
if "--tls" in sys.argv:
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    outside = context.wrap_socket(outside, server_hostname=out_host)
outside.sendall(b"hello\n")
first = outside.recv(65536)  # somebody is there: only now turn inwards
inside = socket.create_connection((in_host, int(in_port)), timeout=5)
inside.sendall(first)
selector = selectors.DefaultSelector()
for end, other in ((outside, inside), (inside, outside)):
    selector.register(end, selectors.EVENT_READ, other)
limit = time.monotonic() + 8
while time.monotonic() < limit:
    for key, _ in selector.select(1):
        assert isinstance(key.fileobj, socket.socket)
        data = key.fileobj.recv(65536)
        if not data:
            sys.exit()
        key.data.sendall(data)
