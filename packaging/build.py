"""`./dev package`: the wheel and the Debian package, each byte for byte the same from the same sources.

The Debian package carries its Python packages, in the versions of requirements.txt, in a virtual
environment of its own over the system's interpreter, where BCC's bindings live: to install it needs
nothing but the distribution. So it is made for one version of Python: Debian 12 has 3.11, Debian 13
3.13, Ubuntu 22.04 3.10 and 24.04 3.12.
"""

from __future__ import annotations

import argparse
import gzip
import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from email.parser import HeaderParser
from pathlib import Path

from compiled import compile_path
from packaging.requirements import Requirement

ROOT = Path(__file__).resolve().parent.parent
DEBIAN = ROOT / "packaging/debian"
HOME = "usr/lib/agentwatch"
_SOURCES = ("agentwatch", "probes", "rules", "packaging", "pyproject.toml", "README.md")
_MACHINES = {"amd64": "x86_64", "arm64": "aarch64"}
_NEWEST_GLIBC = 35  # 2.35 is Ubuntu 22.04's, the oldest that is supported
_NEEDLESS = ("diskcache-stubs", "types-pyyaml", "setuptools")  # hints for type checkers; nothing asks for it
_MAN = {"1": "usr/share/man/man1", "5": "usr/share/man/man5"}
_COMPLETIONS = {
    "bash": "usr/share/bash-completion/completions/agentwatch",
    "fish": "usr/share/fish/vendor_completions.d/agentwatch.fish",
    "zsh": "usr/share/zsh/vendor-completions/_agentwatch",
}


def main() -> None:
    parser = argparse.ArgumentParser(prog="./dev package", description=__doc__.partition(".\n")[0] + ".")
    here = f"3.{sys.version_info.minor}"
    told = "that of the system the Debian package is for; %(default)s, as here"
    parser.add_argument("--python", default=here, metavar="3.N", help=told)
    parser.add_argument("--out", type=Path, default=ROOT / "dist", help="the folder; %(default)s")
    parser.add_argument("--wheel", action="store_true", help="the wheel alone")
    compiled = "the Debian package's event path as machine code as well (for the Python that runs here)"
    parser.add_argument("--compiled", action="store_true", help=compiled)
    chosen = parser.parse_args()
    if chosen.compiled and chosen.python != here:
        parser.error(f"--compiled is for Python {here}, which runs here; leave out --python")
    chosen.out.mkdir(parents=True, exist_ok=True)
    os.umask(0o022)
    if "SOURCE_DATE_EPOCH" not in os.environ:  # sources that are no checkout need it
        os.environ["SOURCE_DATE_EPOCH"] = _output("git", "-C", str(ROOT), "log", "-1", "--format=%ct")
    with tempfile.TemporaryDirectory(prefix="agentwatch-package-") as scratch:
        wheel = build_wheel(Path(scratch, "sources"), chosen.out)
        print(wheel)
        if not chosen.wheel:
            print(build_deb(Path(scratch, "deb"), wheel, chosen.python, chosen.out, chosen.compiled))


