"""Solo mining's polling: getblocktemplate, getwork or Monero's daemon over HTTP. `fakegbt.py URL [METHOD]`"""

import json
import sys
import time
import urllib.request

url = sys.argv[1] if len(sys.argv) > 1 else "http://10.77.0.1:8332/"
method = sys.argv[2] if len(sys.argv) > 2 else "getblocktemplate"
for number in range(5):
    body = json.dumps({"id": number, "method": method, "params": [{"rules": ["segwit"]}]}).encode()
    request = urllib.request.Request(
        url, body, {"Content-Type": "application/json", "User-Agent": "cpuminer/2.5.1"}
    )
    with urllib.request.urlopen(request, timeout=5) as answer:
        answer.read()
    time.sleep(0.5)
