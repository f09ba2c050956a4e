from __future__ import annotations

import stat

from hypothesis import given
from hypothesis import strategies as st

from agentwatch.enrich import files
from agentwatch.enrich.files import FileNames, FileUse
from agentwatch.schema import decode
from agentwatch.schema.events import Access, FileFlag
from tests.schema.records import raw


def names(path: str) -> bytes:
    """A path as the kernel writes it: from leaf to root."""
    return b"".join(name.encode() + b"\0" for name in reversed(path.split("/")[1:]))


def record(access: int, data: bytes, *, text: bytes = b"", flags: int = 0, tid: int = 100, mode: int = 0,
           own_pid: int = 100) -> bytes:  # fmt: skip
    both = data + text
    return raw("file_access", flags=flags, tid=tid, access=access, mode=mode, own_pid=own_pid,
               text=len(text), length=len(both), data=both)  # fmt: skip


def uses(*records: bytes) -> list[FileUse]:
    table = FileNames()
    made = [table.use(row) for one in records for row in decode.records(one)]
    return [use for use in made if use is not None]


def test_an_open_has_the_files_path() -> None:
    (use,) = uses(record(Access.READ, names("/home/a/.ssh/id_rsa"), mode=stat.S_IFREG | 0o600))
    assert use == FileUse(Access.READ, "/home/a/.ssh/id_rsa", "", "ssh", frozenset())


def test_what_has_only_a_watched_name_is_no_use() -> None:
    assert uses(record(Access.READ, names("/srv/shadow"))) == []


def test_a_path_as_asked_for_begins_at_its_folder() -> None:
    (use,) = uses(record(Access.DELETE, names("/etc/systemd"), text=b"../cron.d/./job\0"))
    assert (use.path, use.kind) == ("/etc/cron.d/job", "cron")


def test_an_absolute_path_as_asked_for_stands_alone() -> None:
    (use,) = uses(record(Access.WRITE, b"", text=b"/etc//passwd\0"))
    assert use.path == "/etc/passwd"


def test_a_rename_joins_its_two_names_by_thread() -> None:
    found = uses(
        record(Access.RENAME_FROM, names("/tmp/job"), tid=1),
        record(Access.RENAME_FROM, names("/tmp/other"), tid=2),
        record(Access.RENAME, names("/etc/cron.d/job"), tid=1),
        record(Access.RENAME, names("/tmp/.ssh/x"), tid=2),
    )
    assert [(use.path, use.source, use.kind) for use in found] == [
        ("/etc/cron.d/job", "/tmp/job", "cron"),
        ("/tmp/.ssh/x", "/tmp/other", "ssh"),
    ]


def test_a_watched_file_moved_away_is_a_use_too() -> None:
    (use,) = uses(record(Access.LINK_FROM, names("/etc/shadow")), record(Access.LINK, names("/tmp/x")))
    assert (use.access, use.kind, use.source) == (Access.LINK, "accounts", "/etc/shadow")


def test_a_first_name_that_was_lost_is_said() -> None:
    (use,) = uses(record(Access.RENAME, names("/etc/cron.d/job")))
    assert use.truncated == {"SourceFilename"}


def test_a_cut_path_is_told_though_its_kind_is_not_known() -> None:
    (use,) = uses(record(Access.WRITE, names("/x"), flags=int(FileFlag.CUT)))
    assert use.kind == ""
    assert use.truncated == {"TargetFilename"}


def test_a_process_may_look_at_itself() -> None:
    assert uses(record(Access.READ, names("/proc/7/environ"), own_pid=7)) == []
    assert uses(record(Access.READ, names("/proc/7/task/8/environ"), own_pid=7)) == []
    assert len(uses(record(Access.READ, names("/proc/7/environ"), own_pid=8))) == 1


def test_a_disk_is_watched_wherever_its_node_lies() -> None:
    (use,) = uses(record(Access.READ, names("/tmp/x"), mode=stat.S_IFBLK))
    assert use.kind == "disk"


def test_first_names_are_bounded() -> None:
    table = FileNames()
    for tid in range(files.NAMES_KEPT + 10):
        (row,) = decode.records(record(Access.RENAME_FROM, names("/a"), tid=tid + 1))
        table.use(row)
    assert len(table._first) == files.NAMES_KEPT


@given(
    st.integers(0, 9),
    st.binary(max_size=80),
    st.integers(0, 200),
    st.integers(0, 3),
    st.integers(0, 2**32 - 1),
)
def test_no_bytes_make_it_fail(access: int, data: bytes, text: int, flags: int, mode: int) -> None:
    whole = raw("file_access", flags=flags, access=access, mode=mode, text=text, length=len(data), data=data)
    (row,) = decode.records(whole)
    FileNames().use(row)
