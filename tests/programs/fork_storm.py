"""fork_storm.py COUNT: keeps COUNT processes alive, each of which forks a successor and ends."""

from __future__ import annotations

import os
import sys
import time

for _ in range(int(sys.argv[1])):
    if os.fork() == 0:
        while True:
            time.sleep(0.05)
            if os.fork():
                os._exit(0)
while True:
    try:
        os.wait()
    except ChildProcessError:
        time.sleep(0.1)
