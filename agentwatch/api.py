"""For trainers: an agent of its own for what an episode starts.

    import agentwatch

    with agentwatch.watch("episode-7", run=3, seed=11) as agent:
        agent.run(["python", "episode.py"], check=True)
        subprocess.Popen(command, **agent.popen())
        agent.mark(tool="shell")

The daemon makes the agent, a cgroup beside others that it watches, and moves what is started with
`run` or `popen` into it before the program begins. Who may act on agents may do this (see [control]
in the configuration); a process that is part of an agent may not. Without a daemon everything runs
as if `watch` were not there, and one warning says so.
"""

from __future__ import annotations

import os
import subprocess
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, TypedDict

from agentwatch.control import SOCKET, VARIABLE
from agentwatch.control.client import Client, NoDaemon
from agentwatch.control.protocol import ProtocolError


class NotWatched(RuntimeError):
    """There is no daemon, or it refuses."""


class _Arguments(TypedDict, total=False):
    preexec_fn: Callable[[], None]


class Agent:
    """What `watch` gives. `name` is the agent's, empty where nothing watches."""

    def __init__(self, name: str, path: Path) -> None:
        self.name = name
        self._path = path

    def popen(self) -> _Arguments:
        """Arguments for `subprocess.Popen`: the child becomes part of the agent before its program begins.

        They are a `preexec_fn`, with what the documentation of subprocess says of it: the child talks to
        the daemon over a socket between fork and exec. The start of a child that cannot be taken in fails.
        """
        return {"preexec_fn": self.enter} if self.name else {}

    def run(
        self, command: Sequence[str], *, check: bool = False, **options: Any
    ) -> subprocess.CompletedProcess[Any]:
        """`subprocess.run`, in the agent. Waits as long as the agent is paused."""
        return subprocess.run(command, check=check, **options, **self.popen())

    def enter(self) -> None:
        """Make the calling process part of the agent, for good; for a child that was just forked."""
        if self.name:
            with Client(self._path) as client:
                client.ask("enter", agent=self.name)

    def mark(self, **markers: object) -> None:
        """Set markers on the whole agent; None takes one away. Raises `NotWatched`."""
        if self.name and markers:
            _ask(self._path, "mark", agent=self.name, markers=_texts(markers))


@contextmanager
def watch(name: str, *, required: bool = False, **markers: object) -> Iterator[Agent]:
    """An agent for what the block starts with it, with these markers; another agent's name gets a number.

    It ends with the block: what still runs in it is killed, unless the agent is paused, which is left
    to an operator. It ends with this process, too. Raises `NotWatched` where `required` and there is no
    daemon or it refuses.
    """
    path = Path(os.environ.get(VARIABLE) or SOCKET)
    try:
        agent = Agent(_ask(path, "begin", name=name, markers=_texts(markers))["agent"], path)
    except NotWatched as error:
        if required:
            raise
        warnings.warn(f"agentwatch watches nothing here: {error}", RuntimeWarning, stacklevel=3)
        agent = Agent("", path)
    try:
        yield agent
    finally:
        if agent.name:
            with suppress(NotWatched):  # it has ended already, or the daemon has
                _ask(path, "end", agent=agent.name)


def _texts(markers: dict[str, object]) -> dict[str, str]:
    return {name: "" if value is None else str(value) for name, value in markers.items()}


def _ask(path: Path, verb: str, **arguments: Any) -> Any:
    try:
        with Client(path) as client:
            return client.ask(verb, **arguments)
    except (NoDaemon, ProtocolError) as error:
        raise NotWatched(str(error)) from None
