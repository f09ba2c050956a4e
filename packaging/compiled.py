"""The event path as machine code: `./dev compiled test`, `./dev compiled bench`, `./dev package --compiled`.

mypyc compiles typed Python as it stands, for one version of Python and one machine. The sources stay
what they are: where no compiled module lies beside one, it is interpreted, and says the same.
"""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
COPY = ROOT / ".cache/compiled"
# What every record goes through. The rest runs rarely, or waits for the kernel, the disk or a person.
EVENT_PATH = (
    "agentwatch/event.py",
    "agentwatch/pipeline.py",
    "agentwatch/schema/decode.py",
    "agentwatch/schema/layout.py",
    "agentwatch/enrich/*.py",
    "agentwatch/detect/*.py",
    "agentwatch/rules/index.py",
    "agentwatch/rules/match.py",
    "agentwatch/rules/correlate.py",
)
_SETUP = """
import sys
from mypyc.build import mypycify
from setuptools import setup

checks = ["--config-file=", "--follow-imports=silent", "--ignore-missing-imports"]
modules = mypycify([*checks, *sys.argv[3:]], opt_level="2", debug_level="0", target_dir=sys.argv[2])
setup(name="agentwatch", packages=[], ext_modules=modules, script_args=[
    "-q", "build_ext", "--inplace", f"--build-temp={sys.argv[1]}"])
"""


def main() -> None:
    """Make or renew the copy of the checkout whose event path is compiled, and say where it is."""
    listed = _output("git", "ls-files", "-coz", "--exclude-standard").split("\0")
    files = [name for name in listed if name and (ROOT / name).is_file()]
    stamp = COPY / ".stamp"
    path = sorted(str(one.relative_to(ROOT)) for one in event_path(ROOT))
    state = hashlib.sha256(sys.version.encode())
    for name in (*path, "packaging/compiled.py", "packaging/requirements-dev.txt"):
        state.update(name.encode() + (ROOT / name).read_bytes())
    if not stamp.exists() or stamp.read_text() != state.hexdigest():
        shutil.rmtree(COPY, ignore_errors=True)
    # What was removed from the checkout would be run as a test.
    for gone in {*COPY.rglob("*.py")}.difference(COPY / name for name in files):
        gone.unlink()
    for name in files:
        target = COPY / name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(ROOT / name, target)
    if not stamp.exists():
        compile_path(COPY)
        stamp.write_text(state.hexdigest())
    print(COPY)


def event_path(tree: Path) -> list[Path]:
    """The modules that are compiled, in a tree that holds the package."""
    return sorted(path for pattern in EVENT_PATH for path in tree.glob(pattern))


def compile_path(tree: Path) -> None:
    """Put compiled modules beside the event path's sources, in a tree that holds the package."""
    with tempfile.TemporaryDirectory(prefix="agentwatch-compiled-") as scratch:
        alone = Path(scratch)  # what lies beside the package in a tree is not mypy's business
        shutil.copytree(tree / "agentwatch", alone / "agentwatch")
        names = [str(path.relative_to(alone)) for path in event_path(alone)]
        command = [sys.executable, "-I", "-c", _SETUP, "objects", "sources", *names]
        subprocess.run(command, cwd=alone, check=True, stdout=sys.stderr)
        for module in sorted([*alone.glob("*.so"), *alone.glob("agentwatch/**/*.so")]):
            shutil.copy(module, tree / module.relative_to(alone))


def _output(*command: str) -> str:
    return subprocess.run(command, check=True, cwd=ROOT, stdout=subprocess.PIPE, text=True).stdout


if __name__ == "__main__":
    main()
