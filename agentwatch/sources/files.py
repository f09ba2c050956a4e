"""Files that a detector wants to read, such as the configuration named on an ssh command line.

The path is an agent's and hostile: it may lead to a device, a fifo, an endless file or a link
out of the agent's world. It is opened below the process's own root, never blocks, is a regular
file or nothing, and is read to a limit.
"""

from __future__ import annotations

import os
import stat

READ_LIMIT = 64 << 10  # bytes


def read_agent_file(pid: int, path: str, cwd: str) -> tuple[bytes, str]:
    """Content (at most READ_LIMIT bytes) and, where there is none, the reason."""
    absolute = path if path.startswith("/") else f"{cwd}/{path}"
    try:
        # A path is resolved inside the process's root, so that a container's file is the
        # container's: links that point upwards end at the host's root at worst, as a read.
        fd = os.open(f"/proc/{pid}/root{absolute}", os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
    except (OSError, ValueError) as error:
        return b"", getattr(error, "strerror", None) or str(error)
    try:
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            return b"", "no regular file"
        return os.read(fd, READ_LIMIT), ""
    except OSError as error:
        return b"", error.strerror or str(error)
    finally:
        os.close(fd)
