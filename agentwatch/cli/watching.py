"""What `run` and `attach` share: their options, and how what goes wrong is told. Light to import."""

from __future__ import annotations

import contextlib
import json
import os
import re
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeVar

import click

from agentwatch.cli.exits import Exit, Failure
from agentwatch.cli.paths import STANDARD_OUTPUT, trace_file
from agentwatch.control import SOCKET, VARIABLE
from agentwatch.kernel.cgroup import CgroupError, find_mount
from agentwatch.kernel.errors import KernelError
from agentwatch.markers import VARIABLE as MARKERS
from agentwatch.markers import parse
from agentwatch.rules.levels import LEVELS
from agentwatch.rules.model import RuleError
from agentwatch.trace.error import TraceError
from agentwatch.watch import Options

if TYPE_CHECKING:
    from agentwatch.trace.sign import Signer


_SERVICE: Final = "system.slice/agentwatch.service"
_STARTING: Final = 10.0  # seconds that a service which runs is waited for; it starts in about two
_AGAIN: Final = 0.1


def _service_runs() -> bool:
    """Whether systemd runs the daemon as a service, which is being started where it does not answer."""
    with contextlib.suppress(OSError, CgroupError):
        return "populated 1" in (find_mount() / _SERVICE / "cgroup.events").read_text()
    return False


def _left_agents(path: Path) -> bool:
    """Whether a daemon at this socket ended with agents that the next one is to take up again."""
    with contextlib.suppress(OSError, ValueError, LookupError, TypeError):
        return bool(json.loads(path.with_name("agents.json").read_bytes())["agents"])
    return False


@dataclass(frozen=True, slots=True)
class Settings:
    """The options, by the names of their parameters."""

    name: str | None
    mode: str | None
    max_response: str | None
    rule_paths: tuple[Path, ...]
    exceptions: tuple[Path, ...]
    alerts: Path | None
    record: Path | None
    on_pause: str
    as_json: bool
    live: bool
    fail_on: str | None
    strict: bool
    training: tuple[str, ...]
    markers: dict[str, str]
    sign: Path | None
    socket: Path | None
    alone: bool

    def daemon(self) -> Path | None:
        """The control socket of the daemon that is to watch; None where this process does."""
        path = self.socket or Path(os.environ.get(VARIABLE) or SOCKET)
        is_starting = path == SOCKET and _service_runs()
        if self.alone or not (self.socket or path.exists() or is_starting or _left_agents(path)):
            return None
        if own := self._own():
            click.echo(f"agentwatch: watching without the daemon, which has no {', '.join(own)}", err=True)
            return None
        from agentwatch.control.client import Client, NoDaemon  # noqa: PLC0415 (only where a daemon may be)
        from agentwatch.control.protocol import ProtocolError  # noqa: PLC0415

        end = time.monotonic() + (_STARTING if is_starting else 0)
        while True:
            try:
                Client(path).close()
            except NoDaemon as error:
                if time.monotonic() < end:
                    time.sleep(_AGAIN)
                    continue
                if self.socket is not None:
                    raise Failure(str(error)) from None
                click.echo(f"agentwatch: {error}: watching alone, in mode {self.mode or 'monitor'}", err=True)
                return None
            except ProtocolError as error:
                raise Failure(f"{error} (--alone watches without it)") from None
            return path

    def _own(self) -> list[str]:
        """The options given that a daemon cannot serve: it has rules and recordings of its own."""
        given = {
            "--rules": self.rule_paths,
            "--exceptions": self.exceptions,
            "--record": self.record,
            "--training": self.training,
            "--live": self.live,
        }
        return [option for option, value in given.items() if value]

    @classmethod
    def given(cls, **values: Any) -> Settings:
        """From the options as they were given."""
        if values["alerts"] == STANDARD_OUTPUT:
            values |= {"alerts": None, "as_json": True}
        return cls(**values)

    def watch(self, name: str, command: tuple[str, ...] = (), *, running: bool = False) -> Options:
        """How the agent is watched."""
        return Options(name, self.mode or "monitor", command, running, self.max_response or "kill")

    def signer(self) -> Signer | None:
        """What signs the trace. Raises `TraceError` for a key that cannot be used."""
        if self.sign is None:
            return None
        if self.record is None:
            raise click.UsageError("--sign signs what --record writes")
        from agentwatch.trace.sign import read_signer  # noqa: PLC0415 (few sign)

        return read_signer(self.sign)

    def agent_name(self, default: str) -> str:
        """`--name`, or one made from `default`: letters, digits, dots, dashes and underscores."""
        if self.name is None:
            return re.sub(r"[^A-Za-z0-9_-]+", "-", default).strip("-")[:32] or "agent"
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}", self.name):
            raise click.UsageError("--name takes letters, digits, dots, dashes and underscores, 64 at most")
        return self.name


