"""docs/configuration.md, from the model.

python -m agentwatch.config.reference > docs/configuration.md
"""

from __future__ import annotations

import json
import sys
from collections.abc import Collection, Iterator

from agentwatch.config.keys import Key, keys, plain
from agentwatch.config.model import Config

_HEAD = """# Configuration

The reference below is made from `agentwatch/config/model.py` by `python -m
agentwatch.config.reference`; do not edit.

The daemon reads `/etc/agentwatch/agentwatch.toml`, then `/etc/agentwatch/agentwatch.d/*.toml` in the
order of their names. What is said later goes over what was said before; over the files go environment
variables (`AGENTWATCH_` and the key in capitals: `AGENTWATCH_POLICY_MODE=enforce`; lists are parted by
commas), over these the flags of `agentwatch daemon`. `--config FILE` names another main file, whose
drop-ins lie beside it in the folder of the same name in `.d`.

- `agentwatch config check` says all that is wrong, with file and key.
- `agentwatch config show --origin` shows every value in force and where it comes from.
- `agentwatch config schema` prints a JSON schema for editors.

What is unknown, of a wrong type, or out of its range is an error, and nothing is guessed. A daemon that
is root refuses files, and drop-in folders, that others than root own or may write.

SIGHUP, or `reload` through the control socket, reads the files anew. No agent is let go and no event
lost by it: policies change between two events, and the record of the change makes a replay change them
at the same place. A configuration with errors is named in the log and the old one stays in force.
Environment variables and flags are those that the daemon was started with. What only a restart
changes is marked below.

## Example

A host with Slurm jobs, Docker containers and a coding assistant that people start by hand:

```toml
[policy]
mode = "enforce"              # rules act ...
max_response = "pause"        # ... but never kill: an operator looks first

[control]
act_group = "agent-operators"
read_group = "agent-readers"

[[agent]]
id = "jobs"
name = "slurm-{job}"
[agent.select]
cgroup = ["**/slurmstepd.scope/job_*"]

[[agent]]
id = "containers"
name = "{container}"
max_response = "kill"
without = ["discovery"]       # these hosts scan themselves
[agent.select]
cgroup = ["system.slice/docker-*.scope", "machine.slice/libpod-*.scope"]
[agent.limits]
pids_max = 4096
memory_max = "64G"

[[agent]]
id = "assistants"
name = "{exe}-{user}-{pid}"
mode = "monitor"
[agent.select]
exe = ["claude", "codex"]
user = ["alice", "bob"]
```

The first table that matches an agent is its table; the order is that of the files. `docs/daemon.md`
says how selectors find agents.

## Rules of a policy

`only` and `without` name rules by id, by name, by a tag (`attack.t1496`) or by a tactic (`impact`,
`command-and-control`). A rule that is left out raises no alert about the agent and does nothing to it;
a correlation that counts its matches still does, and is left out by its own name. What holds only for
some time, or only for some destinations, is an exception (`rules.exceptions`, see
docs/writing-rules.md).
"""


def markdown() -> str:
    """The whole document."""
    return "\n".join([_HEAD, "## Reference\n\nKeys of no table stand first.\n", *_table(Config, "", ())])


def _table(kind: type, path: str, inherited: Collection[str]) -> Iterator[str]:
    """The keys of a table, then the tables in it, each with its heading; without the inherited keys."""
    own = [key for name, key in keys(kind).items() if name not in inherited]
    if rows := [_row(key) for key in own if not key.table]:
        yield "".join(["| key | takes | default | meaning |\n|---|---|---|---|\n", *rows])
    for key in own:
        if key.table:
            yield from _section(key, f"{path}{key.name}")


def _section(key: Key, path: str) -> Iterator[str]:
    yield f"### {f'[[{path}]]' if key.many else f'[{path}]'}\n\n{key.doc}\n"
    inherits = key.meta.get("inherits", "")
    if inherits:
        yield f"All keys of `[{inherits}]` can stand here; what does not is as it is there.\n"
    yield from _table(key.type, f"{path}.", keys(keys(Config)[inherits].type) if inherits else ())


def _row(key: Key) -> str:
    default = "" if key.default is None else f"`{json.dumps(plain(key.default))}`"
    restart = "" if key.meta["live"] else " (only a restart changes it)"
    takes, doc = (text.replace("|", "\\|") for text in (key.takes, key.doc))
    return f"| `{key.name}` | {takes} | {default} | {doc}{restart} |\n"


if __name__ == "__main__":
    sys.stdout.write(markdown())
