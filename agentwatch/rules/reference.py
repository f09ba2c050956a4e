"""The field reference of the documentation, from the schema.

python -m agentwatch.rules.reference > docs/rule-fields.md
"""

from __future__ import annotations

import sys
from collections.abc import Iterator

from agentwatch.rules.logsource import AWAITED
from agentwatch.schema.fields import FIELDS

_HEAD = """# Fields that rules may name

Made from `agentwatch/schema/fields.py` by `python -m agentwatch.rules.reference`; do not edit.

A rule names the category in its `logsource`. `process_creation`, `network_connection` and
`dns_query` are Sigma's own and keep Sigma's names (`product: linux`); the others are agentwatch's
(`product: agentwatch`). A list field matches when one of its elements does; `Name#0` is its first
element. A field without a value is absent: `field: null` and `field|exists: false` match.
"""


def markdown() -> str:
    """The reference as a Markdown document."""
    sections = [_HEAD]
    for category, (meaning, fields) in sorted(FIELDS.items()):
        rows = [f"| `{field.name}` | {field.type} | {field.doc} |\n" for field in fields]
        table = "".join(["| field | type | meaning |\n|---|---|---|\n", *rows])
        sections.append(f"## {category}\n\n{meaning}\n\n{table}")
    awaited = [line for category, names in sorted(AWAITED.items()) for line in _awaited(category, names)]
    if awaited:
        head = "## Awaited\n\nRules may name these, but no source tells of them yet:\n\n"
        sections.append(head + "".join(awaited))
    return "\n".join(sections)


def _awaited(category: str, names: frozenset[str]) -> Iterator[str]:
    told = {field.name for field in FIELDS[category][1]} if category in FIELDS else set[str]()
    missing = sorted(names - told)
    if missing:
        yield f"- `{category}`: {', '.join(f'`{name}`' for name in missing)}\n"


if __name__ == "__main__":
    sys.stdout.write(markdown())
