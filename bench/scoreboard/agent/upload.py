"""Sends a lot away and takes little back: `upload.py URL MEGABYTES`."""

import os
import sys
import urllib.request

body = os.urandom(1 << 20) * int(sys.argv[2])
with urllib.request.urlopen(urllib.request.Request(sys.argv[1], body, method="PUT"), timeout=30) as answer:
    answer.read()
