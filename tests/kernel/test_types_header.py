from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from agentwatch.kernel.btf import KernelTypes, Kind, MissingType
from agentwatch.kernel.bytecode import Spec
from agentwatch.kernel.types_header import kernel_header
from tests.kernel.btf_blob import BtfBlob
from tests.kernel.conftest import STUB

LEAD = '#include "linux/types.h"\n'


def odd_kernel() -> KernelTypes:
    """Types whose layout no compiler would choose by itself."""
    blob = BtfBlob()
    u8, u32, u64 = blob.integer("u8", 1), blob.integer("u32", 4), blob.integer("u64", 8)
    s16 = blob.integer("short", 2, signed=True)
    anonymous = blob.aggregate(Kind.STRUCT, "", 4, ("val", u32, 0))
    uid = blob.add(Kind.TYPEDEF, "kuid_t", anonymous)
    address = blob.aggregate(Kind.UNION, "address", 16, ("bytes", blob.array(u8, 16), 0), ("word", u32, 0))
    forward = blob.add(Kind.FWD, "later", 0)
    pointer = blob.add(Kind.PTR, "", forward)
    grid = blob.array(blob.array(address, 2), 3)
    members = [
        ("small", u8, 8 * 3),
        ("split", u64, 8 * 5),  # unaligned: the kernel's struct is packed
        ("uid", uid, 8 * 16),
        ("other", anonymous, 8 * 20),
        ("where", address, 8 * 24),
        ("brief", s16, 8 * 40),
        ("next", pointer, 8 * 48),
        ("grid", grid, 8 * 56),
        ("flag", u32, 5 << 24 | 8 * 152),
    ]
    blob.aggregate(Kind.STRUCT, "odd", 157, *members, flag=True)
    return KernelTypes(blob.encode())


def compiles(header: str, tmp_path: Path, body: str = "") -> subprocess.CompletedProcess[str]:
    compiler = shutil.which("clang") or shutil.which("gcc")
    if compiler is None:
        pytest.skip("neither clang nor gcc is installed")
    source = tmp_path / "check.c"
    source.write_text(LEAD + header + body, encoding="utf-8")
    command = [compiler, "-fsyntax-only", "-ffreestanding", f"-I{STUB / 'include'}", str(source)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


ODD: Spec = {
    "odd": ["small", "split", "uid", "other", "where", "brief", "next", "grid", "flag"],
    "kuid_t": ["val"],
    "address": ["bytes", "word"],
}


def test_the_headers_own_assertions_hold_for_the_oddest_layout(tmp_path: Path) -> None:
    done = compiles(kernel_header(odd_kernel(), ODD), tmp_path)
    assert done.returncode == 0, done.stderr


def test_the_assertions_are_not_idle(tmp_path: Path) -> None:
    header = kernel_header(odd_kernel(), ODD).replace("_before_uid[16]", "_before_uid[20]")
    assert "odd.uid" in compiles(header, tmp_path).stderr


def test_fields_have_usable_types(tmp_path: Path) -> None:
    uses = """
    u64 use(struct odd *o) {
        struct later *next = o->next;
        union address *cell = &o->grid[2][1];
        s16 brief = o->brief;
        return o->uid.val + o->split + o->where.word + cell->bytes[3] + (next != 0) + brief;
    }
    _Static_assert(odd__flag__BIT_OFFSET == 8 * 152 && odd__flag__BIT_SIZE == 5, "");
    #if !HAVE_odd__uid || defined HAVE_odd__flag || !BTF_ID_odd
    #error
    #endif
    """
    header = (
        kernel_header(odd_kernel(), ODD).replace(" signed;", " signed_;").replace(", signed)", ", signed_)")
    )
    done = compiles(header, tmp_path, uses)
    assert done.returncode == 0, done.stderr


def test_what_is_in_no_spec_is_opaque(tmp_path: Path) -> None:
    header = kernel_header(odd_kernel(), {"odd": ["where", "uid", "other"]})
    assert "u8 where[16]" in header
    assert "u8 uid[4]" in header
    assert compiles(header, tmp_path).returncode == 0


def test_a_missing_required_field_is_named() -> None:
    with pytest.raises(MissingType, match="member colour in struct odd"):
        kernel_header(odd_kernel(), {"odd": ["small", "colour"]})
    with pytest.raises(MissingType, match="struct even"):
        kernel_header(odd_kernel(), {"even": []})


def test_what_is_optional_may_be_missing(tmp_path: Path) -> None:
    optional = {"odd": ["small", "colour"], "even": ["x"], "address": ["word"]}
    header = kernel_header(odd_kernel(), {"odd": ["small"]}, optional)
    assert "HAVE_address__word" in header
    assert "colour" not in header
    assert "even" not in header
    assert compiles(header, tmp_path).returncode == 0


def test_the_running_kernels_sock_is_whole(kernel_types: KernelTypes, tmp_path: Path) -> None:
    spec = {
        "sock": ["__sk_common", "sk_protocol", "sk_socket"],
        "sock_common": ["skc_family", "skc_daddr", "skc_dport", "skc_num", "skc_v6_daddr", "skc_cookie"],
        "in6_addr": ["in6_u"],
        "cred": ["uid"],
        "kuid_t": ["val"],
    }
    done = compiles(
        kernel_header(kernel_types, spec), tmp_path, "u32 f(struct cred *c) { return c->uid.val; }"
    )
    assert done.returncode == 0, done.stderr
