"""The daemon as the watcher of what `run` starts and `attach` names.

Its probes, rules and policy are in force, and the agent is in its `ps`. Here alerts are shown, pauses
answered, and the end awaited: by the agent's cgroup, so that a daemon that dies holds nobody up.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Final

from agentwatch.cli.exits import Exit, Failure
from agentwatch.cli.runner import AlertSink
from agentwatch.cli.watching import Settings
from agentwatch.control import SOCKET
from agentwatch.control.client import Client, NoDaemon
from agentwatch.control.protocol import ProtocolError
from agentwatch.enrich.state import State as Seen
from agentwatch.kernel.cgroup import Cgroup
from agentwatch.respond import cgroup as mechanics
from agentwatch.tui.live import State

_SECONDS: Final = 10.0  # for an answer
_AGAIN: Final = 0.25  # seconds between looks for a daemon that has ended
_SEEN: Final = 2000  # alerts that are known again, more than the daemon keeps
_BY_HAND: Final = {"pause": mechanics.freeze, "resume": mechanics.thaw, "kill": mechanics.kill}

Item = tuple[str, Any]


@contextmanager
def explained() -> Iterator[None]:
    """What the daemon refuses, as a sentence."""
    try:
        yield
    except NoDaemon as error:
        raise Failure(str(error)) from None
    except ProtocolError as error:
        code = Exit.PRIVILEGE if error.code == "denied" else Exit.FAILURE
        raise Failure(f"the daemon refuses: {error} (--alone watches without it)", code) from None


class Served:
    """An agent that the daemon at `path` watches from now on; alerts go to `sink`.

    `register` is the request that makes it one: `begin` with a name, or `attach` with a target. With
    `begin` the agent ends with this watch: what is left in it is killed, unless it is paused. Raises
    `NoDaemon`, `ProtocolError`.
    """

    def __init__(
        self, path: Path, sink: AlertSink, settings: Settings, register: str, **request: str | None
    ) -> None:
        self._path, self._sink, self._register = path, sink, register
        self._alerts: dict[str, None] = {}
        self._items: queue.Queue[Item] = queue.Queue()
        self._pending: list[Item] = []
        self._closing = threading.Event()
        self._away = self._missed = self._ended = False
        self._lost = 0
        self._state: State = "running"
        self.seen = Seen()
        terms = {"mode": settings.mode, "max_response": settings.max_response}
        with Client(path, timeout=_SECONDS) as client:
            self._daemon = client.ask("status")["pid"]
            self._first = client.ask("alerts", limit=0)["last"]
            found = client.ask(register, **request, **terms)
            self.name = found["agent"]
            self.cgroup = _cgroup(found["cgroup"])
            self.mode = next(one["mode"] for one in client.ask("agents") if one["name"] == self.name)
            if settings.markers:
                client.ask("mark", agent=self.name, markers=settings.markers)
            self._lost_before = self._count_lost(client)

    def follow(self) -> None:
        """See alerts from now on. Raises `NoDaemon`."""
        threading.Thread(target=self._follow, name="alerts", daemon=True).start()
        try:
            self._pending = [self._items.get(timeout=_SECONDS)]  # from here on alerts are seen
        except queue.Empty:
            raise NoDaemon("the daemon does not answer") from None

    # --- In the follower's thread -----------------------------------------------------------------

    def _follow(self) -> None:
        while not self._closing.is_set():
            try:
                with Client(self._path, timeout=None) as client:
                    for item, dropped in client.follow("alerts", agent=self.name):
                        if dropped:
                            self._items.put(("dropped", dropped))
                        self._items.put(("alert", item) if "rule" in item else ("latest", item))
            except (OSError, ProtocolError) as error:
                self._items.put(("gone", str(error)))
                self._closing.wait(_AGAIN)

    # --- In the command's -------------------------------------------------------------------------

    def step(self, seconds: float) -> Iterator[str]:
        with suppress(queue.Empty):
            self._pending.append(self._items.get(timeout=seconds))
            while True:
                self._pending.append(self._items.get_nowait())
        pending, self._pending = self._pending, []
        for kind, item in pending:
            yield from self._take(kind, item)
        was, self._state = self._state, self._look()
        if self._state != was:
            # The kernel tells of a freeze before the daemon does: who is asked about it knows why.
            with suppress(OSError, ProtocolError), Client(self._path, timeout=_SECONDS) as client:
                self._catch_up(client)

    def _look(self) -> State:
        events = self.cgroup.events()
        return "paused" if events["frozen"] and events["populated"] else "running"

    def _catch_up(self, client: Client) -> None:
        """Take all alerts of what has happened until now. Two answers: between them the core has folded
        what the first found undone."""
        client.ask("status")
        self._show_all(client.ask("alerts", agent=self.name))

    def _take(self, kind: str, item: Any) -> Iterator[str]:
        if kind == "alert":
            self._show(item)
        elif kind == "latest":
            yield from self._connected(item)
        elif kind == "dropped":
            yield f"{item} alerts are not shown: they came faster than they were read"
        elif kind == "gone" and not self._away:
            self._away = True
            yield (
                f"{item}: the agent goes on, a frozen one stays frozen; until a daemon answers again, what "
                "it does may not be seen"
            )

    def _connected(self, latest: dict[str, Any]) -> Iterator[str]:
        """The daemon answers, for the first time or again: what it said meanwhile."""
        try:
            with Client(self._path, timeout=_SECONDS) as client:
                daemon = client.ask("status")["pid"]
                is_watched = any(one["name"] == self.name for one in client.ask("agents"))
        except (OSError, ProtocolError):
            return  # the follower tells
        if daemon != self._daemon:
            self._daemon, self._first, self._missed = daemon, 0, True
            yield (
                f"a daemon runs again (process {daemon}) and watches agent {self.name}"
                if is_watched
                else (f"the daemon that runs now (process {daemon}) does not watch agent {self.name}")
            )
        elif self._away:
            yield "the daemon answers again; it has watched all the time"
        self._away = False
        self._show_all(latest)

    def _show_all(self, latest: dict[str, Any]) -> None:
        for number, alert in zip(latest["numbers"], latest["alerts"], strict=True):
            if number > self._first:
                self._show(alert)

    def _show(self, alert: dict[str, Any]) -> None:
        """Once: an answer may hold what was told before."""
        key = f"{alert['time']} {alert['rule']['id']} {alert['evidence']} {alert['process']['pid']}"
        if key in self._alerts:
            return
        self._alerts[key] = None
        if len(self._alerts) > _SEEN:
            del self._alerts[next(iter(self._alerts))]
        self._sink(alert)

    def state(self) -> State:
        return self._state

    def by_hand(self, response: str, who: str) -> None:
        """By the daemon, which keeps an account of it; where there is none, here."""
        try:
            with Client(self._path, timeout=_SECONDS) as client:
                client.ask(response, agent=self.name, reason=who)
        except (OSError, ProtocolError):
            _BY_HAND[response](self.cgroup)

    def reload(self) -> None:
        """The rules are the daemon's."""

    def finish(self) -> list[str]:
        """End what was begun, and take the alerts that are left."""
        notices = list(self.step(0))
        self._closing.set()
        try:
            with Client(self._path, timeout=_SECONDS) as client:
                self._end(client)
                self._catch_up(client)
                self._lost = max(0, self._count_lost(client) - self._lost_before)
        except (OSError, ProtocolError) as error:
            notices.append(f"alerts of the last moments may be missing: {error}")
        return notices

    def _end(self, client: Client) -> None:
        if self._register == "begin" and not self._ended:
            self._ended = True
            with suppress(ProtocolError):  # it was detached by hand, or no later daemon took it up
                client.ask("end", agent=self.name)

    def _count_lost(self, client: Client) -> int:
        return sum(row["count"] for row in client.ask("health")["lost"] if row["agent"] == self.name)

    def records(self) -> None:
        """The daemon's are those of all agents."""

    def lost(self) -> int:
        return self._lost

    def partial(self) -> bool:
        return self._missed or self._away or self._lost > 0

    def way(self, response: str) -> str:
        option = "" if self._path == SOCKET else f"--socket {self._path} "
        return f"agentwatch {response} {option}{self.name}"

    def __enter__(self) -> Served:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """However the watch ends, no tree that was begun goes on without one, but for a frozen one."""
        self._closing.set()
        try:
            with Client(self._path, timeout=_SECONDS) as client:
                self._end(client)
        except (OSError, ProtocolError):
            if self._register == "begin" and not self.cgroup.frozen() and self.cgroup.populated():
                mechanics.kill(self.cgroup)
        self.cgroup.close()


def _cgroup(path: str) -> Cgroup:
    try:
        return Cgroup(Path(path), made=False)
    except OSError as error:
        raise ProtocolError("failed", f"{path} is not seen from here: {error.strerror}") from None
