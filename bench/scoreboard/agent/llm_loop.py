"""Asks a model again and again: `llm_loop.py [HOST]`, api.anthropic.com by default."""

import json
import sys
import time
import urllib.request

host = sys.argv[1] if len(sys.argv) > 1 else "api.anthropic.com"
for _ in range(3):
    body = json.dumps({"model": "m", "messages": [{"role": "user", "content": "what next?"}]}).encode()
    request = urllib.request.Request(f"https://{host}/v1/messages", body, {"x-api-key": "none"})
    with urllib.request.urlopen(request, timeout=5) as answer:
        answer.read()
    time.sleep(0.3)
