"""`./dev vm`: boot kernels, run the kernel-facing tests inside, and tell what holds where."""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from pathlib import Path

from vmtests import report
from vmtests.kernels import Kernel, Mode, Unavailable, VmError, read_table, unpacked, unpacked_headers
from vmtests.machine import ROOT, Message, boot
from vmtests.prepared import probes

CACHE = ROOT / ".cache/vm"
OTHER_PARTS = ("coverage", "demo", "smoke")  # in a mode that is not the default
PARTS = ("coverage", "programs", "demo", "tests")
SMOKE = ("coverage", "demo", "smoke")
_LIMIT, _SMOKE_LIMIT = 900, 240  # seconds a machine may take
_HOST, _AS_IT_IS = Kernel("host", "", "", ""), Mode("as it is", default=True)  # none is booted


def main(arguments: list[str]) -> int:
    """Boot what is asked for; 0 when all that must hold held, 1 otherwise."""
    try:
        kernels, modes = read_table()
    except Unavailable as error:
        print(error, file=sys.stderr)
        return 0 if "--smoke" in arguments else 4
    options = _options(kernels, modes).parse_args(arguments)
    if os.geteuid() != 0:
        print("machines share the host's root file system: that needs root", file=sys.stderr)
        return 4
    wanted = [(k, m) for k in kernels for m in modes if _chosen(options, k, m)]
    if options.host:
        wanted.insert(0, (_HOST, _AS_IT_IS))
    failed = False
    for kernel, mode in wanted:
        failed |= _run(kernel, mode, options)
    return int(failed)


def _options(kernels: list[Kernel], modes: list[Mode]) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="./dev vm", description=__doc__)
    parser.add_argument("--kernel", action="append", choices=[k.name for k in kernels], help="default: two")
    parser.add_argument("--mode", action="append", choices=[m.name for m in modes], help="default: unified")
    parser.add_argument("--all", action="store_true", help="every kernel in every mode")
    parser.add_argument("--host", action="store_true", help="also on the kernel that runs here, as it is")
    parser.add_argument("--limit", type=float, help=f"seconds a machine may take ({_LIMIT}; {_SMOKE_LIMIT})")
    parser.add_argument(
        "--smoke",
        action="store_true",
        help="the least that says whether a kernel is watched and agents are frozen there; a machine that "
        "cannot be had or takes too long is left out, and docs/kernels.md stays as it is",
    )
    parser.add_argument(
        "part",
        nargs="*",
        help="coverage, programs, demo, smoke, or tests to run instead; then docs/kernels.md stays as it is",
    )
    return parser


def _chosen(options: argparse.Namespace, kernel: Kernel, mode: Mode) -> bool:
    if options.all:
        return kernel.boots(mode)
    of_kernel = kernel.name in options.kernel if options.kernel else kernel.default
    return of_kernel and kernel.boots(mode) and (mode.name in options.mode if options.mode else mode.default)


def _run(kernel: Kernel, mode: Mode, options: argparse.Namespace) -> bool:
    """One machine; whether something failed that must hold."""
    chosen = options.part or (SMOKE if options.smoke else ())
    limit = options.limit or (_SMOKE_LIMIT if options.smoke else _LIMIT)
    title = f"{kernel.name}, {mode.name}"
    started = time.monotonic()
    outcome = report.Outcome(refuses=mode.refuses or kernel.refuses)
    print(f"{title}: starting", file=sys.stderr)

    def hear(message: Message) -> None:
        outcome.hear(message)
        if line := report.line(message):
            print(f"{title}: {time.monotonic() - started:4.0f} s  {line}", file=sys.stderr)

    parts = " ".join(chosen or (PARTS if mode.default else OTHER_PARTS))
    folder = CACHE / "runs" / f"{kernel.name}-{mode.name}".replace(" ", "-")
    try:
        if kernel is _HOST:
            _here(parts, hear)
        else:
            headers = unpacked_headers(kernel, CACHE) if mode.headers else None
            image = unpacked(kernel, CACHE)
            compiled = probes(image, CACHE)
            boot(image, mode, parts, folder=folder, probes=compiled, headers=headers, limit=limit, hear=hear)
    except Unavailable as error:
        print(f"{title}: left out: {error}", file=sys.stderr)
        if failed := outcome.failed():
            print(f"{title}: until then: {outcome.verdict()}", file=sys.stderr)
        return failed or not options.smoke
    except VmError as error:
        print(f"{title}: {error}; what it said is in {folder}", file=sys.stderr)
        outcome.broken = str(error)
    outcome.seconds = round(time.monotonic() - started)
    print(f"{title}: {outcome.verdict()}", file=sys.stderr)
    if not chosen:
        for growth in report.keep(kernel.name, mode.name, outcome.summary()):
            print(f"{title}: {growth}", file=sys.stderr)
    return outcome.failed()


def _here(parts: str, hear: report.Hear) -> None:
    """The same without a machine."""
    command = [sys.executable, "-m", "vmtests.inside", *parts.split()]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT), str(Path(__file__).parents[1])])}
    with subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        for line in process.stdout:
            hear(json.loads(line))
    if process.returncode:
        raise VmError(f"it ended with {process.returncode}")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
