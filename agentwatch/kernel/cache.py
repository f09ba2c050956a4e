"""Compiled probes kept in a folder of root's, so that a warm start neither compiles nor parses BTF.

Bytecode from this folder runs in the kernel: a folder or file that another user owns or could
write is never read. Whatever does not match is built again.
"""

from __future__ import annotations

import hashlib
import importlib.util
import os
import stat
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path

from agentwatch.kernel.background import Background
from agentwatch.kernel.bytecode import VMLINUX, Object, Spec

FOLDER = Path("/var/cache/agentwatch/probes")
TYPES_HEADER = "kernel_types.h"
"""The name by which probes include the header made from BTF."""

_FORMAT = b"agentwatch probes 3\n"  # starts every file; change it when the layout changes
_DIGEST_SIZE = 32
_LARGEST = 16 << 20  # bytes
_KEPT = 8  # files


@dataclass(frozen=True)
class Recipe:
    """Everything that decides what a compiled object is.

    `required` and `optional` are the kernel types of `TYPES_HEADER`; `headers` further generated
    ones by name. `btf_ids` are "kind name" of BTF entries whose ids the loader needs; those that
    this kernel lacks are left out of the object, for the others the C has HAVE_<kind>_<name>.
    """

    text: str
    stub: Path
    include_dirs: tuple[Path, ...] = ()
    headers: Mapping[str, str] = field(default_factory=dict)
    cflags: tuple[str, ...] = ()
    required: Spec = field(default_factory=dict)
    optional: Spec = field(default_factory=dict)
    btf_ids: tuple[str, ...] = ()

    def build(self, btf: bytes) -> Object:
        """Compile for the kernel whose BTF this is. Raises `MissingType`, `BtfError`, `CompileError`."""
        # Not needed by a warm start, which they would slow down.
        from agentwatch.kernel.btf import KernelTypes, Kind, MissingType  # noqa: PLC0415
        from agentwatch.kernel.compile import compile_object  # noqa: PLC0415
        from agentwatch.kernel.types_header import kernel_header  # noqa: PLC0415

        types = KernelTypes(btf)
        ids = {}
        for key in self.btf_ids:
            kind, name = key.split()
            with suppress(MissingType):
                ids[key] = types.type_id(Kind[kind.upper()], name)
        there = "".join(f"#define HAVE_{key.replace(' ', '_')} 1\n" for key in ids)
        headers = {TYPES_HEADER: there + kernel_header(types, self.required, self.optional), **self.headers}
        compiled = compile_object(
            self.text, stub=self.stub, include_dirs=self.include_dirs, headers=headers, cflags=self.cflags
        )
        return replace(compiled, btf_ids=ids)

    def digest(self) -> bytes:
        """32 bytes that change with every input of `build` but the BTF."""
        digest = hashlib.sha256(_FORMAT)
        for part in (bcc_version(), *self._parts()):
            digest.update(len(part).to_bytes(8, "little") + part)
        return digest.digest()

    def _parts(self) -> Iterable[bytes]:
        yield self.text.encode()
        yield repr((self.cflags, self.btf_ids, sorted(self.headers.items()))).encode()
        for spec in (self.required, self.optional):
            yield repr([(name, list(fields)) for name, fields in spec.items()]).encode()
        for folder in (self.stub, *self.include_dirs):
            for path in sorted(folder.rglob("*.[ch]")):
                yield str(path.relative_to(folder)).encode()
                yield path.read_bytes()


def bcc_version() -> bytes:
    """What tells one BCC from another without loading LLVM: its version file; empty without BCC."""
    found = importlib.util.find_spec("bcc")
    if found is None or found.origin is None:
        return b""
    with suppress(OSError):
        return Path(found.origin).with_name("version.py").read_bytes()
    return found.origin.encode()


def cached_object(recipe: Recipe, folder: Path = FOLDER, vmlinux: Path = VMLINUX) -> Object:
    """The compiled recipe, from the cache or built and put there. Raises what `Recipe.build` raises.

    A cache that cannot be trusted or written costs a log message and a compilation, no more.
    """
    hashing = Background(lambda: _hashed(vmlinux))  # some ms, and the kernel's and OpenSSL's work
    own = recipe.digest()
    btf, of_btf = hashing.result()
    digest = hashlib.sha256(own + of_btf).digest()
    path = folder / f"{digest.hex()}.probes"
    try:
        _check_folder(folder)
        return _read(path, digest)
    except FileNotFoundError:
        pass
    except (Untrusted, OSError, ValueError) as error:
        _warn("the probe cache is not used: %s", error)
    compiled = recipe.build(btf)
    try:
        _write(path, digest, compiled)
    except (Untrusted, OSError) as error:
        _warn("the compiled probes are not kept: %s", error)
    return compiled


def _warn(message: str, error: Exception) -> None:
    import logging  # noqa: PLC0415 (a warm start has nothing to say, and would pay 3 ms)

    logging.getLogger(__name__).warning(message, error)


def _hashed(path: Path) -> tuple[bytes, bytes]:
    data = path.read_bytes()
    return data, hashlib.sha256(data).digest()


class Untrusted(Exception):
    """A folder or file that another user could have written."""


def _check_folder(folder: Path) -> None:
    """The folder is this user's alone, and nobody else can put another in its place."""
    status = folder.lstat()
    if not stat.S_ISDIR(status.st_mode):
        raise Untrusted(f"{folder} is not a folder")
    _check_owner(folder, status)
    for parent in folder.parent.resolve().joinpath("x").parents:
        above = parent.stat()
        if above.st_uid not in (0, os.geteuid()):
            raise Untrusted(f"{parent} belongs to user {above.st_uid}")
        if above.st_mode & 0o022 and not above.st_mode & stat.S_ISVTX:
            raise Untrusted(f"{parent} is writable by others")


def _check_owner(path: Path, status: os.stat_result) -> None:
    if status.st_uid != os.geteuid():
        raise Untrusted(f"{path} belongs to user {status.st_uid}")
    if status.st_mode & 0o022:
        raise Untrusted(f"{path} is writable by others")


def _read(path: Path, digest: bytes) -> Object:
    fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK)
    with os.fdopen(fd, "rb") as file:
        status = os.fstat(fd)
        if not stat.S_ISREG(status.st_mode) or status.st_size > _LARGEST:
            raise Untrusted(f"{path} is not an ordinary file of a sensible size")
        _check_owner(path, status)
        data = file.read()
    head, body = data[: len(_FORMAT) + 2 * _DIGEST_SIZE], data[len(_FORMAT) + 2 * _DIGEST_SIZE :]
    if head != _FORMAT + digest + hashlib.sha256(body).digest():
        raise ValueError(f"{path} is damaged")
    return Object.unpack(body)


def _write(path: Path, digest: bytes, compiled: Object) -> None:
    """Put a whole file in place at once; whoever reads meanwhile sees the old one or the new one."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    _check_folder(path.parent)
    body = compiled.pack()
    import tempfile  # noqa: PLC0415 (a warm start writes nothing)

    fd, temporary = tempfile.mkstemp(dir=path.parent)
    try:
        with os.fdopen(fd, "wb") as file:
            file.write(_FORMAT + digest + hashlib.sha256(body).digest() + body)
        Path(temporary).replace(path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
    _prune(path.parent)


def _prune(folder: Path) -> None:
    """Keep the newest few: each kernel and each version of the probes leaves one behind."""
    kept = sorted(folder.glob("*.probes"), key=lambda path: path.lstat().st_mtime_ns, reverse=True)
    for path in kept[_KEPT:]:
        path.unlink(missing_ok=True)
