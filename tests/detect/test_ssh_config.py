"""The truth is `ssh -G -F`: what OpenSSH itself takes a configuration for, without connecting."""

from __future__ import annotations

import getpass
import shutil
import subprocess
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from agentwatch.detect.ssh_config import ConfigAnswer, flag, forward_of, remote_forwards, setting

needs_ssh = pytest.mark.skipif(shutil.which("ssh") is None, reason="OpenSSH's client is not installed")


def truth(text: str, host: str, cwd: Path, *words: str) -> int | None:
    """How many remote forwards ssh would ask for under this configuration; None if ssh refuses it."""
    path = cwd / "config"
    path.write_text(text)
    command = ["ssh", "-G", "-F", str(path), *words, host]
    result = subprocess.run(command, capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL)
    if result.returncode != 0:
        return None
    # The forwards of one configuration are on lines of their own; some versions omit the newline.
    return result.stdout.count("remoteforward ")


def count(text: str, host: str, user: str | None = None) -> int:
    return len(remote_forwards(text, host, user=user, local_user=getpass.getuser()).forwards)


CASES = [
    "RemoteForward 9001 localhost:22",
    "remoteforward=9001 localhost:22\nRemoteForward 9002 localhost:22",
    "RemoteForward 9001 localhost:22\nRemoteForward 9001 localhost:22",
    "Host pool\nRemoteForward 9001 localhost:22",
    "Host other\nRemoteForward 9001 localhost:22",
    "Host other pool\nRemoteForward 9001 localhost:22",
    "Host p*l\nRemoteForward 9001 localhost:22",
    "Host p?ol\nRemoteForward 9001 localhost:22",
    "Host p?l\nRemoteForward 9001 localhost:22",
    "Host POOL\nRemoteForward 9001 localhost:22",
    "Host * !pool\nRemoteForward 9001 localhost:22",
    "Host !other *\nRemoteForward 9001 localhost:22",
    "Host !other\nRemoteForward 9001 localhost:22",
    'Host "pool"\nRemoteForward 9001 localhost:22',
    "Host=pool\nRemoteForward 9001 localhost:22",
    "Host pool,other\nRemoteForward 9001 localhost:22",
    "Host pool # comment\nRemoteForward 9001 localhost:22",
    "Host other # pool\nRemoteForward 9001 localhost:22",
    "Host other\n  Port 1\nHost *\nRemoteForward 9001 localhost:22",
    "Match all\nRemoteForward 9001 localhost:22",
    "Match !all\nRemoteForward 9001 localhost:22",
    "Match host pool\nRemoteForward 9001 localhost:22",
    "Match Host POOL\nRemoteForward 9001 localhost:22",
    "Match host=pool\nRemoteForward 9001 localhost:22",
    'Match host "pool"\nRemoteForward 9001 localhost:22',
    "Match host other,p*\nRemoteForward 9001 localhost:22",
    "Match host *,!pool\nRemoteForward 9001 localhost:22",
    "Match !host pool\nRemoteForward 9001 localhost:22",
    "Match !host other\nRemoteForward 9001 localhost:22",
    "Match host pool user me\nRemoteForward 9001 localhost:22",
    "User me\nMatch host pool user me\nRemoteForward 9001 localhost:22",
    "User me\nUser you\nMatch user you\nRemoteForward 9001 localhost:22",
    "HostName real\nMatch host real\nRemoteForward 9001 localhost:22",
    "HostName real\nMatch host pool\nRemoteForward 9001 localhost:22",
    "HostName real\nMatch originalhost pool\nRemoteForward 9001 localhost:22",
    "HostName real\nHost real\nRemoteForward 9001 localhost:22",
    "HostName %h.example\nMatch host pool.example\nRemoteForward 9001 localhost:22",
    "HostName a%%b\nMatch host a%b\nRemoteForward 9001 localhost:22",
    "Match final\nRemoteForward 9001 localhost:22",
    "Match !final\nRemoteForward 9001 localhost:22",
    "Match canonical\nRemoteForward 9001 localhost:22",
    "Match !canonical\nRemoteForward 9001 localhost:22",
    "Match final all\nRemoteForward 9001 localhost:22",
    "HostName Real\nMatch final\nPort 2\nHost real\nRemoteForward 9001 localhost:22",
    "HostName real\nMatch final host real\nRemoteForward 9001 localhost:22",
    "Match user *\nRemoteForward 9001 localhost:22",
    "Match localuser nobody-by-this-name\nRemoteForward 9001 localhost:22",
    "Match localuser *\nRemoteForward 9001 localhost:22",
    "Match host pool # comment\nRemoteForward 9001 localhost:22",
    "ClearAllForwardings yes\nRemoteForward 9001 localhost:22",
    "RemoteForward 9001 localhost:22\nClearAllForwardings yes",
    "ClearAllForwardings no\nClearAllForwardings yes\nRemoteForward 9001 localhost:22",
    "Host other\nClearAllForwardings yes\nHost *\nRemoteForward 9001 localhost:22",
    "# RemoteForward 9001 localhost:22",
    "   \t \n\n  RemoteForward\t9001\tlocalhost:22  \r\n",
    "RemoteForward 9001",
    "RemoteForward \\\n9001 localhost:22",
    "RemoteForward 9001 localhost:22 # why",
    "RemoteForward [::1]:9001 [::1]:22",
    "RemoteForward /tmp/a /tmp/b",
    "Host pool\r\nRemoteForward 9001 localhost:22\r\n",
]


