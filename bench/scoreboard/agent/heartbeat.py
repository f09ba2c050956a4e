"""An experiment tracker's heartbeat, `heartbeat.py [HOST]`: one TLS connection, a report now and then."""

import http.client
import json
import sys
import time

host = sys.argv[1] if len(sys.argv) > 1 else "www.comet.com"
connection = http.client.HTTPSConnection(host, timeout=5)
for step in range(6):
    connection.request("POST", "/api/status", json.dumps({"step": step, "loss": 1 / (step + 1)}))
    connection.getresponse().read()
    time.sleep(1)
