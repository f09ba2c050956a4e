"""The page: it says what is there and what is missing, and no string in it acts."""

from __future__ import annotations

import base64
import hashlib
import re
import shutil
import subprocess
import zlib
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentwatch.forensics import report as module
from agentwatch.forensics.account import digest_of
from agentwatch.forensics.report import Page, shown
from agentwatch.forensics.story import Story
from tests.forensics.samples import DEMO, HOSTILE, damaged, incident, recorded

BROWSER = shutil.which("chromium") or shutil.which("google-chrome")
VOID = frozenset(("meta",))


def page_of(path: Path) -> str:
    page = Page()
    story = Story((path,), *page.listeners)
    story.tell()
    return "".join(page.parts(story))


class Parsed(HTMLParser):
    """Elements, text, and whether every element is closed where it should be."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, Any]]] = []
        self.text = ""
        self._open: list[str] = []
        self.feed(text)
        self.close()
        assert not self._open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self._open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


def test_the_demonstration_on_one_page() -> None:
    text = Parsed(page_of(DEMO)).text
    assert "What demo did on train7" in text and "Complete." in text
    for title in ("Agent Asks SSH for a Remote Forward", "Agent Speaks Stratum to a Mining Pool"):
        assert title in text
    assert "10.77.3.2:22" in text and "remote_forward opened" in text
    assert digest_of((DEMO,)) in text
    assert "git clone" in text


def test_the_page_may_load_and_run_nothing() -> None:
    html = page_of(DEMO)
    parsed = Parsed(html)
    (policy,) = (a["content"] for t, a in parsed.elements if a.get("http-equiv") == "Content-Security-Policy")
    (style,) = re.findall(r"<style>(.*?)</style>", html, re.DOTALL)
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    assert policy.startswith(f"default-src 'none'; style-src 'sha256-{digest}'")
    tags = {tag for tag, _ in parsed.elements}
    assert not tags & {"script", "iframe", "object", "embed", "link", "img", "a", "form", "base"}
    names = {name for _, attributes in parsed.elements for name in attributes}
    assert not names & {"src", "href", "style", "srcset", "action"}
    assert not any(name.startswith("on") for name in names)
    assert "@import" not in style and "url(" not in style


def test_strings_of_an_agent_are_text(tmp_path: Path) -> None:
    html = page_of(recorded(tmp_path, incident(), host=HOSTILE, command=(HOSTILE,), agents=(HOSTILE,)))
    parsed = Parsed(html)
    assert "<script>alert(1)</script>" in parsed.text
    assert not any(tag == "script" for tag, _ in parsed.elements)
    assert "\x1b" not in html and "\u202e" not in html and "\\u202egnp.exe" in parsed.text


@given(st.text())
def test_whatever_is_shown_stays_text(text: str) -> None:
    escaped = shown(text)
    assert not re.search(r"[<>\"']", escaped)
    assert "\u202e" not in escaped and "\n" not in escaped and len(escaped) <= 12 * module.TEXT


def test_what_is_missing_stands_at_the_top(tmp_path: Path) -> None:
    html = page_of(damaged(recorded(tmp_path, incident())))
    text = Parsed(html).text
    assert "This is not all: the recording is damaged." in text
    assert text.index("This is not all") < text.index("Timeline")
    assert "Complete." not in text


def test_no_more_is_shown_than_a_page_holds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "PROCESSES_SHOWN", 4)
    monkeypatch.setattr(module, "FLOWS_SHOWN", 1)
    text = Parsed(page_of(DEMO)).text
    assert "more processes are left out" in text and "more flows are left out" in text
    assert "ssh -N" in text  # whom alerts are about is always there


def browse(profile: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [str(BROWSER), "--headless=new", "--no-sandbox", "--disable-gpu", f"--user-data-dir={profile}"]
    return subprocess.run([*command, *arguments], capture_output=True, text=True, timeout=120, check=True)


def corner(picture: Path) -> str:
    """The colour of the first pixel of a PNG (RFC 2083), which no filter changes."""
    data, at, packed = picture.read_bytes(), 8, b""
    while at < len(data):
        size = int.from_bytes(data[at : at + 4], "big")
        if data[at + 4 : at + 8] == b"IDAT":
            packed += data[at + 8 : at + 8 + size]
        at += size + 12
    return zlib.decompress(packed)[1:4].hex()


@pytest.mark.skipif(BROWSER is None, reason="no Chromium is installed")
@pytest.mark.parametrize(("scheme", "paper"), [("light", "ffffff"), ("dark", "14181c")])
def test_a_browser_shows_it(tmp_path: Path, scheme: str, paper: str) -> None:
    page, picture = tmp_path / "report.html", tmp_path / "page.png"
    page.write_text(page_of(recorded(tmp_path, incident())), encoding="utf-8")
    preferred = [] if scheme == "light" else ["--blink-settings=preferredColorScheme=0"]
    done = browse(tmp_path, *preferred, "--dump-dom", f"--screenshot={picture}", f"file://{page}")
    assert "Content Security Policy" not in done.stderr
    assert "<script" not in done.stdout and "Timeline" in done.stdout
    assert corner(picture) == paper


@pytest.mark.skipif(BROWSER is None, reason="no Chromium is installed")
def test_a_browser_prints_it_with_the_evidence_unfolded(tmp_path: Path) -> None:
    page, pages = tmp_path / "report.html", []
    for evidence in ("<details>", "<p>"):
        page.write_text(page_of(DEMO).replace("<details>", evidence), encoding="utf-8")
        browse(tmp_path / "profile", f"--print-to-pdf={tmp_path}/report.pdf", f"file://{page}")
        pages.append(len(re.findall(rb"/Type\s*/Page\b", (tmp_path / "report.pdf").read_bytes())))
    assert pages[0] == pages[1] > 5  # as many as where nothing can be folded
