"""fork_storm.py COUNT: keeps COUNT processes alive, each of which forks a successor and ends.

It is over after a minute, should nobody be left to kill it.
"""

from __future__ import annotations

import os
import sys
import time

end = time.monotonic() + 60
for _ in range(int(sys.argv[1])):
    if os.fork() == 0:
        while time.monotonic() < end:
            time.sleep(0.05)
            if os.fork():
                os._exit(0)
        os._exit(0)
while time.monotonic() < end:
    try:
        os.wait()
    except ChildProcessError:
        time.sleep(0.1)
