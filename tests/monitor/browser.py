"""A real Chromium for tests and pictures. Where there is none, tests are skipped with a word on what is missing, or
fail when RUNNER_REQUIRE_ALL is set, as `.ci/run` does: there they shall not be left out unseen."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

import runner
from runner.monitor.server import Monitor

AXE = Path(runner.__file__).parent / "monitor" / "pages" / "node_modules" / "axe-core" / "axe.min.js"
FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
PATIENT = 30_000
"""Milliseconds: the machine may be busy."""
HOSTILE = (
    "<script>document.title='owned'</script><img src=x onerror=\"document.title='owned'\">"
    "<svg onload=\"document.title='owned'\"></svg>[a](javascript:alert(1)) \x1b[31mred\x1b[0m nul:\x00 "
    "bidi:\u202edlrow\u202c zero:\u200b end"
)
"""What a model, a reward or a data set may write."""


def missing(what: str) -> None:
    """Skips the test, or fails it where a browser is required."""
    if os.environ.get("RUNNER_REQUIRE_ALL"):
        pytest.fail(f"RUNNER_REQUIRE_ALL is set, and this needs {what}")
    pytest.skip(f"needs {what}")


@contextmanager
def launched() -> Iterator[Any]:
    """The browser, headless."""
    if find_spec("playwright") is None:
        missing("playwright: pip install playwright")
    found = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if found is None:
        missing("Chromium: apt-get install chromium")
    playwright: Any = import_module("playwright.sync_api")
    with (
        playwright.sync_playwright() as started,
        closing(started.chromium.launch(executable_path=found, args=FLAGS)) as browser,
    ):
        yield browser


@dataclass
class Watched:
    """A page, and everything that must not happen on it."""

    page: Any
    base: str
    faults: list[str] = field(default_factory=list[str])

    def open(self, path: str = "") -> Any:
        self.page.goto(f"{self.base}#/{path}")
        self.page.wait_for_selector("main h1", timeout=PATIENT)
        return self.page

    def text(self) -> str:
        return str(self.page.inner_text("main"))


@contextmanager
def watched(browser: Any, monitor: Monitor, **context: Any) -> Iterator[Watched]:
    """A page; at its end there were no console errors, policy violations or requests to anywhere else."""
    with closing(browser.new_context(viewport={"width": 1400, "height": 900}, **context)) as tab:
        seen = Watched(tab.new_page(), monitor.url)

        def route(asked: Any) -> None:
            if asked.request.url.startswith((monitor.url, "data:")):
                asked.continue_()
            else:
                seen.faults.append(f"asked for {asked.request.url}")
                asked.abort()

        tab.route("**/*", route)
        seen.page.on("console", lambda said: said.type == "error" and seen.faults.append(said.text))
        seen.page.on("pageerror", lambda error: seen.faults.append(str(error)))
        yield seen
        assert seen.faults == []
