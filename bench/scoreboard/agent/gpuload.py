"""Load on the CPU in place of a GPU's, for some seconds."""

import time

end = time.monotonic() + 15
while time.monotonic() < end:
    sum(number * number for number in range(2000))
    time.sleep(0.01)