@needs_ssh
@pytest.mark.parametrize("text", CASES)
def test_a_configuration_means_what_it_means_to_ssh(text: str, tmp_path: Path) -> None:
    expected = truth(text, "pool", tmp_path)
    if expected is None:
        assert count(text, "pool") == 0
    else:
        assert bool(count(text, "pool")) == bool(expected)


@needs_ssh
def test_the_user_of_the_command_line_counts_first(tmp_path: Path) -> None:
    text = "User you\nMatch user me\nRemoteForward 9001 localhost:22\n"
    assert truth(text, "pool", tmp_path, "-l", "me") == 1
    assert count(text, "pool", user="me") == 1
    assert count(text, "pool") == 0


NAMES = st.sampled_from(
    ["pool", "other", "p*", "!pool", "*", "?ool", "!other", "P*", "!p?ol", "real", '"pool"']
)
LISTS = st.lists(NAMES.map(lambda name: name.strip('"')), min_size=1, max_size=3).map(",".join)
CRITERIA = st.one_of(
    st.tuples(
        st.sampled_from(["host ", "!host ", "originalhost ", "user ", "!user ", "HOST=", "localuser "]), LISTS
    ).map("".join),
    st.sampled_from(["final", "!final", "canonical"]),
)
LINES = st.one_of(
    st.lists(NAMES, min_size=1, max_size=3).map(lambda names: "Host " + " ".join(names)),
    st.lists(CRITERIA, min_size=1, max_size=3).map(lambda words: "Match " + " ".join(words)),
    st.sampled_from(["Match all", "Match final all", "Match !all", "host=pool", "  HOST  = pool other"]),
    st.integers(9001, 9004).map(lambda port: f"RemoteForward {port} localhost:22"),
    st.sampled_from(
        [
            "\tremoteforward=9005 /tmp/s # x",
            "RemoteForward 9006",
            'RemoteForward "9007" "h:1"',
            "# Host x",
            "",
        ]
    ),
    st.sampled_from(
        ["HostName real", "HostName %h", "User pool", "User real", "Port 22", "LocalForward 1 h:2"]
    ),
    st.sampled_from(["ClearAllForwardings yes", "ClearAllForwardings no"]),
)


@needs_ssh
@given(lines=st.lists(LINES, max_size=10))
@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_configuration_means_what_it_means_to_ssh(lines: list[str], tmp_path: Path) -> None:
    text = "\n".join(lines)
    expected = truth(text, "pool", tmp_path)
    if expected is not None:
        assert bool(count(text, "pool")) == bool(expected)


@needs_ssh
@given(word=st.text(alphabet="ab*?", max_size=6), pattern=st.text(alphabet="ab*?!", min_size=1, max_size=6))
@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_patterns_match_as_for_ssh(word: str, pattern: str, tmp_path: Path) -> None:
    text = f"Host {pattern}\nRemoteForward 9001 localhost:22\n"
    host = f"h{word}".replace("*", "x").replace("?", "y")
    assert count(text, host) == truth(text, host, tmp_path)


