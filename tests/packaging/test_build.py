"""What `./dev package` builds: complete, reproducible, and fit to be installed."""

from __future__ import annotations

import hashlib
import io
import os
import shutil
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent.parent
PACKAGING = ROOT / "packaging"
SITE = f"./usr/lib/agentwatch/lib/python3.{sys.version_info.minor}/site-packages"

pytestmark = [
    pytest.mark.skipif(shutil.which("dpkg-deb") is None, reason="there is no dpkg-deb here"),
    pytest.mark.timeout(1300),  # a package is fetched and built, a whole Debian installed
]


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the wheel and the Debian package."""
    out = tmp_path_factory.mktemp("dist")
    command = [sys.executable, str(PACKAGING / "build.py"), "--out", str(out)]
    environment = {**os.environ, "SOURCE_DATE_EPOCH": "1000000000"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if "No matching distribution" in done.stderr or "Could not fetch" in done.stderr:
        pytest.skip("the pinned Python packages cannot be had here")
    assert done.returncode == 0, done.stderr
    return out


@pytest.fixture(scope="module")
def deb(built: Path) -> Path:
    (found,) = built.glob("*.deb")
    return found


@pytest.fixture(scope="module")
def content(deb: Path) -> Iterator[tarfile.TarFile]:
    """The files that it installs."""
    data = subprocess.run(["dpkg-deb", "--fsys-tarfile", deb], capture_output=True, check=True).stdout
    with tarfile.open(fileobj=io.BytesIO(data)) as archive:
        yield archive


def sources(folder: str) -> dict[str, bytes]:
    return {
        str(path.relative_to(ROOT)): path.read_bytes()
        for path in (ROOT / folder).rglob("*")
        if path.is_file() and not path.name.startswith(".")
    }


def test_the_wheel_carries_probes_and_rules(built: Path) -> None:
    (wheel,) = built.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        for name, data in (sources("probes") | sources("rules")).items():
            assert archive.read(f"agentwatch/data/{name}") == data
        assert not [name for name in archive.namelist() if name.startswith(("tests", "bench", "packaging"))]


def test_the_same_sources_elsewhere_give_the_same_files(built: Path, tmp_path: Path) -> None:
    place, out = tmp_path / "elsewhere" / "and deeper", tmp_path / "out"
    place.mkdir(parents=True)
    for name in ("agentwatch", "packaging", "probes", "rules", "pyproject.toml", "README.md"):
        subprocess.run(["cp", "-r", ROOT / name, place], check=True, umask=0o077)
    (place.parent / "tmp").mkdir()
    environment = {
        **os.environ, "SOURCE_DATE_EPOCH": "1000000000", "PYTHONPATH": "", "TZ": "Asia/Tokyo", "LC_ALL": "C",
        "TMPDIR": str(place.parent / "tmp"), "PYTHONHASHSEED": "7",
    }  # fmt: skip
    command = [sys.executable, str(place / "packaging/build.py"), "--out", str(out)]
    subprocess.run(command, env=environment, check=True, umask=0o077, cwd=tmp_path)
    digests = [
        {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.iterdir()}
        for folder in (built, out)
    ]
    assert len(digests[0]) == 2
    assert digests[0] == digests[1]


def test_the_deb_belongs_to_root_and_to_one_moment(content: tarfile.TarFile) -> None:
    for member in content:
        assert (member.uid, member.gid, member.mtime) == (0, 0, 1000000000), member.name
        assert member.issym() or member.mode in (0o644, 0o755), member.name
        assert "__pycache__" not in member.name
        assert not member.name.endswith(("direct_url.json", "/RECORD")), member.name


def test_the_deb_has_all_its_parts(content: tarfile.TarFile) -> None:
    names = set(content.getnames())
    for name in (
        "./usr/bin/agentwatch",
        "./usr/lib/systemd/system/agentwatch.service",
        "./etc/agentwatch/agentwatch.toml",
        "./usr/share/man/man1/agentwatch-run.1.gz",
        "./usr/share/bash-completion/completions/agentwatch",
        "./usr/share/zsh/vendor-completions/_agentwatch",
        "./usr/share/fish/vendor_completions.d/agentwatch.fish",
        "./usr/share/doc/agentwatch/copyright",
        f"{SITE}/agentwatch/data/probes/process.c",
        f"{SITE}/agentwatch/data/rules/mining/stratum_client.yml",
    ):
        assert name in names


def test_no_file_names_the_place_where_it_was_built(content: tarfile.TarFile) -> None:
    for member in content:
        file = content.extractfile(member) if member.isfile() else None
        if file is not None and not member.name.endswith(".so"):
            assert str(ROOT).encode() not in file.read(), member.name


def test_what_it_asks_of_the_system(deb: Path) -> None:
    def field(name: str) -> str:
        return subprocess.run(
            ["dpkg-deb", "-f", deb, name], capture_output=True, text=True, check=True
        ).stdout

    minor = sys.version_info.minor
    assert f"python3 (>= 3.{minor}~), python3 (<< 3.{minor + 1}~), python3-bpfcc" in field("Depends")
    conffiles = subprocess.run(["dpkg-deb", "-I", deb, "conffiles"], capture_output=True, check=True).stdout
    assert conffiles == b"/etc/agentwatch/agentwatch.toml\n"


@pytest.mark.parametrize("script", ["postinst", "prerm", "postrm"])
def test_maintainer_scripts_are_posix_shell(script: str) -> None:
    subprocess.run(["dash", "-n", PACKAGING / "debian" / script], check=True)


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="there is no systemd-analyze here")
def test_systemd_understands_the_unit(tmp_path: Path) -> None:
    unit = (PACKAGING / "debian/agentwatch.service").read_text()
    (tmp_path / "agentwatch.service").write_text(unit.replace("/usr/bin/agentwatch", "/bin/true"))
    command = ["systemd-analyze", "verify", "--man=no", str(tmp_path / "agentwatch.service")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert [line for line in done.stderr.splitlines() if "agentwatch.service" in line] == []


@pytest.mark.root
@pytest.mark.skipif(os.geteuid() != 0, reason="needs root")
def test_it_does_its_work_on_a_bare_debian(deb: Path) -> None:
    suite = {11: "bookworm", 13: "trixie"}.get(sys.version_info.minor)
    if suite is None:
        pytest.skip("no Debian has this Python")
    done = subprocess.run(
        [PACKAGING / "check.sh", deb, suite], capture_output=True, text=True, check=False, timeout=1200
    )
    if done.returncode == 77:
        pytest.skip(done.stderr.strip())
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]
