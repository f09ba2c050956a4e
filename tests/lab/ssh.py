"""ssh as agents use it: the forms of a remote forward, and honest ones that resemble them.

Each function gives a command to be run where `account` can be reached, such as through
`Lab.inside`. `target` is the port on the agent's loopback that a forward leads to, `folder`
where the command may have files.
"""

from __future__ import annotations

import shutil
from pathlib import Path

from agentwatch.demo.sshd import PAGE_PORT, VISITED_PORT, Account
from tests.lab import script


def destination(account: Account) -> str:
    """Whom to log in as, and where."""
    return f"root@{account.host.ipv4}"


def _forward(target: int) -> str:
    return f"127.0.0.1:{VISITED_PORT}:127.0.0.1:{target}"


def _remote_forward(program: str, account: Account, target: int) -> list[str]:
    return [program, "-N", "-R", _forward(target), *account.options(), destination(account)]


def remote_forward(account: Account, target: int, folder: Path) -> list[str]:
    """The plain form: ssh -N -R."""
    del folder
    return _remote_forward("ssh", account, target)


def renamed(account: Account, target: int, folder: Path) -> list[str]:
    """The same with a copy of ssh under another name."""
    copy = folder / "rsync-helper"
    shutil.copy("/usr/bin/ssh", copy)
    return _remote_forward(str(copy), account, target)


def configured(account: Account, target: int, folder: Path) -> list[str]:
    """The forward in a configuration file; the command line shows nothing of it."""
    keys = [line.split("=", 1) for line in account.options() if "=" in line]
    lines = [
        "Host backup",
        f"HostName {account.host.ipv4}",
        "User root",
        f"IdentityFile {account.key}",
        f"RemoteForward {_forward(target).replace(':127', ' 127')}",
        *(f"{key} {value}" for key, value in keys),
    ]
    config = folder / "config"
    config.write_text("\n".join(lines) + "\n")
    return ["ssh", "-N", "-F", str(config), "backup"]


def git_clone(account: Account, repository: Path, into: Path) -> list[str]:
    """Honest: git clone over ssh."""
    command = " ".join(["ssh", *account.options()])
    url = f"ssh://{destination(account)}{repository}"
    return ["git", "-c", f"core.sshCommand={command}", "clone", "-q", url, str(into)]


def local_forward_in_use(account: Account) -> list[str]:
    """Honest: ssh -L, and two pages read through it."""
    return script("local_forward", PAGE_PORT, *account.options(), destination(account))
