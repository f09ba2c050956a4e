"""The truth is `ssh -G`: what OpenSSH itself says it would do, without doing it."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from agentwatch.detect import ssh_config
from agentwatch.detect.ssh_argv import SshCommand, basename, looks_like_ssh, parse, unwrap

CORPUS = Path(os.environ.get("AGENTWATCH_CORPUS_DIR", Path(__file__).parents[3] / "shared" / "corpus"))
FORMS = CORPUS / "ssh_remote_forward_forms.jsonl"

needs_ssh = pytest.mark.skipif(shutil.which("ssh") is None, reason="OpenSSH's client is not installed")


def asks(*argv: str) -> tuple[str, ...]:
    command = parse(argv)
    return command.asks if command is not None else ()


def truth(words: list[str], cwd: Path) -> tuple[bool, str]:
    """Whether ssh with these words would ask for a remote forward, and for which host."""
    if not any(word.startswith("-F") for word in words):
        words = ["-F", "none", *words]
    result = subprocess.run(
        ["ssh", "-G", *words], capture_output=True, text=True, check=False, cwd=cwd, stdin=subprocess.DEVNULL
    )
    lines = dict(line.partition(" ")[::2] for line in result.stdout.splitlines())
    return "remoteforward" in lines, lines.get(
        "host", lines.get("hostname", "")
    ) if result.returncode == 0 else ""


CASES = [
    "-R 9001:localhost:22 u@h",
    "-R 9001 h",
    "-R 0 h",
    "-R -1 h",
    "-R 70000 h",
    "-R localhost:9001 h",
    "-R nonsense@ h",
    "-R 9001:localhost h",
    "-R 9001:localhost:0 h",
    "-R 9001:localhost:ssh h",
    "-R *:9001:[::1]:22 h",
    "-R [::1]:9001:[::1]:22 h",
    "-R [::1:9001:h:22 h",
    "-R /tmp/s:/tmp/t h",
    "-R /tmp/s h",
    "-R /tmp/s:localhost:22 h",
    "-R 9001:/var/run/docker.sock h",
    "-R h:9001:/tmp/t h",
    "-R a:1:b:2:c h",
    "-R 1:b:2: h",
    "-R : h",
    "-R",
    "h -R",
    "-R 9001:localhost:22",
    "h -R 9001:localhost:22",
    "h -NR9001:localhost:22 cmd",
    "h -p 22 -R 9001:localhost:22 cmd -R 9002:localhost:22",
    "h cmd -R 9001:localhost:22",
    "h -- -R 9001:localhost:22",
    "-- h -R 9001:localhost:22",
    "-R 9001:localhost:22 -- h",
    "-Z h -R 9001:localhost:22",
    "-z h",
    "-u h -R 9001:localhost:22",
    "-vvvR 9001:localhost:22 h",
    "-vVR 9001:localhost:22 h",
    "-l R h",
    "-lR h",
    "-p -R h",
    "-p 22 -R9:h:22 h",
    "-o RemoteForward h",
    "-o RemoteForward= h",
    "-W h:22 -R 9001:localhost:22 h",
    "-W 22 -R 9001:localhost:22 h",
    "-W /tmp/s -R 9001:localhost:22 h",
    "-W 22:/tmp/s -R 9001:localhost:22 h",
    "-W [::1]:22 -R 9001:localhost:22 h",
    "-R 9001:\\ h",
    "-R a\\ h",
    "-W h:22 -oClearAllForwardings=no -R 9001:localhost:22 h",
    "-oClearAllForwardings=no -oClearAllForwardings=yes -R 9001:localhost:22 h",
    "-oclearallforwardings=YES -R 9001:localhost:22 h",
    "-R 9001:localhost:22 -oClearAllForwardings=yes h",
    "-oClearAllForwardings=maybe -R 9001:localhost:22 h",
    "-oHost=h -R 9001:localhost:22 h",
    "-oInclude=/dev/null -R 9001:localhost:22 h",
    "ssh://u@h:443 -R 9001:localhost:22",
    "ssh://h -R 9001:localhost:22",
    "ssh://h/ -R 9001:localhost:22",
    "ssh://h/path -R 9001:localhost:22",
    "ssh://@h -R 9001:localhost:22",
    "ssh://h:99999 -R 9001:localhost:22",
    "-R http h",
    "@h -R 9001:localhost:22",
    "a@b@h -R 9001:localhost:22",
]
SETTINGS = [
    "RemoteForward 9001 localhost:22",
    "RemoteForward=9001 localhost:22",
    "RemoteForward = 9001 localhost:22",
    "RemoteForward  =\t9001 localhost:22",
    "RemoteForward == 9001 localhost:22",
    '"RemoteForward" 9001 localhost:22',
    'RemoteForward "9001" "localhost:22"',
    "RemoteForward '9001' localhost:22",
    'RemoteForward "9001 localhost:22"',
    "RemoteForward 9001 local\\host:22",
    "RemoteForward 9001 localhost:22 extra",
    "RemoteForward 9001 localhost:22 # comment",
    "RemoteForward 9001 localhost:22#part",
    "RemoteForward 9001 # localhost:22",
    "RemoteForward # 9001",
    "RemoteForward 9001:localhost:22",
    "RemoteForward 9001 localhost",
    "RemoteForward [::1]:9001 [::1]:22",
    "RemoteForward /tmp/s /tmp/t",
    "RemoteForward 9001:/tmp/t",
    "RemoteForward '9001 localhost:22",
    " RemoteForward 9001 localhost:22",
    "\tRemoteForward 9001 localhost:22\t\r\n",
    "  =RemoteForward 9001 localhost:22",
    "remoteFORWARD 9001",
    "#RemoteForward 9001 localhost:22",
    " # RemoteForward 9001 localhost:22",
    "",
    "   ",
    "LocalForward 9001 localhost:22",
    "RemoteForward \\9001",
    "RemoteForward \\",
    "ClearAllForwardings yes",
    "ClearAllForwardings=true",
]


@needs_ssh
@pytest.mark.parametrize("words", CASES)
def test_words_mean_what_they_mean_to_ssh(words: str, tmp_path: Path) -> None:
    expected, host = truth(words.split(), tmp_path)
    command = parse(["ssh", *words.split()])
    assert bool(command and command.asks) == expected
    assert (command is not None) == bool(host)


@needs_ssh
@pytest.mark.parametrize("line", SETTINGS)
def test_settings_mean_what_they_mean_to_ssh(line: str, tmp_path: Path) -> None:
    expected, host = truth(["-o", line, "h"], tmp_path)
    command = parse(["ssh", "-o", line, "h"])
    assert bool(command and command.asks) == expected
    assert (command is not None) == bool(host)


@needs_ssh
@pytest.mark.parametrize(
    "words",
    [
        "-w 0:0",
        "-w any",
        "-w any:+7",
        "-w x",
        "-w 0:",
        "-Nw7",
        "-o Tunnel=no -w 0",
        "-w 0 -o Tunnel=no",
        "-o Tunnel=ethernet",
        "-oTUNNEL=Point-to-Point",
        "-o tunnel=true",
        "-o Tunnel=maybe",
        "-N",
        "-W a:1",
    ],
)
def test_tunnel_devices_are_asked_for_as_of_ssh(words: str) -> None:
    told = subprocess.run(
        ["ssh", "-F", "none", "-G", *words.split(), "h"], capture_output=True, text=True, check=False
    ).stdout
    command = parse(["ssh", *words.split(), "h"])
    expected = "\ntunnel " in told and "\ntunnel false" not in told
    assert bool(command and command.asks_for_device(None)) == expected


# No name of a service among them ("cmd" is one): which names are depends on the host.
BITS = st.one_of(
    st.sampled_from(["h", "u@h", "ssh://u@h:22", "-", "--", "uptime", "9001:localhost:22", "9001", "1:h:2"]),
    st.sampled_from(["-N", "-fN", "-T", "-4", "-Z", "-R", "-NR", "-vR", "-R9001", "-lR", "22", "h:22"]),
    st.sampled_from(["-o", "-p", "-l", "-i", "-L", "-W", "-b", "-J"]),
    st.sampled_from(
        ["-oRemoteForward=9001 localhost:22", "RemoteForward 9002 h:22", "ClearAllForwardings=yes"]
    ),
)


@needs_ssh
@given(words=st.lists(BITS, max_size=7))
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_words_mean_what_they_mean_to_ssh(words: list[str], tmp_path: Path) -> None:
    expected, host = truth(words, tmp_path)
    command = parse(["ssh", *words])
    if host:
        assert command is not None
        assert bool(command.asks) == expected
    elif command is not None and command.asks:
        assert _refused_for_what_is_not_modelled(words)


def _refused_for_what_is_not_modelled(words: list[str]) -> bool:
    """Bad arguments of options that have nothing to do with forwards, and bad names, which ssh refuses."""
    return any(word in ("-o", "-L", "-W", "-J", "-l", "-", "--") or " " in word for word in words)


@needs_ssh
@given(spec=st.text(alphabet="19:/[]\\ahz*- ", max_size=14))
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_forward_is_taken_or_refused_as_by_ssh(spec: str, tmp_path: Path) -> None:
    expected, _ = truth([f"-R{spec}" if spec else "-R9001", "h"], tmp_path)
    if expected and spec:
        assert ssh_config.is_remote_forward(spec)
    elif spec and not any(letter in "ahz" for letter in spec):
        assert not ssh_config.is_remote_forward(spec), "only names of services may be taken more freely"


@pytest.mark.parametrize("form", [*FORMS.read_text().splitlines()] if FORMS.exists() else [])
def test_forms_seen_in_the_field(form: str) -> None:
    row = json.loads(form)
    if row["cmd"] == "ssh -F /tmp/c pool":  # its file held this
        config = ssh_config.remote_forwards("Host pool\nRemoteForward 9001 localhost:22\n", "pool")
    else:
        config = None
    command = parse(row["argv"]) if looks_like_ssh(basename(row["argv"][0])) else None
    found = command is not None and bool(command.asks_with(config))
    assert found == bool(row["remote_forward_per_ssh_G"])


@pytest.mark.skipif(FORMS.exists(), reason="the corpus is there")
def test_forms_need_the_corpus() -> None:
    pytest.skip(f"no {FORMS.name}: set AGENTWATCH_CORPUS_DIR")


def test_fields() -> None:
    command = parse(
        ["/usr/bin/ssh", "-F", "c", "-S", "ctl", "-l", "me", "you@h", "-p", "2222", "-oHostName=x.y"]
    )
    assert command == SshCommand(
        host="h", user="me", port=2222, hostname="x.y", config_file="c", control_path="ctl"
    )


@pytest.mark.parametrize(
    ("words", "forwards"),
    [
        ("-S ctl -O forward -R 9001:localhost:22 x", ("9001:localhost:22",)),
        ("-S ctl -O cancel -R 9001:localhost:22 x", ()),
        ("-S ctl -O exit -R 9001:localhost:22 x", ()),
        ("-S ctl -O check x", ()),
        ("-S ctl -O nonsense -R 9001:localhost:22 x", ()),
        ("-G -R 9001:localhost:22 x", ()),
        ("-V -R 9001:localhost:22 x", ()),
        ("-Q cipher -R 9001:localhost:22 x", ()),
        ("-R 1:a:1 -R 2:b:2 x", ("1:a:1", "2:b:2")),
    ],
)
def test_control_and_questions(words: str, forwards: tuple[str, ...]) -> None:
    assert asks("ssh", *words.split()) == forwards


def test_the_name_of_the_program_does_not_matter_to_parsing() -> None:
    assert asks("/tmp/.x", "-NR", "9001:localhost:22", "u@h") == ("9001:localhost:22",)
    assert asks("/tmp/.x", "-y", "-K", "30", "-R", "9001:localhost:22", "u@h/22") == ("9001:localhost:22",)
    assert asks("/tmp/.x", "-batch", "-R", "9001:localhost:22", "u@h") == ("9001:localhost:22",)
    assert asks("tar", "-cf", "out.tar", "--exclude", "-R", "src") == ()


@pytest.mark.parametrize(
    ("words", "forwards"),
    [
        ("dbclient -y -R 9001:localhost:22 u@h", ("9001:localhost:22",)),
        ("dbclient u@h/2222 -fNR9001:localhost:22", ("9001:localhost:22",)),
        ("dbclient -K 30 -W 99 -I 0 -R 1:9001:localhost:22 a,u@h", ("1:9001:localhost:22",)),
        ("dbclient u@h ls -R x", ()),
        ("dbclient -i -R u@h", ()),
        ("dbclient -V -R 9001:localhost:22 u@h", ()),
        ("dbclient -R 9001 u@h", ()),
        ("dropbearmulti dbclient -R 9001:localhost:22 u@h", ("9001:localhost:22",)),
        ("dropbear -R -F -p 22", ()),
        ("plink -R 9001:localhost:22 u@h", ("9001:localhost:22",)),
        ("plink -ssh -batch -pw x u@h -P 443 -N -R 9001:localhost:22", ("9001:localhost:22",)),
        ("plink -pw -R u@h", ()),
        ("plink u@h ls -R x", ()),
        ("plink -load saved -R 9001:localhost:22", ("9001:localhost:22",)),
        ("autossh -M 0 -fNR 9001:localhost:22 u@h", ("9001:localhost:22",)),
        ("autossh -M 20000 -fN u@h", ("20000:127.0.0.1:20001",)),
        ("autossh -M 0 -N -L 1:h:2 u@h", ()),
    ],
)
def test_other_clients(words: str, forwards: tuple[str, ...]) -> None:
    assert asks(*words.split()) == forwards


def test_where_other_clients_go() -> None:
    command = parse(["dbclient", "-p", "1", "-l", "me", "a,you@h^22"])
    assert command is not None
    assert (command.host, command.user, command.port, command.reads_config) == ("h", "you", 22, False)
    command = parse(["plink", "-P", "443", "me@h"])
    assert command is not None
    assert (command.host, command.user, command.port) == ("h", "me", 443)


@pytest.mark.parametrize(
    ("words", "inner"),
    [
        ("sshpass -p x ssh -R 1:h:2 h", "ssh -R 1:h:2 h"),
        ("sshpass -px -v ssh h", "ssh h"),
        ("sshpass -e ssh h", "ssh h"),
        ("env A=b -i ssh h", "-i ssh h"),
        ("env -i -u C A=b D= ssh h", "ssh h"),
        ("env --unset=A --chdir /tmp ssh h", "ssh h"),
        ("nohup ssh h", "ssh h"),
        ("nohup -- ssh h", "ssh h"),
        ("setsid -fw ssh h", "ssh h"),
        ("timeout -k 5 -s KILL 60 ssh h", "ssh h"),
        ("timeout --signal=KILL --foreground 60 ssh h", "ssh h"),
        ("stdbuf -oL -e 0 ssh h", "ssh h"),
        ("nice -n 5 ssh h", "ssh h"),
        ("nice -5 ssh h", "ssh h"),
        ("proxychains4 -q -f /tmp/p.conf ssh h", "ssh h"),
        ("nohup setsid timeout 9 sshpass -f pw /usr/bin/ssh h", "/usr/bin/ssh h"),
        ("sudo -u me -E A=b ssh h", "ssh h"),
        ("ssh nohup", "ssh nohup"),
        ("nohup", ""),
        ("timeout", ""),
    ],
)
def test_wrappers(words: str, inner: str) -> None:
    assert " ".join(unwrap(words.split())) == inner


def test_a_split_string_is_a_command_of_its_own() -> None:
    assert unwrap(["env", "-S", "-i A=b ssh -R", "1:h:2", "h"]) == ("ssh", "-R", "1:h:2", "h")
    assert unwrap(["env", "-Snohup ssh", "h"]) == ("ssh", "h")
    assert unwrap(["env", "--split-string=ssh", "h"]) == ("ssh", "h")
    assert len(unwrap(["env", "-S", *["env -S"] * 1000])) > 0


@pytest.mark.parametrize(
    "name", ["ssh", "slogin", "ssh.real", "openssh", "ssh-9.8p1", "dbclient", "plink", "autossh"]
)
def test_names_of_clients(name: str) -> None:
    assert looks_like_ssh(name)


@pytest.mark.parametrize(
    "name",
    [
        "",
        "ssh-agent",
        "ssh-add",
        "ssh-keygen",
        "ssh-keyscan",
        "sshd",
        "sshfs",
        "sshpass",
        "scp",
        "sftp",
        "git",
        "bash",
    ],
)
def test_names_of_others(name: str) -> None:
    assert not looks_like_ssh(name)


@given(
    argv=st.lists(st.one_of(st.text(max_size=20), BITS, st.sampled_from(["ssh", "dbclient", "plink", "env"])))
)
def test_anything_is_parsed(argv: list[str]) -> None:
    for family in ("ssh", "dbclient", "plink", "autossh", "x"):
        parse([family, *argv])
    parse(unwrap(argv))


def test_many_words_are_bounded() -> None:
    command = parse(["ssh", *["-R1:h:2"] * 4000, "h"])
    assert command is not None
    assert len(command.remote_forwards) == 64
    assert parse(["ssh", *["-N"] * 1_000_000, "h"]) is None


def test_forward_with_a_variable_of_the_environment_is_asked() -> None:
    command = parse(["ssh", "-R", "${X}:localhost:22", "h"])
    assert command is not None
    assert command.asks
