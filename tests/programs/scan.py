"""A connect scan: each port (of `FROM-TO`) of each host, some hosts at a time, none waited for long."""

from __future__ import annotations

import asyncio
import sys

CONCURRENT = 32
PATIENCE = 0.3  # seconds


async def knock(host: str, port: int, turn: asyncio.Semaphore) -> None:
    """One connect, and its end."""
    async with turn:
        try:
            _, writer = await asyncio.wait_for(asyncio.open_connection(host, port), PATIENCE)
        except (OSError, asyncio.TimeoutError):
            return
        writer.close()


async def main() -> None:
    first, _, last = sys.argv[1].partition("-")
    turn = asyncio.Semaphore(CONCURRENT)
    ports = range(int(first), int(last or first) + 1)
    await asyncio.gather(*(knock(host, port, turn) for host in sys.argv[2:] for port in ports))


asyncio.run(main())
