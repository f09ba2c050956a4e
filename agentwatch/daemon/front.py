"""The front: a process of its own that serves the control socket and feeds the sinks.

`python -m agentwatch.daemon.front FD` with the core's link as descriptor FD. Its first message is the
settings. It ends when the core does.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import socket
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from agentwatch.config.sinks import from_plain
from agentwatch.control.protocol import ProtocolError
from agentwatch.control.server import Peer, Roles, Server
from agentwatch.daemon.link import Unpacker, pack
from agentwatch.daemon.log import say
from agentwatch.daemon.markers import Door
from agentwatch.sinks.hub import Hub
from agentwatch.sinks.metrics import Samples

_READ = 1 << 16
_ANSWER_SECONDS = 20.0
_WAITING = 256  # questions that wait for the core's answer


class Front:
    """Between clients and the core."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer
        self._tickets = itertools.count(1)
        self._waiting: dict[int, asyncio.Future[Any]] = {}
        self._server: Server | None = None
        self._hub = Hub(say, lambda: self._tell("scraped"), self._samples)
        self._door: Door | None = None

    async def run(self) -> None:
        """Until the core ends."""
        unpacker = Unpacker()
        try:
            with contextlib.suppress(ConnectionError):  # a core that is killed has not read all
                while data := await self._reader.read(_READ):
                    for message in unpacker.feed(data):
                        await self._take(message)
        finally:
            if self._door is not None:
                self._door.close()
            if self._server is not None:
                await self._server.close()
            await self._hub.close()

    async def _take(self, message: list[Any]) -> None:
        match message:
            case ["settings", settings]:
                self._hub.configure(from_plain(settings["sinks"]))
                if self._server is None:
                    await self._start(settings)
                else:
                    self._server.roles = Roles(settings["act_group"], settings["read_group"])
            case ["answer", ticket, answer]:
                self._answered(ticket, answer)
            case ["metrics", samples]:
                self._hub.take_metrics(samples)
            case ["item", topic, number, item]:
                if topic == "alerts":
                    self._hub.publish(item)
                if self._server is not None:
                    self._server.publish(topic, number, item)

    def _samples(self) -> Samples:
        """What the front measures of its clients."""
        clients, dropped = (self._server.clients, self._server.dropped) if self._server else (0, 0)
        return {
            "agentwatch_control_clients": [[clients]],
            "agentwatch_control_dropped_total": [[dropped]],
        }

    async def _start(self, settings: Mapping[str, Any]) -> None:
        roles = Roles(settings["act_group"], settings["read_group"])
        server = Server(Path(settings["socket"]), roles, self._ask, say, self._follows)
        try:
            await server.start()
        except OSError as error:
            self._tell("failed", f"the control socket cannot be made: {settings['socket']}: {error.strerror}")
            return
        self._server = server
        try:
            self._door = Door(Path(settings["socket"]).parent, self._tell)
        except OSError as error:
            self._tell("failed", f"markers cannot be taken: {error}")
        self._tell("serving")

    async def _ask(self, verb: str, arguments: Mapping[str, Any], peer: Peer) -> Any:
        if len(self._waiting) >= _WAITING:
            raise ProtocolError("busy", "too many requests wait for an answer")
        ticket = next(self._tickets)
        future = self._waiting[ticket] = asyncio.get_running_loop().create_future()
        self._tell("ask", ticket, verb, dict(arguments), [peer.pid, peer.uid, peer.name, peer.cgroup])
        try:
            answer = await asyncio.wait_for(future, _ANSWER_SECONDS)
        except asyncio.TimeoutError:
            raise ProtocolError("failed", "the daemon did not answer in time") from None
        finally:
            del self._waiting[ticket]
        return {**answer, "sinks": self._hub.status()} if verb == "status" else answer

    def _answered(self, ticket: int, answer: Mapping[str, Any]) -> None:
        future = self._waiting.get(ticket)
        if future is None or future.done():
            return
        if "error" in answer:
            future.set_exception(ProtocolError(answer["code"], answer["error"]))
        else:
            future.set_result(answer["result"])

    def _follows(self, topic: str, count: int) -> None:
        self._tell("follows", topic, count)

    def _tell(self, *message: Any) -> None:
        with contextlib.suppress(OSError):
            self._writer.write(pack(message))


async def _main(fd: int) -> None:
    reader, writer = await asyncio.open_unix_connection(sock=socket.socket(fileno=fd))
    await Front(reader, writer).run()


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(_main(int(sys.argv[1])))
