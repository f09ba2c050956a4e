"""Says who it is; what copies itself to other hosts does that there."""

import os

print("worker", os.uname().nodename)