def _markers(texts: Sequence[str]) -> dict[str, str]:
    """Those of the environment, and those of the options, which go before."""
    try:
        return {**parse(os.environ.get(MARKERS, ""), ","), **parse("\n".join(texts))}
    except ValueError as error:
        raise click.BadParameter(str(error)) from None


Function = TypeVar("Function", bound=Callable[..., None])

_OPTIONS = (
    click.option("--name", help="Name of the agent; made from what is watched where it is not given."),
    click.option(
        "--mode",
        type=click.Choice(["monitor", "enforce"]),
        help="Only tell (monitor), or pause and kill as the rules say (enforce). Where it is not given: what "
        "the daemon's configuration says, without a daemon monitor.",
    ),
    click.option(
        "--max-response",
        type=click.Choice(["alert", "block", "pause", "kill"]),
        help="With --mode enforce: never do more than this. A rule that says kill then pauses, say. Where it "
        "is not given: what the daemon's configuration says, without a daemon kill.",
    ),
    click.option(
        "--rules",
        "rule_paths",
        multiple=True,
        type=click.Path(exists=True, path_type=Path),
        help="Sigma rules: a file or folder; may be repeated. The shipped rules where it is not given. "
        "They are loaded again when they change, and on SIGHUP.",
    ),
    click.option(
        "--exceptions",
        multiple=True,
        type=click.Path(exists=True, dir_okay=False, path_type=Path),
        help="What rules are not to say of whom, until when: a file; may be repeated.",
    ),
    click.option(
        "--alerts",
        type=click.Path(path_type=Path, allow_dash=True),
        metavar="FILE",
        help="Write alerts to FILE, one JSON object a line; - is --json.",
    ),
    click.option(
        "--record",
        type=click.Path(path_type=Path),
        metavar="FILE",
        callback=trace_file,
        help="Record a trace to FILE, for `replay`.",
    ),
    click.option(
        "--sign",
        type=click.Path(exists=True, dir_okay=False, path_type=Path),
        help="With --record: sign the trace with this Ed25519 key (`openssl genpkey -algorithm ed25519`).",
    ),
    click.option(
        "--on-pause",
        type=click.Choice(["wait", "kill", "leave", "resume"]),
        default="wait",
        show_default=True,
        help="What happens to a paused agent. wait: ask on a terminal, else wait for a signal. "
        "leave: end, the tree stays frozen. resume: let it go on, for demonstrations.",
    ),
    click.option(
        "--json",
        "as_json",
        is_flag=True,
        help="Alerts on standard output; a command's goes to standard error.",
    ),
    click.option(
        "--live", is_flag=True, help="Draw processes, flows and alerts while it runs; needs a terminal."
    ),
    click.option(
        "--fail-on",
        type=click.Choice(LEVELS),
        help="End with 3 when there was an alert at or above this level.",
    ),
    click.option(
        "--training",
        multiple=True,
        metavar="PATH",
        callback=lambda context, option, paths: tuple(map(os.path.abspath, paths)),
        help="A program or script that is the training job, also where a shell of the agent's starts it: "
        "its load on GPUs is expected. May be repeated.",
    ),
    click.option(
        "--mark",
        "markers",
        multiple=True,
        metavar="NAME=VALUE",
        callback=lambda context, option, texts: _markers(texts),
        help=f"A marker on the agent, such as run=7: alerts show it. May be repeated; ${MARKERS} sets some, "
        "too, divided by commas.",
    ),
    click.option("--strict", is_flag=True, help="End with 6 when events were lost."),
    click.option(
        "--socket",
        type=click.Path(path_type=Path),
        help=f"The control socket of the daemon that is to watch; where it is not given {SOCKET} or "
        f"${VARIABLE}, if a daemon is there.",
    ),
    click.option(
        "--alone",
        is_flag=True,
        help="Watch in this process, also where a daemon runs. So do --rules, --exceptions, --record, "
        "--training and --live.",
    ),
)


def options(function: Function) -> Function:
    """Give a verb the options of `Settings`."""
    for option in reversed(_OPTIONS):
        function = option(function)
    return function


def require_root() -> None:
    """Watching needs it."""
    if os.geteuid():
        raise Failure("watching needs root: run it with sudo", Exit.PRIVILEGE)


@contextlib.contextmanager
def explained() -> Iterator[None]:
    """What can go wrong before watching begins, as a sentence and the contract's exit code."""
    try:
        yield
    except CgroupError as error:
        raise Failure(str(error), Exit.PRIVILEGE) from None
    except KernelError as error:
        raise Failure(f"{error}\n`agentwatch doctor` says what this host lacks.", Exit.PRIVILEGE) from None
    except RuleError as error:
        raise Failure(f"the rules cannot be used:\n{error}") from None
    except TraceError as error:
        raise Failure(f"the trace cannot be written: {error}") from None
