from __future__ import annotations

import pytest

from agentwatch.enrich import watched_files
from agentwatch.enrich.watched_files import CHANGED, USED, kind
from agentwatch.schema.events import WATCHED_LEVELS, WATCHED_NAME, Access


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("/root/.ssh/id_ed25519", "ssh"),
        ("/home/a/.ssh/keys/deploy", "ssh"),
        ("/host/etc/shadow", "accounts"),
        ("/home/a/.aws/sso/cache/x.json", "cloud"),
        ("/run/secrets/kubernetes.io/serviceaccount/..2026/token", "cluster"),
        ("/proc/1/environ", "memory"),
        ("/proc/12/task/13/mem", "memory"),
        ("/home/a/.mozilla/firefox/x.default/logins.json", "browser"),
        ("/home/a/.config/google-chrome/Default/Login Data", "browser"),
        ("/dev/net/tun", "device"),
        ("/etc/ssh/ssh_host_rsa_key", "ssh"),
    ],
)
def test_secrets_are_watched_when_read(path: str, expected: str) -> None:
    assert kind(path, Access.READ) == expected
    assert kind(path, Access.WRITE) == expected


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("/etc/passwd", "accounts"),
        ("/etc/ld.so.preload", "loader"),
        ("/etc/cron.d/x", "cron"),
        ("/var/spool/cron/crontabs/root", "cron"),
        ("/etc/systemd/system/x.service", "service"),
        ("/home/a/.config/systemd/user/x.service.d/override.conf", "service"),
        ("/root/.bashrc", "shell profile"),
        ("/usr/lib/python3/dist-packages/x.pth", "python start"),
        ("/proc/sys/kernel/core_pattern", "kernel"),
        ("/sys/fs/cgroup/x/cgroup.freeze", "cgroup"),
        ("/sys/fs/bpf/agentwatch", "monitor"),
    ],
)
def test_what_is_public_is_watched_when_changed_only(path: str, expected: str) -> None:
    assert kind(path, Access.READ) == ""
    for access in (Access.WRITE, Access.CREATE, Access.RENAME, Access.DELETE, Access.LINK):
        assert kind(path, access) == expected


@pytest.mark.parametrize(
    "path",
    ["/", "/etc/hostname", "/etc/ssh/ssh_config", "/work/.ssh", "/a/shadow", "/usr/lib/python3/site.py",
     "/dev/null", "/proc/1/stat", "/usr/lib/python3/dist-packages/x.py", "/etc/x/shadow"],
)  # fmt: skip
def test_near_misses_are_not_watched(path: str) -> None:
    assert kind(path, Access.WRITE) == ""


def test_the_kernel_looks_for_a_name_of_every_pattern() -> None:
    names = watched_files.names()
    for table, bit in ((USED, 0), (CHANGED, WATCHED_LEVELS)):
        for patterns in table.values():
            for pattern in patterns:
                example = pattern.replace("**", "x").replace("*", "y")
                parts = example.split("/")[::-1][:WATCHED_LEVELS]
                assert any(names.get(part, 0) >> (bit + level) & 1 for level, part in enumerate(parts)), (
                    pattern
                )
                assert kind(f"/some/where/{example}", Access.WRITE), pattern


def test_names_fit_the_kernels_key_and_its_map() -> None:
    names = watched_files.names()
    assert max(len(name.encode()) for name in names) < WATCHED_NAME
    assert len(names) < 1024
    assert max(names.values()) < 1 << 2 * WATCHED_LEVELS
