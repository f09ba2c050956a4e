from pathlib import Path
from typing import Final

SOCKET: Final = Path("/run/agentwatch/control.sock")
VARIABLE: Final = "AGENTWATCH_SOCKET"  # of the environment: names another
