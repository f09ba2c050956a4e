from __future__ import annotations

from collections.abc import Collection

import pytest

from agentwatch.detect.files import CATEGORIES, Files
from agentwatch.enrich.sighting import Sighting
from agentwatch.enrich.state import State
from agentwatch.schema import decode
from agentwatch.schema.events import Access, FileFlag, Type
from tests.enrich.test_files import names, record


def events(*records: bytes, wanted: Collection[str] = CATEGORIES) -> list[Sighting]:
    state = State()
    (agent,) = decode.notes(
        decode.pack_notes([(int(Type.AGENT), 1, 1, 0, 0, "demo", "agentwatch/demo", 1, "monitor")])
    )
    state.apply(1, agent)
    detector = Files(state, wanted)
    found: list[Sighting] = []
    for one in records:
        for row in decode.records(one):
            change = state.apply(2, row)
            if change is not None:
                found += detector.of(change)
    return found


def test_reading_and_changing_are_of_two_categories() -> None:
    read, write = events(
        record(Access.READ, names("/root/.netrc")), record(Access.CREATE, names("/etc/cron.d/x"))
    )
    assert (read.category, read.fields["Access"], read.fields["FileKind"]) == (
        "file_access",
        "read",
        "tokens",
    )
    assert (write.category, write.fields["Access"], write.fields["TargetFilename"]) == (
        "file_event",
        "create",
        "/etc/cron.d/x",
    )


def test_what_nobody_wants_is_not_made() -> None:
    assert events(record(Access.READ, names("/root/.netrc")), wanted=("file_event",)) == []


def test_a_cut_path_leaves_rules_undecided() -> None:
    (event,) = events(record(Access.WRITE, names("/x"), flags=int(FileFlag.CUT)), wanted=("file_event",))
    assert "TargetFilename" in event.truncated


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        ("/sys/fs/cgroup/agentwatch/demo/cgroup.freeze", "freezer"),
        ("/sys/fs/cgroup/agentwatch/demo/cgroup.procs", "freezer"),
        ("/sys/fs/cgroup/cgroup.kill", "freezer"),
        ("/sys/fs/cgroup/agentwatch/cgroup.kill", "freezer"),
        ("/sys/fs/cgroup/agentwatch/demo/build/cgroup.freeze", None),
        ("/sys/fs/cgroup/agentwatch/demo/build/cgroup.procs", None),
        ("/sys/fs/cgroup/system.slice/cgroup.procs", None),
        ("/sys/fs/bpf/agentwatch/link", "bpffs"),
        ("/var/cache/agentwatch/probes/x", "bpffs"),
        ("/etc/cron.d/x", None),
    ],
)
def test_tampering(path: str, kind: str | None) -> None:
    found = events(record(Access.WRITE, names(path)), wanted=("tampering",))
    assert [event.fields["Kind"] for event in found] == ([kind] if kind else [])


def test_reading_control_files_is_no_tampering() -> None:
    assert events(record(Access.READ, names("/sys/fs/cgroup/cgroup.freeze")), wanted=("tampering",)) == []
