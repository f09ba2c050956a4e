"""The documentation is that of the model, its example holds, and the schema describes the files."""

from __future__ import annotations

import re
from pathlib import Path

from agentwatch.config.json_schema import json_schema
from agentwatch.config.keys import leaves
from agentwatch.config.load import load
from agentwatch.config.model import Config
from agentwatch.config.reference import markdown
from agentwatch.resources import RULES
from agentwatch.rules.load import load_rules
from agentwatch.rules.selection import strangers


def test_the_documentation_is_up_to_date() -> None:
    written = (RULES.parent / "docs" / "configuration.md").read_text(encoding="utf-8")
    assert written == markdown(), "run: python -m agentwatch.config.reference > docs/configuration.md"


def test_the_example_is_a_configuration(tmp_path: Path) -> None:
    (example,) = re.findall(r"```toml\n(.*?)```", markdown(), re.DOTALL)
    path = tmp_path / "agentwatch.toml"
    path.write_text(example)
    config = load(path, environment={}).config
    assert [table.id for table in config.agent] == ["jobs", "containers", "assistants"]
    assert [table.max_response for table in config.agent] == ["pause", "kill", "pause"]
    assert strangers([word for table in config.agent for word in table.without], load_rules([RULES])) == []


def test_every_key_is_explained_and_in_the_schema() -> None:
    schema = json_schema()
    for path, key in leaves(Config):
        node = schema
        for part in path.split("."):
            assert node["additionalProperties"] is False
            node = node["properties"][part]
        assert node["description"] == key.doc
    agent = schema["properties"]["agent"]
    assert agent["items"]["required"] == ["id"]
    assert agent["items"]["properties"]["mode"]["enum"] == ["monitor", "enforce"]
