"""Serves a model, so to speak: HTTP at a port of loopback, and some requests to it. `serve.py [PORT]`"""

import http.server
import json
import sys
import threading
import urllib.request

port = int(sys.argv[1]) if len(sys.argv) > 1 and sys.argv[1].isdigit() else 8000


class Answer(http.server.BaseHTTPRequestHandler):
    """Every request gets the same completion."""

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        body = json.dumps({"choices": [{"text": "hello"}]}).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


with http.server.ThreadingHTTPServer(("127.0.0.1", port), Answer) as server:
    threading.Thread(target=server.serve_forever, daemon=True).start()
    for number in range(10):
        prompt = json.dumps({"prompt": f"question {number}"}).encode()
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/v1/completions", prompt, timeout=5) as answer:
            answer.read()
    server.shutdown()
