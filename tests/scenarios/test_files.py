"""Uses of watched files and privileged operations become alerts, and their recording says the same again."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = [pytest.mark.root, pytest.mark.skipif(os.geteuid() != 0, reason="needs root")]

RULE = """
title: {category} {value}
id: 5d3a1e5c-0000-4000-8000-0000000000{number:02x}
status: test
description: Test.
author: test
date: 2026-01-01
logsource: {{product: agentwatch, category: {category}}}
detection:
  one: {{'{field}': '{value}'}}
  condition: one
level: low
"""
WANTED = [
    ("file_access", "TargetFilename|endswith", "/.aws/credentials"),
    ("file_event", "TargetFilename|endswith", "/.ssh/authorized_keys"),
    ("privileged_operation", "Namespaces", "net"),
    ("process_creation", "LoaderEnvironment|startswith", "LD_PRELOAD="),
    ("process_creation", "ImageFlags", "written"),
    ("process_creation", "AncestorImages|contains", "/python3"),
]


def test_a_recording_says_the_same_again(tmp_path: Path) -> None:
    rules, home = tmp_path / "rules", tmp_path / "home"
    for folder in (rules, home / ".aws", home / ".ssh"):
        folder.mkdir(parents=True)
    (home / ".aws/credentials").write_text("secret")
    for number, (category, field, value) in enumerate(WANTED):
        text = RULE.format(category=category, field=field, value=value, number=number)
        (rules / f"{number}.yml").write_text(text)
    script = (
        f"cat {home}/.aws/credentials; echo key >{home}/new; mv {home}/new {home}/.ssh/authorized_keys; "
        f"cp /bin/true {home}/own; LD_PRELOAD={home}/none.so {home}/own; unshare -n true; "
        "/usr/bin/python3 -c 'import os; os.system(\"/bin/true\")'"
    )
    alerts, trace, again = tmp_path / "alerts", tmp_path / "trace", tmp_path / "again"
    agentwatch = [sys.executable, "-m", "agentwatch"]
    told = ["--rules", str(rules), "--alerts"]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    run = [*agentwatch, "run", *told, str(alerts), "--record", str(trace), "--", "sh", "-c", script]
    replay = [*agentwatch, "replay", str(trace), *told, str(again)]
    for command in (run, replay):
        subprocess.run(command, check=True, capture_output=True, env=environment, timeout=60)
    found = {json.loads(line)["rule"]["title"] for line in alerts.read_text().splitlines()}
    assert found == {f"{category} {value}" for category, _, value in WANTED}
    assert again.read_bytes() == alerts.read_bytes()
