"""The files whose use is told, by kind: the one place where they are listed.

A pattern is the end of a path: `*` stands for anything within a name, a last `**` for one to three
names. It does not say where the path begins, so that it holds below another root and in any home.
The kernel knows of each pattern one name and how far above the file it stands (`names`); what has
that name there comes to user space, which compares the whole.
"""

from __future__ import annotations

from collections.abc import Iterator
from fnmatch import fnmatchcase
from functools import cache, lru_cache
from typing import NamedTuple

from agentwatch.schema.events import WATCHED_LEVELS, WATCHED_NAME, Access

_DEEP = "**"
_READ, _WRITE = 1, 1 << WATCHED_LEVELS  # what the kernel's mask says of level 0

# Read or written. What is secret, and what gives power over the host.
USED: dict[str, tuple[str, ...]] = {
    "ssh": (".ssh/**", "etc/ssh/ssh_host_*_key"),
    "accounts": ("etc/shadow", "etc/shadow-", "etc/gshadow", "etc/gshadow-", "etc/security/opasswd"),
    "sudoers": ("etc/sudoers", "etc/sudoers.d/*"),
    "kerberos": ("etc/krb5.keytab",),
    "cloud": (
        ".aws/**",
        ".azure/**",
        ".config/gcloud/**",
        ".config/doctl/config.yaml",
        ".oci/**",
        ".config/rclone/rclone.conf",
        ".s3cfg",
        ".boto",
        ".terraform.d/credentials.tfrc.json",
        ".vault-token",
        ".config/hcloud/cli.toml",
        ".linode-cli",
        ".config/linode-cli",
        ".runpod/config.toml",
        ".config/vastai/*",
        ".lambda_cloud/*",
        ".pulumi/credentials.json",
        ".terraformrc",
        ".aliyun/config.json",
    ),
    "cluster": (
        ".kube/**",
        "serviceaccount/**",
        "etc/kubernetes/**",
        "var/lib/kubelet/**",
        ".docker/config.json",
        "containers/auth.json",
        "etc/rancher/**",
        ".dockercfg",
        "secrets/azure/tokens/*",
        "volumes/kubernetes.io~projected/**",
    ),
    "tokens": (
        ".netrc",
        ".git-credentials",
        ".config/git/credentials",
        ".config/gh/hosts.yml",
        ".config/glab-cli/config.yml",
        ".npmrc",
        ".yarnrc.yml",
        ".pypirc",
        ".cargo/credentials",
        ".cargo/credentials.toml",
        ".gem/credentials",
        ".pgpass",
        ".my.cnf",
        ".huggingface/token",
        "huggingface/token",
        "huggingface/stored_tokens",
        ".config/openai/*",
        ".claude/.credentials.json",
        ".codex/auth.json",
        ".config/op/config",
        ".claude.json",
        ".gemini/oauth_creds.json",
        ".config/github-copilot/*",
        ".local/share/opencode/auth.json",
        ".aider.conf.yml",
        ".kaggle/kaggle.json",
        ".config/kaggle/kaggle.json",
        ".config/wandb/settings",
        ".config/hub",
        ".config/pypoetry/auth.toml",
        ".m2/settings.xml",
        ".password-store/**",
    ),
    "keys": (".gnupg/**", "keyrings/*.keyring", "kwalletd/*", "etc/ssl/private/*", "etc/wireguard/*"),
    "browser": (
        "logins.json",
        "key4.db",
        "cookies.sqlite",
        "Login Data",
        "Cookies",
        "Web Data",
        "Local State",
    ),
    "wallet": (
        "wallet.dat",
        ".bitcoin/**",
        ".litecoin/**",
        ".dogecoin/**",
        ".electrum/wallets/*",
        ".ethereum/keystore/*",
        "keystore/UTC--*",
        ".config/solana/id.json",
        ".config/Exodus/**",
        "Exodus/exodus.wallet/*",
        ".bitmonero/**",
        "Monero/wallets/**",
        "Atomic/Local Storage/leveldb/*",
        ".walletwasabi/**",
        ".sui/**",
    ),
    "history": (".bash_history", ".zsh_history", ".python_history", ".mysql_history", ".psql_history"),
    "memory": (
        "proc/*/mem",
        "proc/*/environ",
        "task/*/mem",
        "task/*/environ",
        "proc/kcore",
        "dev/mem",
        "dev/kmem",
        "dev/port",
    ),
    "gpu": ("dev/nvidiactl", "dev/nvidia-uvm", "dev/kfd", "dev/dri/*"),
    "device": ("dev/net/tun", "dev/kmsg", "dev/kvm", "dev/fuse"),
}

