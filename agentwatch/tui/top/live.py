"""A daemon's answers, over its control socket."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any, Final

from agentwatch.control.client import Client, NoDaemon
from agentwatch.control.protocol import ProtocolError
from agentwatch.tui.top.backend import BackendError, Timeline

_SECONDS: Final = 5.0  # for an answer


class Live:
    """A connection for what is told; each act has one of its own, so that it waits for nothing."""

    replay = False
    busy = ""
    timeline: Timeline | None = None

    def __init__(self, path: Path) -> None:
        self.name = str(path)
        self._path = path
        self._client: Client | None = None
        self._lock = threading.Lock()
        self.role = "read"

    def connect(self) -> None:
        with self._lock:
            if self._client is None:
                self._client = self._open()
                self.role = self._client.role

    def _open(self) -> Client:
        try:
            return Client(self._path, timeout=_SECONDS)
        except NoDaemon as error:
            raise BackendError(str(error), gone=True) from None
        except ProtocolError as error:
            raise BackendError(str(error), gone=error.code == "busy") from None

    def ask(self, verb: str, **arguments: Any) -> Any:
        with self._lock:  # answers come in the order of the questions
            if self._client is None:
                raise BackendError("the daemon does not answer", gone=True)
            try:
                return self._client.ask(verb, **arguments)
            except ProtocolError as error:
                raise BackendError(str(error)) from None
            except (OSError, ValueError, KeyError) as error:  # it is gone, or says what nobody understands
                self.close()
                raise BackendError(str(error), gone=True) from None

    def act(self, verb: str, **arguments: Any) -> Any:
        with self._open() as client:
            try:
                return client.ask(verb, **arguments)
            except ProtocolError as error:
                raise BackendError(str(error)) from None
            except (OSError, ValueError, KeyError) as error:
                raise BackendError(str(error), gone=True) from None

    def seek(self, position: int) -> None:
        raise BackendError("what happens now cannot be moved in")

    def position_at(self, text: str) -> int:
        raise ValueError("what happens now cannot be moved in")

    def close(self) -> None:
        if self._client is not None:
            self._client.close()
            self._client = None
