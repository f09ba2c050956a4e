"""Loading: errors with file and line, lists, and the cache."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from agentwatch.rules import load
from agentwatch.rules.engine import Engine
from agentwatch.rules.load import load_rules
from agentwatch.rules.model import Problem, RuleError, RuleSet
from tests.rules.helpers import event, rule, verdict

GOOD = rule("s:\n  User: root\ncondition: s", head="title: good\nid: 11111111-1111-4111-8111-111111111111")
OTHER = rule("s:\n  User: me\ncondition: s", head="title: other\nid: 22222222-2222-4222-8222-222222222222")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with one good rule."""
    place = tmp_path / "rules"
    place.mkdir()
    (place / "good.yml").write_text(GOOD)
    return place


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    """A cache folder that is still to be made."""
    return tmp_path / "cache"


@pytest.fixture
def parses(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Counts how often rules are parsed rather than taken from the cache."""
    counted: list[int] = []
    parse = load._parse

    def counting(files: load._Files) -> tuple[RuleSet, tuple[Problem, ...]]:
        counted.append(1)
        return parse(files)

    monkeypatch.setattr(load, "_parse", counting)
    return counted


def test_a_rule_with_all_that_it_says(folder: Path, cache: Path) -> None:
    (folder / "good.yml").write_text(
        GOOD.replace(
            "title: good",
            "title: good\nname: my_rule\nstatus: test\nauthor: me\ndescription: |\n  What it is.\n"
            "tags: [attack.t1572]\nreferences: [https://a.example]\nfalsepositives: [None known]\n"
            "level: high\nagentwatch:\n  response: pause\n  scope: agent",
        )
    )
    (found,) = load_rules([folder], cache).rules
    assert (found.title, found.name, found.level, found.kind) == ("good", "my_rule", "high", "rule")
    assert (found.response, found.scope) == ("pause", "agent")
    assert (found.category, list(found.conditions)) == ("process_creation", ["process_creation"])
    assert (found.status, found.author, found.description) == ("test", "me", "What it is.")
    assert (found.tags, found.references) == (("attack.t1572",), ("https://a.example",))
    assert found.falsepositives == ("None known",)
    assert (found.file, found.line) == (str(folder / "good.yml"), 1)


def test_folders_are_searched_and_hidden_files_left_out(folder: Path, cache: Path) -> None:
    (folder / "deep").mkdir()
    (folder / "deep" / "other.yaml").write_text(OTHER)
    (folder / ".hidden.yml").write_text("broken: [")
    (folder / "notes.txt").write_text("broken: [")
    assert [found.title for found in load_rules([folder], cache).rules] == ["good", "other"]


def test_a_list_fills_in_a_placeholder_and_is_part_of_the_digest(folder: Path, cache: Path) -> None:
    before = load_rules([folder], cache).digest
    (folder / "lists").mkdir()
    (folder / "lists" / "names.txt").write_text("root\nadmin\n")
    (folder / "good.yml").write_text(GOOD.replace("User: root", "User|expand: '%names%'"))
    found = load_rules([folder], cache)
    assert verdict(Engine(found).evaluate(event(User="admin"))) is True
    (folder / "lists" / "names.txt").write_text("root\n")
    again = load_rules([folder], cache)
    assert verdict(Engine(again).evaluate(event(User="admin"))) is False
    assert len({before, found.digest, again.digest}) == 3


def test_lists_of_one_name_are_joined_over_folders(folder: Path, cache: Path, tmp_path: Path) -> None:
    (folder / "good.yml").write_text(GOOD.replace("User: root", "User|expand: '%names%'"))
    for place, words in ((folder, "root"), (tmp_path / "own", "# ours\nadmin")):
        (place / "lists").mkdir(parents=True)
        (place / "lists" / "names.txt").write_text(words)
    engine = Engine(load_rules([folder, tmp_path / "own"], cache))
    found = [verdict(engine.evaluate(event(User=name))) for name in ("root", "admin", "rootadmin")]
    assert found == [True, True, False]


def test_lists_beside_what_is_given_are_found(folder: Path, cache: Path) -> None:
    (folder / "lists").mkdir()
    (folder / "lists" / "names.txt").write_text("admin\n")
    (folder / "deep").mkdir()
    (folder / "deep" / "one.yml").write_text(GOOD.replace("User: root", "User|expand: '%names%'"))
    for given in (folder / "deep", folder / "deep" / "one.yml"):
        assert verdict(Engine(load_rules([given], cache)).evaluate(event(User="admin"))) is True


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root")
def test_lists_of_another_user_beside_a_folder_given_are_not_taken(folder: Path, cache: Path) -> None:
    (folder / "lists").mkdir()
    (folder / "lists" / "names.txt").write_text("admin\n")
    (folder / "deep").mkdir()
    (folder / "deep" / "one.yml").write_text(GOOD.replace("User: root", "User|expand: '%names%'"))
    os.chown(folder / "lists", 65534, 65534)
    with pytest.raises(RuleError, match="no list for '%names%'"):
        load_rules([folder / "deep"], cache)


def test_the_digest_is_of_contents_whatever_their_names_and_order(folder: Path, cache: Path) -> None:
    (folder / "other.yml").write_text(OTHER)
    before = load_rules([folder], cache)
    (folder / "good.yml").rename(folder / "z.yml")
    after = load_rules([folder / "z.yml", folder / "other.yml"], cache)
    assert after.digest == before.digest
    assert [found.id for found in after.rules] == [found.id for found in before.rules]
    (folder / "z.yml").write_text(GOOD + "# a word more\n")
    assert load_rules([folder], cache).digest != before.digest


@pytest.mark.parametrize(
    ("text", "line", "reason"),
    [
        ("title: x\ndetection: [", 2, "did not find expected"),
        ("- a\n- b\n", 1, "a rule is a YAML mapping"),
        ("title: x\ntitle: y\n", 1, "Duplicate key 'title'"),
        ("title: x\n", 1, "log source"),
        (GOOD.replace("title: good\n", ""), 1, "must have a title"),
        (GOOD.replace("User: root", "User|shouts: root"), 8, "Unknown modifier 'shouts'"),
        (GOOD.replace("User: root", "User|re: '('"), 8, "missing )"),
        (GOOD.replace("condition: s", "condition: t"), 9, "'t', which is not defined"),
        (GOOD + "level: huge\n", 10, "'huge' is not a valid Sigma rule level"),
        (GOOD + "agentwatch:\n  response: explode\n", 11, "response 'explode' is none of"),
        (GOOD + "agentwatch:\n  scope: world\n", 11, "scope 'world' is none of"),
        (GOOD + "agentwatch: pause\n", 10, "takes response and scope"),
        (GOOD.replace("11111111-", "x"), 2, "must be an UUID"),
        (f"{OTHER}---\n{GOOD}level: huge\n", 20, "'huge'"),
        (f"{GOOD}---\n{GOOD}", 12, "already the id or name"),
        ("a: &a [x, x]\nb: &b [*a, *a]\n" + "".join(f"c{i}: &c{i} [*b, *b]\n" for i in range(3)), 1, ""),
    ],
)
def test_an_error_names_file_line_and_reason(
    folder: Path, cache: Path, text: str, line: int, reason: str
) -> None:
    bad = folder / "bad.yml"
    bad.write_text(text)
    (folder / "good.yml").unlink()
    with pytest.raises(RuleError) as caught:
        load_rules([folder], cache)
    problem = caught.value.problems[0]
    assert (problem.file, problem.line) == (str(bad), line)
    assert reason in problem.reason
    assert str(problem) in str(caught.value)


def test_every_problem_of_every_file_is_named(folder: Path, cache: Path) -> None:
    (folder / "a.yml").write_text(GOOD.replace("condition: s", "condition: t"))
    (folder / "b.yml").write_text(f"{OTHER}level: huge\nstatus: odd\n")
    (folder / "good.yml").unlink()
    with pytest.raises(RuleError) as caught:
        load_rules([folder], cache)
    named = [(Path(problem.file).name, problem.line) for problem in caught.value.problems]
    assert sorted(named) == [("a.yml", 9), ("b.yml", 10), ("b.yml", 11)]


def test_a_missing_file_is_named(folder: Path, cache: Path) -> None:
    with pytest.raises(RuleError, match="nowhere:1: No such file"):
        load_rules([folder / "nowhere"], cache)


def test_the_second_time_comes_from_the_cache(folder: Path, cache: Path, parses: list[int]) -> None:
    first = load_rules([folder], cache)
    assert load_rules([folder], cache) == first
    assert len(parses) == 1
    (folder / "good.yml").write_text(GOOD + "level: low\n")
    assert load_rules([folder], cache).rules[0].level == "low"
    assert len(parses) == 2


def test_a_cache_that_others_can_write_is_not_believed(folder: Path, cache: Path, parses: list[int]) -> None:
    load_rules([folder], cache)
    cache.chmod(0o777)
    load_rules([folder], cache)
    assert len(parses) == 2
    cache.chmod(0o700)
    (kept,) = cache.iterdir()
    kept.chmod(0o666)
    load_rules([folder], cache)
    assert len(parses) == 3
    load_rules([folder], cache)  # written anew in the meantime
    assert len(parses) == 3


def test_a_cached_set_behind_a_link_is_not_believed(
    folder: Path, cache: Path, tmp_path: Path, parses: list[int]
) -> None:
    load_rules([folder], cache)
    (kept,) = cache.iterdir()
    kept.rename(tmp_path / "elsewhere")
    kept.symlink_to(tmp_path / "elsewhere")
    load_rules([folder], cache)
    assert len(parses) == 2


def test_a_damaged_cache_is_rebuilt(folder: Path, cache: Path, parses: list[int]) -> None:
    first = load_rules([folder], cache)
    (kept,) = cache.iterdir()
    kept.write_bytes(kept.read_bytes()[:-1])
    assert load_rules([folder], cache) == first
    assert len(parses) == 2


def test_a_cached_set_under_the_name_of_another_is_not_believed(
    folder: Path, cache: Path, parses: list[int]
) -> None:
    load_rules([folder], cache)
    (old,) = cache.iterdir()
    (folder / "good.yml").write_text(GOOD.replace("title: good", "title: better"))
    load_rules([folder], cache)
    (new,) = set(cache.iterdir()) - {old}
    old.replace(new)
    assert load_rules([folder], cache).rules[0].title == "better"
    assert len(parses) == 3


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")
def test_a_cache_of_another_user_is_not_believed(folder: Path, cache: Path, parses: list[int]) -> None:
    load_rules([folder], cache)
    os.chown(cache, 12345, -1)
    load_rules([folder], cache)
    assert len(parses) == 2


def test_without_a_place_for_the_cache_rules_load_all_the_same(folder: Path) -> None:
    assert load_rules([folder], Path("/dev/null/cache")).rules


def test_the_cache_stays_small(folder: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(load, "KEPT", 2)
    for number in range(4):
        (folder / "good.yml").write_text(f"{GOOD}# {number}\n")
        load_rules([folder], cache)
    assert len(list(cache.iterdir())) == 2


def test_the_daemon_does_not_carry_the_parser(folder: Path, cache: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from agentwatch.rules.load import load_rules\n"
        "from agentwatch.rules.engine import Engine\n"
        f"Engine(load_rules([Path({str(folder)!r})], Path({str(cache)!r})))\n"
        "print([name for name in ('sigma', 'yaml', 'pyparsing') if name in sys.modules])"
    )
    child = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert child.stdout.strip() == "[]"


def test_modules_in_the_working_directory_are_not_imported(
    folder: Path, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "sigma.py").write_text("raise SystemExit('an agent was here')")
    monkeypatch.chdir(tmp_path)
    assert load_rules([folder], cache).rules
