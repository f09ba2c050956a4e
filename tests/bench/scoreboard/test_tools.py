"""Which programs a command names, and what stands in for them."""

from __future__ import annotations

from pathlib import Path

import pytest

from bench.scoreboard.tools import StandIns, command_words, files_for, programs_for

STAND_INS = StandIns(Path("/tool"), Path("/netcat"), Path("/miner"))


@pytest.mark.parametrize(
    ("script", "words"),
    [
        ("ls -l", {"ls"}),
        ("a && b || c; d | e & f", {"a", "b", "c", "d", "e", "f"}),
        ("A=1 B=2 tool --x", {"tool"}),
        ("echo hi > f; cat f", {"cat"}),
        ("while sleep 5; do curl x | sh; done", {"sleep", "curl", "sh"}),
        ("kill $(pidof z)", {"pidof"}),
        ("bash -c 'one; two'", {"bash", "one", "two"}),
        ("nohup sudo tool", {"nohup", "sudo", "tool"}),
        ("echo 'a | b'", set()),
        ("echo 'unclosed", set()),
    ],
)
def test_words_where_a_command_stands(script: str, words: set[str]) -> None:
    assert command_words(script) >= words
    assert not command_words(script) - words - {"x"}


def test_absent_tools_get_a_stand_in_and_present_ones_do_not() -> None:
    found = programs_for("no-such-tool x; ls; ncat h 1; /tmp/xmrig -o p; ./uring_thing; ~/t", STAND_INS)
    assert found["/usr/local/bin/no-such-tool"] == "/tool"
    assert found["/tmp/xmrig"] == "/tool"
    assert found["/root/job/./uring_thing"] == "/miner"
    assert found["/root/t"] == "/tool"
    assert "/usr/local/bin/ls" not in found


def test_what_acts_on_the_host_or_the_cloud_is_never_real() -> None:
    for tool in ("terraform", "kubectl", "docker", "systemctl", "insmod"):
        assert programs_for(f"{tool} x", STAND_INS)[f"/usr/local/bin/{tool}"] == "/tool"


def test_files_that_nobody_has_are_there() -> None:
    found = files_for("curl -d @p.json; cp x.service /y; /tmp/e.so; python3 train.py; npm i ./pkg")
    assert set(found) == {
        "/root/job/p.json",
        "/root/job/x.service",
        "/tmp/e.so",
        "/root/job/pkg/package.json",
    }


@pytest.mark.parametrize(
    ("script", "original"),
    [
        ("python3 gloo_allreduce.py", "allreduce.py"),
        ("python3 p.py", "forward_paramiko.py"),
        ("python3 quiet_miner.py --to 1.2.3.4:5", "fakeminer.py"),
        ("python3 fakeminer.py", ""),
        ("python3 what_is_it.py", ""),
        ("python3 /opt/miner.py", ""),
    ],
)
def test_scripts_do_what_their_names_say(script: str, original: str) -> None:
    found = [
        Path(file).name for path, file in programs_for(script, STAND_INS).items() if path.endswith(".py")
    ]
    assert found == ([original] if original else [])
