"""The README's pictures of the monitor: of a real emulated run, one of whose rewards is edited while it trains.

    python -m tests.monitor.screenshots [--all DIR] [--home DIR]

Without `--all`, the few that the README shows are written to `runner/monitor/pages/screenshots/`. With it, every page
in both themes, wide and narrow, for whoever changes the pages. `--home` keeps the run, or uses the one that is there.
"""

from __future__ import annotations

import argparse
import json
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import runner
from runner.monitor.server import Monitor
from runner.monitor.settings import Settings
from runner.monitor.token import read_or_make
from tests.monitor.browser import PATIENT, launched

ROOT = Path(__file__).parents[2]
README = ROOT / "runner" / "monitor" / "pages" / "screenshots"
RUN = "countdown-1"
EDIT_AT = 24
OLD = "return zero(f\"equals {value:g}, not {example['target']}\")"
NEW = 'return {"score": 0.1, "reason": f"near: equals {value:g}, not {example[\'target\']}"}'

PLACES = {
    "jobs": "",
    "run": f"runs/{RUN}",
    "prompts": f"runs/{RUN}/completions",
    "compare": f"runs/{RUN}/completions?view=compare&example=%d",
    "groups": f"runs/{RUN}/completions?view=groups",
    "course": f"runs/{RUN}/completions?view=course&example=%d",
    "list": f"runs/{RUN}/completions?view=list&order=best",
    "logs": f"runs/{RUN}/logs",
    "rewards": f"runs/{RUN}/rewards",
    "diff": f"runs/{RUN}/rewards?show=diff",
    "lab": f"runs/{RUN}/rewards?show=lab",
    "settings": f"runs/{RUN}/settings",
    "run-alerts": f"runs/{RUN}/alerts",
    "alerts": "alerts",
    "runs": f"compare?runs={RUN},countdown-2",
}
IN_README = {"run": ("light", 1280, 860), "compare": ("dark", 1280, 860), "lab": ("light", 1280, 1000)}


def train(home: Path) -> None:
    """Two runs of the countdown example, with so few prompts that each comes often; in the first, a reward is edited on
    disk between two batches."""
    job = home / "jobs" / "countdown"
    shutil.copytree(ROOT / "jobs" / "examples" / "countdown", job)
    _keep_few(job / "data.jsonl")
    run = runner.emulate(job, home=home, overrides=["emulator.evaluate_every=10"], wait=False)
    source = job / "rewards.py"
    for progress in run.follow():
        if progress.step == EDIT_AT:
            source.write_text(source.read_text().replace(OLD, NEW))
    runner.emulate(job, home=home, overrides=["emulator.steps=30", "emulator.learning_rate=1e-4"])


def _keep_few(data: Path) -> None:
    kept: list[str] = []
    for split, most in (("train", 96), ("evaluation", 48)):
        kept += [line for line in data.read_text().splitlines() if json.loads(line)["split"] == split][:most]
    data.write_text("\n".join(kept) + "\n")


@contextmanager
def shown(home: Path) -> Iterator[tuple[Monitor, Any]]:
    """A monitor of the home with every right, and a browser."""
    token = read_or_make(home / ".runner")
    with Monitor(Settings(home=home, token=token, right="edit")) as monitor, launched() as browser:
        yield monitor, browser


def example_of(page: Any, monitor: Monitor) -> int:
    """A prompt with many completions."""
    answer = page.request.get(f"{monitor.url}api/v1/runs/{RUN}/prompts?limit=500").json()
    return int(max(answer["prompts"], key=lambda prompt: prompt["completions"])["example_id"])


def shoot(monitor: Monitor, browser: Any, place: str, theme: str, size: tuple[int, int], to: Path) -> None:
    """One picture; a whole page where the height is 0."""
    width, height = size
    with closing(browser.new_context(viewport={"width": width, "height": height or 900}, color_scheme=theme)) as tab:
        page = tab.new_page()
        page.goto(monitor.link())
        wanted = place.replace("%d", str(example_of(page, monitor))) if "%d" in place else place
        page.goto(f"{monitor.url}#/{wanted}")
        page.wait_for_selector("main h1", timeout=PATIENT)
        page.wait_for_function("() => !document.querySelector('.loading')", timeout=PATIENT)
        if place.endswith("show=lab"):
            score_an_edit(page)
        time.sleep(0.5)  # lines are drawn after the page
        page.screenshot(path=str(to), full_page=height == 0)


def score_an_edit(page: Any) -> None:
    """What the lab is for: an edit, and what it would have changed."""
    editor = page.get_by_role("textbox").first
    text = editor.input_value(timeout=PATIENT)
    editor.fill(text.replace('"score": 0.1', '"score": 0.3'))
    page.get_by_role("button", name="Score stored completions").click()
    page.get_by_text("What moved most").wait_for(timeout=PATIENT)
    page.locator(".editor").evaluate("area => { area.style.maxHeight = '17rem'; area.scrollTop = 24 * 23 }")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--all", type=Path, metavar="DIR")
    parser.add_argument("--home", type=Path, metavar="DIR")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        home: Path = asked.home or Path(folder) / "my-project"
        if not (home / ".runner").exists():
            train(home)
        with shown(home) as (monitor, browser):
            if asked.all is None:
                README.mkdir(exist_ok=True)
                for name, (theme, width, height) in IN_README.items():
                    shoot(monitor, browser, PLACES[name], theme, (width, height), README / f"{name}.png")
                return
            asked.all.mkdir(parents=True, exist_ok=True)
            for name, place in PLACES.items():
                for theme, width in (("light", 1440), ("dark", 1440), ("light", 800), ("dark", 800)):
                    shoot(monitor, browser, place, theme, (width, 0), asked.all / f"{name}-{theme}-{width}.png")


if __name__ == "__main__":
    main()
