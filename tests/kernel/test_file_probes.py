"""What the probes report of files that real programs use."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from agentwatch.enrich.files import FileNames, FileUse
from agentwatch.schema.events import Access, ExecFlag, Type
from tests.lab import compiled
from tests.lab.watched import Watched, watched

pytestmark = [pytest.mark.root, pytest.mark.skipif(os.geteuid() != 0, reason="needs root")]

PYTHON = "/usr/bin/python3"


def run(*command: str) -> Watched:
    with watched(list(command)) as agent:
        agent.until_end()
    assert agent.named("loss") == []
    return agent


def uses(agent: Watched) -> list[FileUse]:
    names = FileNames()
    made = [names.use(row) for name, row in agent.rows if name == "file_access"]
    return [use for use in made if use is not None]


def shell(script: str) -> list[tuple[str, str, str]]:
    """What a shell script's use of files was: (access, kind, path)."""
    return [(use.access.name, use.kind, use.path) for use in uses(run("sh", "-c", script))]


@pytest.fixture
def home(tmp_path: Path) -> Path:
    for name in (".ssh", ".aws", ".kube", ".config/gcloud"):
        (tmp_path / name).mkdir(parents=True)
    for name in (".ssh/id_ed25519", ".aws/credentials", ".kube/config", ".netrc", ".bashrc"):
        (tmp_path / name).write_text("secret\n")
    return tmp_path


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        (".ssh/id_ed25519", "ssh"),
        (".aws/credentials", "cloud"),
        (".kube/config", "cluster"),
        (".netrc", "tokens"),
    ],
)
def test_reading_a_secret(home: Path, name: str, kind: str) -> None:
    assert shell(f"cat {home / name}") == [("READ", kind, str(home / name))]


def test_a_relative_path_through_a_link_leads_to_the_file(home: Path) -> None:
    (home / "harmless").symlink_to(home / ".ssh")
    assert shell(f"cd {home}; cat ./harmless/../.ssh/../harmless/id_ed25519") == [
        ("READ", "ssh", str(home / ".ssh/id_ed25519"))
    ]


def test_writing_making_and_removing(home: Path) -> None:
    key, made = home / ".ssh/id_ed25519", home / ".ssh/authorized_keys"
    assert shell(f"echo >>{key}; echo >{made}; rm {made}; cd {home}; truncate -s 0 .bashrc") == [
        ("WRITE", "ssh", str(key)),
        ("CREATE", "ssh", str(made)),
        ("DELETE", "ssh", str(made)),
        ("WRITE", "shell profile", str(home / ".bashrc")),
    ]


@pytest.mark.parametrize("how", ["rename", "rename from", "rename in", "link"])
def test_a_rename_over_a_watched_file(home: Path, how: str) -> None:
    (home / "new").write_text("")
    target = home / ".ssh/authorized_keys"
    scripts = {
        "rename": f"os.rename('{home}/new', '{target}')",
        "rename from": f"d = os.open('{home}', os.O_DIRECTORY); os.rename('new', '{target}', src_dir_fd=d)",
        "rename in": f"os.chdir('{home}/.ssh'); os.rename('../new', 'authorized_keys')",
        "link": f"os.link('{home}/new', '{target}')",
    }
    (use,) = [use for use in uses(run(PYTHON, "-c", f"import os; {scripts[how]}")) if use.kind == "ssh"]
    assert (use.path, use.source) == (str(target), str(home / "new"))
    assert use.access == (Access.LINK if how == "link" else Access.RENAME)
    assert use.truncated == frozenset()


def test_moving_a_secret_away(home: Path) -> None:
    (use,) = uses(run("mv", f"{home}/.netrc", f"{home}/plain"))
    assert (use.access, use.path, use.source) == (Access.RENAME, f"{home}/plain", f"{home}/.netrc")


@pytest.mark.parametrize("mode", ["inline", "async", "sqpoll"])
def test_io_uring_hides_nothing(home: Path, mode: str) -> None:
    program, key, other, new = compiled("io_uring_files"), home / ".ssh/a", home / ".ssh/b", home / ".ssh/c"
    key.write_text("")
    other.write_text("")
    with watched([str(program), mode, str(key), str(other), str(new)]) as agent:
        if agent.until_end() == 77:
            pytest.skip("no io_uring here")
    assert [(use.access, use.path) for use in uses(agent)] == [
        (Access.READ, str(key)),
        (Access.READ, str(other)),
        (Access.RENAME, str(new)),
        (Access.DELETE, str(new)),
    ]


