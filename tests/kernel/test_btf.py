from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentwatch.kernel.btf import BtfError, KernelTypes, Kind, MissingType
from tests.kernel.btf_blob import BtfBlob


def sample() -> BtfBlob:
    """struct thing {
        u32 a; union { u64 wide; struct { u32 low, high; }; }; u32 flag:3, rest:29; u32 list[3];
    };"""
    blob = BtfBlob()
    u32, u64 = blob.integer("unsigned int", 4), blob.integer("unsigned long", 8)
    inner = blob.aggregate(Kind.STRUCT, "", 8, ("low", u32, 0), ("high", u32, 32))
    union = blob.aggregate(Kind.UNION, "", 8, ("wide", u64, 0), ("", inner, 0))
    listed = blob.array(u32, 3)
    members = [
        ("a", u32, 0),
        ("", union, 64),
        ("flag", u32, 3 << 24 | 128),
        ("rest", u32, 29 << 24 | 131),
        ("list", listed, 160),
    ]
    thing = blob.aggregate(Kind.STRUCT, "thing", 32, *members, flag=True)
    constant = blob.add(Kind.CONST, "", thing)
    blob.add(Kind.TYPEDEF, "thing_t", constant)
    blob.add(Kind.TYPEDEF, "number_t", u32)
    blob.add(Kind.ENUM, "colour", 4, 0, 0, entries=1)
    blob.add(Kind.FUNC, "do_thing", 0)
    return blob


def test_members_are_found_through_anonymous_structs_and_unions() -> None:
    types = KernelTypes(sample().encode())
    assert types.member("thing", "a").offset == 0
    assert types.member("thing", "wide").offset == 8
    assert types.member("thing", "high").offset == 12
    assert types.member("thing_t", "list").offset == 20


def test_bit_fields_keep_their_width_and_bit_offset() -> None:
    member = KernelTypes(sample().encode()).member("thing", "rest")
    assert (member.bit_offset, member.bits) == (131, 29)


def test_sizes() -> None:
    types = KernelTypes(sample().encode())
    assert types.aggregate("thing").size == 32
    assert types.size(types.member("thing", "list").type_id) == 12
    assert types.size(types.type_id(Kind.TYPEDEF, "thing_t")) == 32


def test_ids_are_by_kind_and_count_from_one() -> None:
    types = KernelTypes(sample().encode())
    assert types.type(types.type_id(Kind.FUNC, "do_thing")).name == "do_thing"
    assert types.type(types.type_id(Kind.ENUM, "colour")).kind is Kind.ENUM
    assert types.type_id(Kind.FUNC, "do_thing") == len(types) - 1


@pytest.mark.parametrize(
    ("aggregate", "member", "says"),
    [
        ("nothing", "a", "struct nothing"),
        ("thing", "z", "member z in struct thing"),
        ("number_t", "a", "number_t"),
    ],
)
def test_what_is_missing_is_named(aggregate: str, member: str, says: str) -> None:
    with pytest.raises(MissingType, match=says):
        KernelTypes(sample().encode()).member(aggregate, member)


def test_a_missing_id_is_named() -> None:
    with pytest.raises(MissingType, match="func thing"):
        KernelTypes(sample().encode()).type_id(Kind.FUNC, "thing")


@given(st.binary(max_size=200))
def test_rubbish_is_refused(data: bytes) -> None:
    with pytest.raises(BtfError):
        KernelTypes(data)


@given(st.data())
def test_a_cut_blob_is_refused(data: st.DataObject) -> None:
    whole = sample().encode()
    with pytest.raises(BtfError):
        KernelTypes(whole[: data.draw(st.integers(0, len(whole) - 1))])


def test_the_running_kernel(kernel_types: KernelTypes) -> None:
    assert kernel_types.member("task_struct", "comm").offset > 0
    assert kernel_types.size(kernel_types.member("task_struct", "comm").type_id) == 16
    assert kernel_types.size(kernel_types.member("sock_common", "skc_v6_daddr").type_id) == 16
    assert kernel_types.type_id(Kind.FUNC, "bpf_iter_task") > 0
    assert kernel_types.type_id(Kind.TYPEDEF, "btf_trace_sched_process_exec") > 0