# Written, made, renamed or removed only: whoever reads them learns nothing.
CHANGED: dict[str, tuple[str, ...]] = {
    "accounts": ("etc/passwd", "etc/group", "etc/subuid", "etc/subgid", "etc/nsswitch.conf", "etc/hosts"),
    "authentication": ("etc/pam.d/*", "etc/pam.conf", "security/pam_*.so", "etc/ssh/sshd_config",
                       "sshd_config.d/*", "etc/ssh/sshrc", "authorized_keys.d/*", "polkit-1/rules.d/*",
                       "etc/doas.conf"),
    "shell profile": (
        ".bashrc",
        ".bash_profile",
        ".bash_login",
        ".bash_logout",
        ".bash_aliases",
        ".profile",
        ".zshrc",
        ".zshenv",
        ".zprofile",
        ".zlogin",
        ".zlogout",
        ".config/fish/config.fish",
        "fish/conf.d/*",
        "etc/profile",
        "etc/profile.d/*",
        "etc/bash.bashrc",
        "etc/bashrc",
        "etc/zsh/*",
        "etc/zshenv",
        "etc/environment",
        "environment.d/*",
    ),
    "loader": ("etc/ld.so.preload", "etc/ld.so.conf", "etc/ld.so.cache", "ld.so.conf.d/*"),
    "python start": ("sitecustomize.py", "usercustomize.py", "site-packages/*.pth", "dist-packages/*.pth"),
    "cron": (
        "etc/crontab",
        "etc/anacrontab",
        "cron.d/*",
        "cron.hourly/*",
        "cron.daily/*",
        "cron.weekly/*",
        "cron.monthly/*",
        "spool/cron/**",
        "spool/at/*",
        "spool/atjobs/*",
    ),
    "service": (
        "systemd/system/**",
        "systemd/user/**",
        "systemd/system-generators/*",
        "systemd/user-generators/*",
        "etc/init.d/*",
        "etc/rc.local",
        "etc/rc.d/**",
        "autostart/*",
        "plasma-workspace/env/*",
        "systemd/system.control/**",
        "systemd/transient/*",
        "NetworkManager/dispatcher.d/*",
        "network/if-up.d/*",
        "etc/acpi/*",
        "X11/Xsession.d/*",
        "udev/rules.d/*",
        "update-motd.d/*",
        "modules-load.d/*",
        "modprobe.d/*",
        "etc/inittab",
        "dbus-1/system-services/*",
    ),
    "package hook": ("apt.conf.d/*", "etc/yum.conf", "yum.repos.d/*", "sources.list.d/*"),
    "git hook": (".git/hooks/*",),
    "kernel": (
        "kernel/core_pattern",
        "kernel/modprobe",
        "kernel/uevent_helper",
        "kernel/hotplug",
        "kernel/yama/ptrace_scope",
        "kernel/randomize_va_space",
        "kernel/kptr_restrict",
        "kernel/unprivileged_bpf_disabled",
        "fs/binfmt_misc/register",
        "proc/sysrq-trigger",
        "selinux/enforce",
        "net/ipv4/ip_forward",
        "power/state",
    ),
    "cgroup": ("cgroup.procs", "cgroup.threads", "cgroup.freeze", "cgroup.kill", "release_agent",
               "notify_on_release", "devices.allow"),
    "log": ("var/log/*", "log/journal/**", "log/audit/*", "run/utmp"),
    "container": ("docker.sock", "containerd.sock", "crio.sock", "podman.sock"),
    "monitor": (
        "sys/fs/bpf/**",
        "var/cache/agentwatch/**",
        "var/lib/agentwatch/**",
        "run/agentwatch/**",
        "etc/agentwatch/**",
        "dist-packages/agentwatch/**",
        "bin/agentwatch",
    ),
}  # fmt: skip


class Pattern(NamedTuple):
    """A pattern's names, the file's own first, where a leading `**` was `deep`."""

    kind: str
    names: tuple[str, ...]
    deep: bool
    reading: bool

    def places(self) -> Iterator[tuple[str, int]]:
        """The name without `*` nearest to the file, and how far above it that may stand."""
        above = next(number for number, name in enumerate(self.names) if "*" not in name)
        for depth in range(1, WATCHED_LEVELS) if self.deep else (0,):
            if above + depth < WATCHED_LEVELS:
                yield self.names[above], above + depth

    def matches(self, names: tuple[str, ...], depth: int) -> bool:
        """Whether the names of a path, the file's own first, end like this from `depth` on."""
        own = names[depth : depth + len(self.names)]
        return len(own) == len(self.names) and all(map(fnmatchcase, own, self.names))


@cache
def _index() -> dict[tuple[str, int], tuple[Pattern, ...]]:
    index: dict[tuple[str, int], tuple[Pattern, ...]] = {}
    for table, reading in ((USED, True), (CHANGED, False)):
        for kind, patterns in table.items():
            for text in patterns:
                names = tuple(reversed(text.split("/")))
                deep = names[0] == _DEEP
                pattern = Pattern(kind, names[deep:], deep, reading)
                for place in pattern.places():
                    index[place] = (*index.get(place, ()), pattern)
    return index


def names() -> dict[str, int]:
    """What the kernel looks for: names, with a mask of the levels at which each matters.

    Bit `level` is for reading, bit `level + WATCHED_LEVELS` for all that changes a file.
    """
    masks: dict[str, int] = {}
    for (name, level), patterns in _index().items():
        assert len(name.encode()) < WATCHED_NAME, f"{name} is longer than the kernel compares"
        use = _WRITE | (_READ if any(pattern.reading for pattern in patterns) else 0)
        masks[name] = masks.get(name, 0) | use << level
    return masks


@lru_cache(maxsize=1024)
def kind(path: str, access: int) -> str:
    """What kind of watched file this is, or an empty string; `access` as in the schema."""
    names = tuple(reversed(path[1:].split("/")))
    index = _index()
    for level, name in enumerate(names[:WATCHED_LEVELS]):
        for pattern in index.get((name, level), ()):
            if access == Access.READ and not pattern.reading:
                continue
            above = next(number for number, own in enumerate(pattern.names) if "*" not in own)
            if pattern.matches(names, level - above):
                return pattern.kind
    return ""
