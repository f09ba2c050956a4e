from __future__ import annotations

import fcntl
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from agentwatch.kernel.cgroup import PARENT, Cgroup, CgroupError, create, find_mount, remove_tree, sweep
from tests.lab import eventually

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root")
NAME = f"test-cgroup-{os.getpid()}"


@pytest.fixture
def cgroup() -> Iterator[Cgroup]:
    with create(NAME) as made:
        yield made


@pytest.fixture
def mount() -> Iterator[Path]:
    """A cgroup that stands for the mount, so that the parent comes and goes whatever else runs."""
    path = find_mount() / f"{NAME}-mount"
    path.mkdir()
    yield path
    remove_tree(path)


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        ("cgroup2 /sys/fs/cgroup cgroup2 rw 0 0\n", "/sys/fs/cgroup"),
        (
            "tmpfs /sys/fs/cgroup tmpfs rw 0 0\nx /sys/fs/cgroup/unified cgroup2 rw 0 0\n",
            "/sys/fs/cgroup/unified",
        ),
        ("none /my\\040cgroups cgroup2 rw 0 0\n", "/my cgroups"),
        ("none /gruppé cgroup2 rw 0 0\n", "/gruppé"),
    ],
)
def test_mount_is_found_in_unified_and_hybrid_mode(tmp_path: Path, lines: str, expected: str) -> None:
    mounts = tmp_path / "mounts"
    mounts.write_text(lines)
    assert find_mount(mounts) == Path(expected)


def test_no_mount_is_an_error_that_says_what_to_do(tmp_path: Path) -> None:
    mounts = tmp_path / "mounts"
    mounts.write_text("cgroup /sys/fs/cgroup/cpu cgroup rw,cpu 0 0\n")
    with pytest.raises(CgroupError, match="mount -t cgroup2"):
        find_mount(mounts)


@needs_root
@pytest.mark.root
def test_directory_is_gone_afterwards_and_the_parent_with_the_last(mount: Path) -> None:
    with create("last", mount) as last:
        with create("first", mount) as cgroup:
            assert cgroup.path.is_dir()
            assert cgroup.id == cgroup.path.stat().st_ino
            assert not cgroup.populated()
        assert not cgroup.path.exists()
        assert last.path.exists()
    assert not (mount / PARENT).exists()


@needs_root
@pytest.mark.root
def test_parent_stays_while_another_instance_uses_it(cgroup: Cgroup) -> None:
    with create(f"{NAME}-other"):
        pass
    assert cgroup.path.is_dir()


@needs_root
@pytest.mark.root
def test_a_taken_name_is_refused(cgroup: Cgroup) -> None:
    with pytest.raises(CgroupError, match="watched already"):
        create(NAME)


@needs_root
@pytest.mark.root
def test_moved_process_is_inside(cgroup: Cgroup) -> None:
    with subprocess.Popen(["sleep", "60"]) as process:
        cgroup.move(process.pid)
        assert list(cgroup.processes()) == [process.pid]
        assert cgroup.populated()
        cgroup.write_kill()
        process.wait()
    eventually(lambda: not cgroup.populated())


@needs_root
@pytest.mark.root
def test_what_an_agent_made_below_is_removed_too(cgroup: Cgroup) -> None:
    (cgroup.path / "one" / "two").mkdir(parents=True)
    cgroup.close()
    assert not cgroup.path.exists()


@needs_root
@pytest.mark.root
def test_left_directory_stands() -> None:
    cgroup = create(NAME)
    cgroup.leave()
    cgroup.close()
    assert cgroup.path.is_dir()
    assert remove_tree(cgroup.path)


@needs_root
@pytest.mark.root
def test_sweep_removes_what_nobody_holds_and_nothing_else(cgroup: Cgroup) -> None:
    stale = cgroup.path.parent / f"{NAME}-stale"
    stale.mkdir()
    sweep(cgroup.path.parent)
    assert not stale.exists()
    assert cgroup.path.is_dir()
    with pytest.raises(BlockingIOError):
        fcntl.flock(os.open(cgroup.path, os.O_RDONLY), fcntl.LOCK_EX | fcntl.LOCK_NB)


@needs_root
@pytest.mark.root
def test_a_nest_deeper_than_a_path_is_long_is_walked_and_removed(cgroup: Cgroup) -> None:
    """An agent that may make cgroups must not be able to make one that cannot be removed."""
    here = os.dup(cgroup.fileno())
    for _ in range(20):
        os.mkdir("n" * 250, dir_fd=here)
        inner = os.open("n" * 250, os.O_RDONLY, dir_fd=here)
        os.close(here)
        here = inner
    procs = os.open("cgroup.procs", os.O_WRONLY, dir_fd=here)
    os.close(here)
    with subprocess.Popen(["sleep", "60"]) as process:
        os.write(procs, b"%d" % process.pid)
        os.close(procs)
        assert list(cgroup.processes()) == [process.pid]
        assert not remove_tree(cgroup.path)
        process.kill()
    cgroup.close()
    assert not cgroup.path.exists()


@needs_root
@pytest.mark.root
def test_others_cannot_hold_the_locks(cgroup: Cgroup) -> None:
    assert cgroup.path.stat().st_mode & 0o777 == 0o700


@needs_root
@pytest.mark.root
def test_instances_that_come_and_go_at_once_do_not_disturb_each_other(mount: Path) -> None:
    code = (
        "import os; from pathlib import Path; from agentwatch.kernel.cgroup import create\n"
        f"for _ in range(100):\n"
        f"    with create(f'agent-{{os.getpid()}}', Path({str(mount)!r})) as agent:\n"
        "        assert agent.path.exists()\n"
    )
    instances = [
        subprocess.Popen([sys.executable, "-c", code], cwd=Path(__file__).parents[2]) for _ in range(3)
    ]
    assert [instance.wait() for instance in instances] == [0, 0, 0]
    assert not (mount / PARENT).exists()