def build_wheel(copy: Path, out: Path) -> Path:
    """From a copy of the sources: what an earlier build left in the checkout cannot get in."""
    copy.mkdir()
    for name in _SOURCES:
        source = ROOT / name
        if source.is_dir():
            shutil.copytree(source, copy / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(source, copy)
    for path in (copy, *copy.rglob("*")):  # the modes of a checkout are its user's
        path.chmod(0o755 if path.is_dir() else 0o644)
    made = copy / "wheel"
    _pip("wheel", "--no-build-isolation", "--no-deps", "--wheel-dir", str(made), str(copy))
    (wheel,) = made.iterdir()
    return Path(shutil.copy(wheel, out))


def build_deb(tree: Path, wheel: Path, python: str, out: Path, compiled: bool = False) -> Path:
    version, machine = wheel.name.split("-")[1], _output("dpkg", "--print-architecture")
    site = tree / HOME / f"lib/python{python}/site-packages"
    _install_packages(site, wheel, python, _MACHINES[machine])
    if compiled:
        compile_path(site)
    (site.parents[2] / "pyvenv.cfg").write_text("home = /usr/bin\ninclude-system-site-packages = true\n")
    (tree / HOME / "bin").mkdir()
    (tree / HOME / "bin/python3").symlink_to(f"/usr/bin/python{python}")
    for name, folder, mode in (
        ("agentwatch", "usr/bin", 0o755),
        ("agentwatch.service", "usr/lib/systemd/system", 0o644),
        ("agentwatch.toml", "etc/agentwatch", 0o644),
        ("lintian-overrides", "usr/share/lintian/overrides", 0o644),
    ):
        _put(DEBIAN / name, tree / folder / ("agentwatch" if folder.endswith("overrides") else name), mode)
    (tree / "etc/agentwatch/agentwatch.d").mkdir()
    _write_manual(tree)
    _write_copyright(tree / "usr/share/doc/agentwatch", site, version)
    _write_control(tree, version, machine, python)
    deb = out / f"agentwatch_{version}_{machine}_py{python}.deb"
    # One thread: how xz cuts its blocks is then the same everywhere.
    _run("dpkg-deb", "--root-owner-group", "-Zxz", "-z3", "--threads-max=1", "--build", str(tree), str(deb))
    return deb


def _install_packages(site: Path, wheel: Path, python: str, machine: str) -> None:
    glibcs = [f"--platform=manylinux_2_{minor}_{machine}" for minor in range(_NEWEST_GLIBC, 4, -1)]
    target = ["--target", str(site), "--no-compile", "--no-deps"]
    foreign = [f"--python-version={python}", "--implementation=cp", "--only-binary=:all:", *glibcs,
               f"--platform=manylinux2014_{machine}"]  # fmt: skip
    _pip("install", *target, *foreign, *_requirements(python))
    _pip("install", *target, "--no-index", str(wheel))
    shutil.rmtree(site / "bin", ignore_errors=True)  # commands of the packages
    for note in ("direct_url.json", "REQUESTED", "INSTALLER", "RECORD"):  # how pip came to it, and from where
        for path in site.glob(f"*.dist-info/{note}"):
            path.unlink()


def _requirements(python: str) -> Iterator[str]:
    """The pins for that Python: pip judges markers by the Python that it runs on."""
    for line in (ROOT / "packaging/requirements.txt").read_text().splitlines():
        text = line.partition("#")[0].strip()
        if not text:
            continue
        pin = Requirement(text)
        if pin.name not in _NEEDLESS and (
            pin.marker is None or pin.marker.evaluate({"python_version": python})
        ):
            yield f"{pin.name}{pin.specifier}"


def _write_manual(tree: Path) -> None:
    """Man pages and completions, from the command line of these very sources."""
    with tempfile.TemporaryDirectory() as folder:
        _run(sys.executable, "-m", "agentwatch.cli.manual", folder)
        for page in sorted(Path(folder).iterdir()):
            _put_gzip(page.read_bytes(), tree / _MAN[page.suffix[1:]] / f"{page.name}.gz")
    for shell, path in _COMPLETIONS.items():
        target = tree / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(_output(sys.executable, "-m", "agentwatch", "completion", shell) + "\n")


def _write_copyright(folder: Path, site: Path, version: str) -> None:
    """Who wrote what is carried along, by its own word."""
    folder.mkdir(parents=True)
    text = (DEBIAN / "copyright").read_text()
    for metadata in sorted(site.glob("*.dist-info/METADATA")):
        about = HeaderParser().parsestr(metadata.read_text(encoding="utf-8"))
        if about["Name"] != "agentwatch":
            licence = about["License-Expression"] or _classified(about.get_all("Classifier", []))
            text += f"\n{about['Name']} {about['Version']}: {licence or about['License']}"
    (folder / "copyright").write_text(text + "\n")
    _put_gzip((DEBIAN / "changelog").read_bytes(), folder / "changelog.Debian.gz")


def _classified(classifiers: list[str]) -> str:
    return ", ".join(one.rpartition(":: ")[2] for one in classifiers if one.startswith("License ::"))


def _write_control(tree: Path, version: str, machine: str, python: str) -> None:
    control = tree / "DEBIAN"
    size = sum((path.lstat().st_size + 1023) // 1024 for path in tree.rglob("*") if path.is_file())
    after = f"3.{int(python.removeprefix('3.')) + 1}"
    fields = {"VERSION": version, "ARCHITECTURE": machine, "SIZE": size, "PYTHON": python, "AFTER": after}
    control.mkdir()
    text = (DEBIAN / "control").read_text()
    for name, value in fields.items():
        text = text.replace(f"@{name}@", str(value))
    (control / "control").write_text(text)
    (control / "conffiles").write_text("/etc/agentwatch/agentwatch.toml\n")
    for script in ("postinst", "prerm", "postrm"):
        _put(DEBIAN / script, control / script, 0o755)
    sums = "".join(
        f"{hashlib.md5(path.read_bytes()).hexdigest()}  {path.relative_to(tree)}\n"
        for folder in ("etc", "usr")
        for path in sorted((tree / folder).rglob("*"))
        if path.is_file() and not path.is_symlink()
    )
    (control / "md5sums").write_text(sums)


def _put(source: Path, target: Path, mode: int) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(source, target)
    target.chmod(mode)


def _put_gzip(data: bytes, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_bytes(gzip.compress(data, 9, mtime=0))


def _pip(*arguments: str) -> None:
    environment = {**os.environ, "PIP_USER": "0", "PIP_NO_INPUT": "1", "PIP_DISABLE_PIP_VERSION_CHECK": "1"}
    _run(sys.executable, "-I", "-m", "pip", arguments[0], "-qq", *arguments[1:], env=environment)


def _run(*command: str, env: dict[str, str] | None = None) -> None:
    subprocess.run(command, check=True, cwd=ROOT, env=env, stdout=sys.stderr)


def _output(*command: str) -> str:
    return subprocess.run(command, check=True, cwd=ROOT, stdout=subprocess.PIPE, text=True).stdout.strip()


if __name__ == "__main__":
    main()
