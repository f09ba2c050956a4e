from __future__ import annotations

from collections.abc import Collection
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentwatch.detect.privileged import CATEGORIES, Privileged
from agentwatch.enrich.sighting import Sighting
from agentwatch.enrich.state import State
from agentwatch.schema import decode
from agentwatch.schema.decode import DecodeError
from agentwatch.schema.events import BpfCommand, Denial, Namespace, Operation, Piece, PrivilegedFlag
from tests.schema.records import raw


class Fold:
    """State and detector over records."""

    def __init__(self, wanted: Collection[str] = CATEGORIES) -> None:
        self.state = State()
        self.detector = Privileged(self.state, wanted)

    def __call__(self, *records: bytes) -> list[Sighting]:
        found: list[Sighting] = []
        for record in records:
            decoder = decode.slots if len(record) == 128 and record[0] == 120 else decode.records
            for row in decoder(record):
                change = self.state.apply(1, row)
                if change is not None and change.type in self.detector.handlers:
                    found += self.detector.handlers[change.type](change)
        return found


def privileged(operation: Operation, *, data: bytes = b"", flags: int = 0, **fields: Any) -> bytes:
    return raw("privileged", operation=operation, flags=flags, length=len(data), data=data, **fields)


def test_namespaces_are_named() -> None:
    (event,) = Fold()(privileged(Operation.UNSHARE, detail=Namespace.USER | Namespace.NET))
    assert event.category == "privileged_operation"
    assert event.fields["Namespaces"] == ("user", "net")
    assert (event.fields["Kind"], event.fields["Operation"]) == ("namespace", "unshare")


def test_a_module_that_was_refused_was_asked_for_all_the_same() -> None:
    tried = [raw("denied", what=what) for what in (Denial.MODULE, Denial.BPF, Denial.EXEC)]
    assert [event.fields["Kind"] for event in Fold()(*tried)] == ["module_load"]


def test_entering_a_namespace_of_the_host_is_told() -> None:
    flags = int(PrivilegedFlag.INITIAL)
    host, other = Fold()(
        privileged(Operation.SETNS, detail=Namespace.MNT, flags=flags),
        privileged(Operation.SETNS, detail=Namespace.MNT),
    )
    assert (host.fields["OfInit"], other.fields["OfInit"]) == ("true", "false")


def test_a_child_in_namespaces_of_its_own_is_told_and_another_is_not() -> None:
    fork: dict[str, Any] = {"parent": 100, "parent_start": 7}
    (event,) = Fold()(
        raw("fork", tgid=200, start=8, clone_flags=0x01200011, **fork),
        raw("fork", tgid=201, start=9, clone_flags=0x11 | Namespace.PID, **fork),
    )
    assert (event.fields["ProcessId"], event.fields["Operation"]) == (201, "clone")
    assert event.fields["Namespaces"] == ("pid",)


def test_a_mount_has_its_three_texts() -> None:
    (event,) = Fold()(privileged(Operation.MOUNT, data=b"/dev/vda\0/mnt\0ext4\0"))
    assert [event.fields[name] for name in ("Source", "Target", "FsType")] == ["/dev/vda", "/mnt", "ext4"]


def test_a_cut_text_leaves_rules_undecided() -> None:
    (event,) = Fold()(privileged(Operation.MOUNT, data=b"x\0y\0z\0", flags=int(PrivilegedFlag.CUT)))
    assert {"Source", "Target", "FsType"} <= event.truncated


def test_commands_of_bpf_are_named() -> None:
    (event,) = Fold()(privileged(Operation.BPF, detail=BpfCommand.PROG_LOAD))
    assert (event.fields["Kind"], event.fields["Operation"]) == ("bpf", "prog_load")


def test_the_program_of_a_traced_process_is_told() -> None:
    fold = Fold()
    fold(
        raw("exec_piece", tgid=5, start=6, kind=Piece.EXE, length=4, data=b"cat\0"),
        raw("exec", tgid=5, start=6),
    )
    (event,) = fold(privileged(Operation.PTRACE, target=5, argument=6))
    assert (event.fields["TargetProcessId"], event.fields["TargetImage"]) == (5, "/cat")
    assert event.fields["OfMonitor"] == "false"


@pytest.mark.parametrize("operation", [Operation.PTRACE, Operation.MEMORY])
def test_tracing_the_monitor_is_tampering(operation: Operation) -> None:
    record = privileged(operation, target=5, flags=int(PrivilegedFlag.MONITOR))
    assert [event.category for event in Fold()(record)] == ["privileged_operation", "tampering"]
    (event,) = Fold(("tampering",))(record)
    assert (event.fields["Kind"], event.fields["OfMonitor"]) == ("ptrace", "true")


def _exec(euid: int, mode: int = 0o100755) -> tuple[bytes, bytes]:
    piece = raw("exec_piece", kind=Piece.EXE, length=2, data=b"x\0")
    return piece, raw("exec", uid=euid, euid=euid, mode=mode)


def test_root_without_a_setuid_program_is_told() -> None:
    (event,) = Fold()(*_exec(1000), *_exec(0))
    assert event.fields["Kind"] == "credentials"
    assert (event.fields["UserId"], event.fields["NewUserId"]) == (1000, 0)


def test_root_by_a_setuid_program_or_from_the_beginning_is_not() -> None:
    assert Fold()(*_exec(1000), *_exec(0, 0o104755), *_exec(0)) == []
    assert Fold()(*_exec(0), *_exec(1000)) == []
    assert Fold()(*_exec(0)) == []


def test_an_unknown_operation_is_unreadable() -> None:
    with pytest.raises(DecodeError):
        Fold()(raw("privileged", operation=999))


@given(st.sampled_from(list(Operation)), st.binary(max_size=60), st.integers(0, 2**64 - 1), st.integers(0, 7))
def test_no_bytes_make_it_fail(operation: Operation, data: bytes, detail: int, flags: int) -> None:
    Fold()(privileged(operation, data=data, detail=detail, flags=flags))
