from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from agentwatch.kernel import cgroup as module
from agentwatch.kernel.cgroup import PARENT, Cgroup, CgroupError, create, find_mount, path_of, sweep_stale
from tests.cgroups import FORKER, end, fresh_cgroup, member, needs_root, unused_name
from tests.kernel.conftest import ROOT, open_descriptors

root = [pytest.mark.root, needs_root]


@pytest.mark.parametrize(
    ("mounts", "found"),
    [
        ("cgroup2 /sys/fs/cgroup cgroup2 rw,nosuid 0 0\n", "/sys/fs/cgroup"),
        ("cgroup /sys/fs/cgroup/cpu cgroup rw,cpu 0 0\nnone /a/unified cgroup2 rw 0 0\n", "/a/unified"),
        ("cgroup2 /with\\040space\\134 cgroup2 rw 0 0\n", "/with space\\"),
        ("cgroup2 /looks/like cgroup rw 0 0\nnone /real cgroup2 rw 0 0\n", "/real"),
    ],
)
def test_the_mount_is_found_in_unified_and_hybrid_mode(mounts: str, found: str, tmp_path: Path) -> None:
    (tmp_path / "mounts").write_text(mounts)
    assert find_mount(tmp_path / "mounts") == Path(found)


def test_a_host_without_cgroup_v2_is_told_so(tmp_path: Path) -> None:
    (tmp_path / "mounts").write_text("cgroup /sys/fs/cgroup/cpu cgroup rw,cpu 0 0\n")
    with pytest.raises(CgroupError, match="cgroup v2 is not mounted"):
        find_mount(tmp_path / "mounts")


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", "-x", "cgroup.procs", "x" * 65, "a\n"])
def test_names_that_could_leave_the_folder_are_refused(name: str) -> None:
    with pytest.raises(CgroupError, match="not a name"):
        create(name, Path("/nonexistent"))


def test_a_mount_that_is_not_there_is_an_error() -> None:
    with pytest.raises(CgroupError, match="cannot be made"):
        create("x", Path("/nonexistent"))


@pytest.fixture
def agent() -> Iterator[Cgroup]:
    with fresh_cgroup() as cgroup:
        yield cgroup


