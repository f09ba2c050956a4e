"""A remote forward by asyncssh, or else by sshclient.py: `forward_asyncssh.py HOST PORT TARGET_PORT`."""

import asyncio
import importlib
import sys

host, port, target = [*sys.argv[1:], *["203.0.113.5", "9001", "22"][len(sys.argv) - 1 :]][:3]
try:
    asyncssh = importlib.import_module("asyncssh")
except ImportError:
    importlib.import_module("sshclient").main([host, "22", port, target, "SSH-2.0-AsyncSSH_2.14.2"])
    sys.exit()


async def main() -> None:
    async with asyncssh.connect(host, username="u", known_hosts=None) as connection:
        await connection.forward_remote_port("127.0.0.1", int(port), "127.0.0.1", int(target))
        await asyncio.sleep(6)


asyncio.run(main())
