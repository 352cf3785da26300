"""The built pages, without a browser: they are what the sources make, small, and ask nobody else for anything."""

from __future__ import annotations

import gzip
import hashlib
import json
import re
from pathlib import Path

PAGES = Path(__file__).parents[2] / "runner" / "monitor" / "pages"
DIST = PAGES / "dist"
OUTSIDE_SRC = ("index.html", "package.json", "package-lock.json", "tsconfig.json", "vite.config.mjs")


def test_the_bundle_was_made_from_these_sources() -> None:
    inside = [path.relative_to(PAGES).as_posix() for path in (PAGES / "src").rglob("*") if path.is_file()]
    found = hashlib.sha256()
    for path in sorted([*OUTSIDE_SRC, *inside]):
        found.update(f"{path}\0".encode() + (PAGES / path).read_bytes() + b"\0")

    stamp = json.loads((DIST / "sources.json").read_text())

    assert stamp == {"sha256": found.hexdigest()}, "`make pages` builds runner/monitor/pages/dist/ again"


def test_every_file_of_the_bundle_is_asked_for_at_once_or_later_and_no_others_lie_about() -> None:
    built = {path.relative_to(DIST).as_posix() for path in DIST.rglob("*") if path.is_file()}
    later = {name for script in built if script.startswith("assets/") for name in imports(script)}
    own = {"index.html", "sources.json", "export/page.js", "export/page.css"}

    assert at_once() | later | own == built


def at_once() -> set[str]:
    """Files that the first page needs: what it names, and what these import."""
    found = set(re.findall(r'(?:src|href)="\./(assets/[^"]+)"', (DIST / "index.html").read_text()))
    todo = list(found)
    while todo:
        new = imports(todo.pop(), at_once=True) - found
        found |= new
        todo += new
    return found


def imports(script: str, at_once: bool = False) -> set[str]:
    """Scripts that one imports; without `at_once` those, too, that it imports when they are wanted."""
    if not script.endswith(".js"):
        return set()
    before = r"(?:from|import)" if at_once else r"(?:from|import\(|import)"
    text = (DIST / script).read_text()
    return {f"assets/{name}" for name in re.findall(before + r"""\s*["'`]\./([^"'`]+)["'`]""", text)}


def test_what_the_first_page_needs_weighs_at_most_60_kib_gzipped() -> None:
    sizes = {name: len(gzip.compress((DIST / name).read_bytes())) for name in at_once()}

    assert sum(sizes.values()) <= 60 * 1024, sizes


def test_the_bundle_names_no_other_host() -> None:
    text = "".join(path.read_text() for path in DIST.rglob("*") if path.is_file())

    hosts = set(re.findall(r"(?:https?:)?//([a-z0-9.-]+\.[a-z]{2,})", text))

    assert hosts <= {"www.w3.org"}  # names of XML namespaces, never asked for


def test_the_page_has_no_script_or_style_of_its_own() -> None:
    page = (DIST / "index.html").read_text()

    assert re.findall(r"<script(?![^>]*\bsrc=)", page) == []
    assert re.findall(r"<style|\bstyle=|\bon[a-z]+=", page) == []


def test_the_lock_file_names_no_registry() -> None:
    lock = json.loads((PAGES / "package-lock.json").read_text())

    assert [name for name, package in lock["packages"].items() if "resolved" in package] == []