@needs_ssh
def test_included_files_count_where_they_are_included(tmp_path: Path) -> None:
    (tmp_path / "inner").write_text("RemoteForward 9001 localhost:22\nHost other\n")
    for template in (
        "Include {}\n",
        "Host pool\nInclude {}\nRemoteForward 9002 localhost:22\n",
        "Host other\nInclude {}\n",
        "Host other\nInclude {}\nRemoteForward 9002 localhost:22\n",
    ):
        text = template.format(tmp_path / "inner")
        inner = (tmp_path / "inner").read_text()
        answer = remote_forwards(text, "pool", include=lambda pattern, inner=inner: [inner])  # type: ignore[misc]
        assert len(answer.forwards) == truth(text, "pool", tmp_path)
        assert not answer.uncertain


def test_an_unseen_file_is_uncertain_unless_it_cannot_count() -> None:
    assert remote_forwards("Include other\n", "h") == ConfigAnswer((), None, True)
    assert remote_forwards("Host x\nInclude other\n", "h") == ConfigAnswer((), None, False)


def test_a_file_that_includes_itself_ends() -> None:
    text = "Include a b c d\nRemoteForward 9001 localhost:22\n"
    answer = remote_forwards(text, "h", include=lambda pattern: [text, text])
    assert answer.forwards == ("9001:localhost:22",)


def test_match_exec_is_never_decided() -> None:
    answer = remote_forwards("Match exec true\nRemoteForward 9001 localhost:22\n", "h")
    assert answer == ConfigAnswer((), None, True, ("9001:localhost:22",))
    answer = remote_forwards("Match host x exec true\nRemoteForward 9001 localhost:22\n", "h")
    assert answer == ConfigAnswer((), None, False)
    answer = remote_forwards(
        "Match !exec true\nClearAllForwardings yes\nMatch all\nRemoteForward 9001\n", "h"
    )
    assert answer == ConfigAnswer(("9001",), None, True)


def test_an_unknown_user_is_never_decided() -> None:
    text = "Match user me\nRemoteForward 9001 localhost:22\n"
    assert remote_forwards(text, "h").possible == ("9001:localhost:22",)
    assert remote_forwards(text, "h", user="me").forwards == ("9001:localhost:22",)
    assert remote_forwards(text, "h", local_user="you") == ConfigAnswer((), None, False)


def test_the_host_name_of_the_command_line_counts_before_the_file() -> None:
    text = "HostName x\nMatch host real\nRemoteForward 9001\nMatch originalhost pool\nRemoteForward 9002\n"
    assert remote_forwards(text, "real", original_host="pool").forwards == ("9001", "9002")


def test_words_of_a_line() -> None:
    assert setting("RemoteForward 9001 h:22") == ("remoteforward", ["9001", "h:22"])
    assert setting("# RemoteForward 9001 h:22") is None
    assert flag(["YES"]) is True
    assert flag(["maybe"]) is None
    assert forward_of(["9001", "h:22"]) == "9001:h:22"
    assert forward_of(["9001", "h:22", "x"]) is None


def test_much_text_is_bounded() -> None:
    many = "\n".join(f"RemoteForward {port} h:22" for port in range(1, 30_000))
    answer = remote_forwards(many, "h")
    assert len(answer.forwards) == 64
    assert answer.uncertain
    hostile = ("Host " + "*a" * 2000 + "b\n") * 5000 + "Host *\nRemoteForward 9001 h:22\n"
    assert remote_forwards(hostile, "a" * 1000) == ConfigAnswer((), None, True)
    long = "RemoteForward 9001 h:22" + " " * 10_000_000 + "\nHost " + "*a" * 2000 + "\n"
    assert remote_forwards(long, "a" * 1000).uncertain


@given(
    text=st.one_of(st.text(), st.lists(LINES | st.text(max_size=8), max_size=12).map("\n".join)),
    host=st.text(),
)
def test_anything_is_read(text: str, host: str) -> None:
    answer = remote_forwards(text, host, include=lambda pattern: [text])
    assert not (answer.forwards and answer.clear_all)
    for line in text.splitlines():
        setting(line)


@pytest.mark.parametrize(
    ("text", "tunnel"),
    [
        ("Tunnel yes", True),
        ("tunnel ethernet\nTunnel no", True),
        ("Host other\nTunnel yes", None),
        ("Tunnel no\nTunnel yes", False),
        ("Match exec true\nTunnel yes", None),
    ],
)
def test_tunnel_devices(text: str, tunnel: bool | None) -> None:
    assert remote_forwards(text, "pool").tunnel is tunnel