class TestOnTheKernel:
    pytestmark = root

    def test_members(self, agent: Cgroup) -> None:
        assert not agent.populated()
        with member(agent) as process:
            assert agent.pids() == [process.pid]
            assert path_of(process.pid) == agent.path
            assert agent.populated()

    def test_moving_a_process_in_and_out(self, agent: Cgroup) -> None:
        with subprocess.Popen(["/bin/sleep", "600"]) as process, Cgroup(path_of()) as own:
            agent.move(process.pid)
            assert agent.pids() == [process.pid]
            own.move(process.pid)
            assert not agent.populated()
            process.kill()

    def test_a_process_that_ended_cannot_be_moved(self, agent: Cgroup) -> None:
        process = subprocess.Popen(["/bin/true"])
        process.wait()
        with pytest.raises(ProcessLookupError):
            agent.move(process.pid)
        with pytest.raises(ProcessLookupError):
            path_of(process.pid)

    def test_the_walk_goes_below(self, agent: Cgroup) -> None:
        inner = agent.path / "a" / "b"
        inner.mkdir(parents=True)
        (agent.path / "c").mkdir()
        with Cgroup(inner) as below, member(below, FORKER):
            while len(agent.pids()) < 8:
                pass
            assert sorted(agent.pids()) == sorted(below.pids())
            assert below.id in agent.descendants()
            assert len(agent.descendants()) == 3
            end(inner)

    def test_a_nest_deeper_than_a_path_is_long_is_walked_and_removed(self, agent: Cgroup) -> None:
        """An agent that may make cgroups must not be able to make one that cannot be removed."""
        before = open_descriptors()
        here = os.dup(agent.fileno())
        for _ in range(20):
            os.mkdir("n" * 250, dir_fd=here)
            here = module._step(here, "n" * 250)
        os.close(here)
        assert len(agent.descendants()) == 20
        assert agent.pids() == []
        assert open_descriptors() == before
        agent.remove()
        assert not agent.path.exists()

    def test_a_frozen_one_takes_members_and_is_removed(self, agent: Cgroup) -> None:
        (agent.path / "cgroup.freeze").write_text("1")
        with subprocess.Popen(["/bin/sleep", "600"]) as process:
            agent.move(process.pid)
            assert agent.pids() == [process.pid]
            process.kill()
        agent.remove()
        assert not agent.path.exists()

    def test_what_still_runs_is_not_removed(self, agent: Cgroup) -> None:
        with member(agent), pytest.raises(CgroupError, match="cannot be removed"):
            agent.remove()
        assert agent.path.exists()

    def test_a_name_in_use_is_refused(self, agent: Cgroup) -> None:
        with pytest.raises(CgroupError, match="is being watched"):
            create(agent.path.name)

    def test_a_live_one_is_never_swept(self, agent: Cgroup) -> None:
        assert agent.path.name not in sweep_stale().removed
        assert agent.path.exists()

    def test_what_a_crash_left_is_swept(self) -> None:
        name = unused_name()
        make = f"from agentwatch.kernel.cgroup import create; (create({name!r}).path / 'in').mkdir()"
        subprocess.run([sys.executable, "-c", make], cwd=ROOT, check=True)
        path = find_mount() / PARENT / name
        assert path.exists()
        assert name in sweep_stale().removed
        assert not path.exists()

    def test_what_a_crash_left_running_is_left_alone(self, agent: Cgroup) -> None:
        with member(agent) as process:
            agent.close()
            assert agent.path.name in sweep_stale().populated
            assert process.poll() is None
            with pytest.raises(CgroupError, match="still holds processes"):
                create(agent.path.name)
        assert agent.path.name in sweep_stale().removed

    def test_a_name_that_a_crash_left_behind_can_be_used_again(self, agent: Cgroup) -> None:
        (agent.path / "cgroup.freeze").write_text("1")
        agent.close()
        with create(agent.path.name) as again:
            assert (again.path / "cgroup.freeze").read_text() == "0\n"
            again.remove()

    def test_folders_of_others_are_left_alone(self, agent: Cgroup) -> None:
        foreign = agent.path.parent / unused_name()
        foreign.mkdir()
        try:
            sweep_stale()
            assert foreign.exists()
            with pytest.raises(CgroupError, match="not agentwatch's"):
                create(foreign.name)
        finally:
            foreign.rmdir()

    def test_the_parent_goes_with_the_last_and_stays_when_it_was_there_before(self) -> None:
        """In a cgroup that stands for the mount, so that other instances do not matter."""
        mount = find_mount() / unused_name()
        mount.mkdir()
        try:
            first, second = create("first", mount), create("second", mount)
            first.remove()
            assert (mount / PARENT).exists()
            second.remove()
            assert not (mount / PARENT).exists()
            (mount / PARENT).mkdir()
            create("third", mount).remove()
            assert (mount / PARENT).exists()
            (mount / PARENT).rmdir()
        finally:
            mount.rmdir()

    def test_others_cannot_hold_the_locks(self, agent: Cgroup) -> None:
        assert agent.path.stat().st_mode & 0o777 == 0o700
        assert agent.path.parent.stat().st_mode & 0o777 == 0o700

    def test_instances_that_come_and_go_at_once_do_not_disturb_each_other(self) -> None:
        mount = find_mount() / unused_name()
        mount.mkdir()
        code = (
            "import sys, os; from pathlib import Path\n"
            "from agentwatch.kernel.cgroup import create, sweep_stale\n"
            f"mount = Path({str(mount)!r})\n"
            "for _ in range(100):\n"
            "    with create(f'agent-{os.getpid()}', mount) as agent:\n"
            "        sweep_stale(mount)\n"
            "        assert agent.path.exists()\n"
            "        agent.remove()\n"
        )
        try:
            running = [subprocess.Popen([sys.executable, "-c", code], cwd=ROOT) for _ in range(3)]
            assert [process.wait() for process in running] == [0, 0, 0]
            assert not (mount / PARENT).exists()
        finally:
            mount.rmdir()
