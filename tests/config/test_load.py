"""Configuration: precedence, all errors at once, and whom root believes."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from agentwatch.config.load import ConfigError, Loaded, load
from tests.lab import needs_root


def write(folder: Path, main: str, **drop_ins: str) -> Path:
    path = folder / "agentwatch.toml"
    path.write_text(main)
    (folder / "agentwatch.d").mkdir(mode=0o755, exist_ok=True)
    for name, text in drop_ins.items():
        (folder / "agentwatch.d" / f"{name}.toml").write_text(text)
    return path


def origin(found: Loaded, key: str) -> str:
    return next(setting.origin for setting in found.settings if setting.key == key)


def problems(path: Path, **environment: str) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        load(path, environment=environment)
    return [f"{Path(problem.where).name} {problem.key} {problem.reason}" for problem in caught.value.problems]


def test_a_flag_goes_over_environment_over_drop_ins_over_the_file_over_defaults(tmp_path: Path) -> None:
    policy = '[policy]\nmode = "enforce"\nmax_response = "{}"\n'
    main = policy.format("alert") + 'only = ["impact"]\nwithout = ["x"]'
    path = write(
        tmp_path,
        main,
        b=policy.format("pause"),
        a='[policy]\nmax_response = "kill"\nwithout = []',
        c='[control]\nact_group = "ops"',
    )
    environment = {"AGENTWATCH_POLICY_MODE": "monitor", "AGENTWATCH_CONTROL_ACT_GROUP": "wheel", "HOME": "/"}
    found = load(path, {"control.act_group": "root"}, environment)
    config = found.config
    assert (config.policy.mode, config.policy.max_response) == ("monitor", "pause")
    assert (config.policy.only, config.policy.without) == (("impact",), ())
    assert (config.control.act_group, config.control.read_group) == ("root", "")
    assert [
        origin(found, f"policy.{key}") for key in ("mode", "max_response", "only", "limits.pids_max")
    ] == ["environment AGENTWATCH_POLICY_MODE", f"{tmp_path}/agentwatch.d/b.toml", str(path), "default"]
    assert origin(found, "control.act_group") == "flag"


def test_tables_of_agents_add_up_inherit_the_policy_and_are_replaced_by_id(tmp_path: Path) -> None:
    table = '[[agent]]\nid = "{}"\n{}\n[agent.select]\nexe = ["/bin/{}"]\n'
    main = '[policy]\nmode = "enforce"\n[policy.limits]\npids_max = 9\n' + table.format(
        "one", 'max_response = "alert"\nname = "{exe}"', "old"
    )
    path = write(
        tmp_path, main, a=table.format("two", 'mode = "monitor"', "b"), b=table.format("one", "", "new")
    )
    one, two = load(path, environment={}).config.agent
    assert (one.id, one.mode, one.max_response, one.name, one.select.exe) == (
        "one", "enforce", "kill", "", ("/bin/new",),
    )  # fmt: skip
    assert (two.id, two.mode, two.limits.pids_max) == ("two", "monitor", 9)


def test_environment_is_read_as_the_key_takes_it(tmp_path: Path) -> None:
    environment = {"AGENTWATCH_RULES_PATHS": "/a, /b", "AGENTWATCH_POLICY_LIMITS_PIDS_MAX": "12"}
    config = load(write(tmp_path, ""), environment=environment).config
    assert config.rules.paths == (Path("/a"), Path("/b"))
    assert config.policy.limits.pids_max == 12


def test_all_that_is_wrong_is_told_at_once(tmp_path: Path) -> None:
    main = """
        [policy]
        mood = "x"
        max_response = "explode"
        only = "impact"
        [policy.limits]
        pids_max = true
        cpu_weight = 0
        memory_max = "lots"
        [[agent]]
        id = "a b"
        [[agent]]
        id = "nobody"
        name = "{nothing}"
        [control]
        socket = "relative"
    """
    path = write(tmp_path, main, broken="[", other="contrl = 1\nrules = 2\nagent = 3")
    found = problems(path, AGENTWATCH_POLICY_MDOE="x", AGENTWATCH_POLICY_MODE="loud", AGENTWATCH_SOCKET="/x")
    expected = (
        "agentwatch.toml policy.mood is unknown; is it mode?",
        "agentwatch.toml policy.max_response takes one of alert, block, pause, kill, not 'explode'",
        "agentwatch.toml policy.only takes a list of texts, not 'impact'",
        "agentwatch.toml policy.limits.pids_max takes a whole number from 1, not True",
        "agentwatch.toml policy.limits.cpu_weight takes a whole number from 1 to 10000, not 0",
        "agentwatch.toml policy.limits.memory_max 'lots' has not the form",
        "agentwatch.toml agent, table 1 needs an id",
        "agentwatch.toml agent.nobody.name '{nothing}' has not the form",
        "agentwatch.toml control.socket takes an absolute path, not 'relative'",
        "broken.toml  ",
        "other.toml contrl is unknown; is it control?",
        "other.toml rules is a table: [rules]",
        "other.toml agent is an array of tables: [[agent]]",
        "environment AGENTWATCH_POLICY_MDOE  is unknown; is it AGENTWATCH_POLICY_MODE?",
        "environment AGENTWATCH_POLICY_MODE policy.mode takes one of monitor, enforce, not 'loud'",
        "agentwatch.toml agent.nobody.select says of nobody",
    )
    assert len(found) == len(expected)
    for one, beginning in zip(found, expected, strict=True):
        assert one.startswith(beginning)


def test_a_file_that_was_named_must_be_there(tmp_path: Path) -> None:
    assert problems(tmp_path / "none.toml") == ["none.toml  No such file or directory"]


@pytest.mark.parametrize("content", [b"\xff", b"a = " + b"[" * 100_000, b"#" * (2 << 20), b"a = 1e9999999"])
def test_hostile_files_are_errors(tmp_path: Path, content: bytes) -> None:
    path = write(tmp_path, "")
    path.write_bytes(content)
    assert len(problems(path)) == 1


def test_what_is_no_file_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo.toml")
    assert problems(tmp_path / "fifo.toml") == ["fifo.toml  it is no regular file"]


@needs_root
def test_root_believes_no_file_that_others_may_write(tmp_path: Path) -> None:
    path = write(tmp_path, "", owned="", writable="", fine="")
    folder = tmp_path / "agentwatch.d"
    os.chown(folder / "owned.toml", 65534, 65534)
    (folder / "writable.toml").chmod(0o664)
    owned, writable = problems(path)
    assert owned.startswith("owned.toml  it belongs to user 65534")
    assert writable.startswith("writable.toml  others than root may write it")
    folder.chmod(0o777)
    assert problems(path) == ["agentwatch.d  others than root may write it: chmod go-w"]