def test_persistence_in_a_mount_namespace_of_its_own(tmp_path: Path) -> None:
    known = {
        "cron.d": "cron",
        "systemd/system": "service",
        "profile.d": "shell profile",
        "sudoers.d": "sudoers",
    }
    kinds = {name: kind for name, kind in known.items() if Path("/etc", name).is_dir()}
    for name in kinds:
        (tmp_path / name).mkdir(parents=True)
    script = " && ".join(f"mount --bind {tmp_path / n} /etc/{n} && echo x >/etc/{n}/aw" for n in kinds)
    agent = run("unshare", "-m", "sh", "-c", script)
    assert [(use.access, use.kind, use.path) for use in uses(agent)] == [
        (Access.CREATE, kind, f"/etc/{name}/aw") for name, kind in kinds.items()
    ]


def test_another_root_hides_nothing(home: Path) -> None:
    (home / "etc").mkdir()
    (home / "etc/shadow").write_text("")
    code = f"import os; os.chroot('{home}'); open('/etc/shadow')"
    (use,) = uses(run(PYTHON, "-c", code))
    assert (use.path, use.kind) == (f"{home}/etc/shadow", "accounts")


def test_the_environment_of_others_and_not_its_own() -> None:
    code = f"open('/proc/self/environ'); open('/proc/{os.getpid()}/environ')"
    (use,) = uses(run(PYTHON, "-c", code))
    assert (use.kind, use.path) == ("memory", f"/proc/{os.getpid()}/environ")


def test_ordinary_work_is_silent(tmp_path: Path) -> None:
    code = "import json, http.client, sqlite3, ssl, socket; open('/etc/passwd').read(); open('/etc/hosts')"
    assert uses(run(PYTHON, "-c", code)) == []
    assert shell(f"cd {tmp_path} && git init -q --template= . && ls -la / && cat /proc/self/status") == []


def test_a_path_longer_than_is_read_is_told_as_cut(tmp_path: Path) -> None:
    long = tmp_path / Path(*["d" * 100] * 6)
    long.mkdir(parents=True)
    (long / "x").write_text("")
    (use,) = uses(run("rm", str(long / "x")))
    assert "TargetFilename" in use.truncated


def test_a_program_that_the_agent_wrote_is_marked(tmp_path: Path) -> None:
    given = tmp_path / "given"
    shutil.copy("/bin/true", given)
    agent = run("sh", "-c", f"cp /bin/true {tmp_path}/part && mv {tmp_path}/part {tmp_path}/own && "
                f"{tmp_path}/own && {given}")  # fmt: skip
    flags = {p.exe: p.flags for p in agent.session.state.processes.all()}
    assert flags[f"{tmp_path}/own"] & ExecFlag.WRITTEN
    assert not flags[str(given)] & ExecFlag.WRITTEN


def test_repeated_opens_are_told_once_and_again_for_another_process(home: Path) -> None:
    code = f"for i in range(1000): open('{home}/.netrc').close()"
    assert len(uses(run(PYTHON, "-c", code))) == 1
    assert len(uses(run("sh", "-c", f"cat {home}/.netrc; cat {home}/.netrc; true"))) == 2


def test_a_flood_of_opens_loses_nothing_else(tmp_path: Path) -> None:
    folder = tmp_path / ".ssh"
    folder.mkdir()
    code = f"""
        for i in range(20000):
            open('{folder}/%d' % i, 'w').close()
            open('/dev/null').close()
        import os
        os.execv('/bin/true', ['last'])
    """
    with watched([PYTHON, "-c", textwrap.dedent(code)]) as agent:
        agent.until_end()
    lost = {loss["event"] for loss in agent.named("loss")}
    assert lost <= {Type.FILE_ACCESS}, "only the flood itself may be lost, and is counted"
    assert any(p.argv == ("last",) for p in agent.session.state.processes.all())


def test_who_is_no_agent_is_not_seen(home: Path) -> None:
    with watched(["sleep", "0.5"]) as agent:
        subprocess.run([sys.executable, "-c", f"open('{home}/.netrc')"], check=True)
        agent.until_end()
    assert uses(agent) == []
