"""A real Chromium for tests and pictures. Where there is none, tests are skipped with a word on what is missing, or
fail when RUNNER_REQUIRE_BROWSER is set, as `.ci/run` does: there they shall not be left out unseen."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import closing, contextmanager
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

import runner

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


def missing(what: str) -> None:
    """Skips the test, or fails it where a browser is required."""
    if os.environ.get("RUNNER_REQUIRE_BROWSER"):
        pytest.fail(f"RUNNER_REQUIRE_BROWSER is set, and this needs {what}")
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
