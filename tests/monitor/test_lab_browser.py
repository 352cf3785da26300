"""Rewards edited while a run trains, on disk and in the lab, as somebody at the pages sees it."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import runner
from runner.monitor.server import Monitor
from tests.monitor.browser import PATIENT, launched, watched
from tests.monitor.kit import TOKEN, settings
from tests.small_job import REWARDS, write_job

pytestmark = pytest.mark.browser

HEIGHTS = """() => {
  const area = document.querySelector('.editor textarea');
  area.style.height = '0';
  const typed = area.scrollHeight;
  area.style.height = '';
  return [typed, 22 * document.querySelectorAll('.editor .code-line').length];
}"""
SLOW = REWARDS.replace("    return 1.0 if", "    import time; time.sleep(0.02)\n    return 1.0 if")


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with launched() as it:
        yield it


def test_an_edit_on_disk_appears_and_the_lab_scores_publishes_and_takes_back(browser: Any, tmp_path: Path) -> None:
    run = runner.emulate(write_job(tmp_path, SLOW, grpo={"steps": 600}), home=tmp_path, wait=False)
    file = tmp_path / "jobs" / "sums" / "rewards.py"
    try:
        with Monitor(settings(tmp_path, TOKEN, right="edit")) as monitor, watched(browser, monitor) as seen:
            seen.page.goto(monitor.link())
            page = seen.open("runs/sums-1")
            page.get_by_text("reward version 1").wait_for(timeout=PATIENT)

            file.write_text(file.read_text() + "\n# edited on disk\n")
            page.get_by_text("reward version 2").wait_for(timeout=PATIENT)

            page.get_by_role("link", name="Reward lab").click()
            page.get_by_role("button", name=re.compile("v2 live")).wait_for(timeout=PATIENT)
            page.get_by_role("button", name="Changes from the version before").click()
            page.get_by_text("+# edited on disk").wait_for(timeout=PATIENT)

            page.get_by_role("button", name="Edit in the lab").click()
            editor = page.get_by_role("textbox", name=re.compile("rewards.py"))
            editor.fill(editor.input_value(timeout=PATIENT).replace("return 1.0 if", "return 0.5 if"))
            page.get_by_role("button", name="Score stored completions").click()
            outcome = page.get_by_role("region", name="Old against new")
            outcome.get_by_role("row", name=re.compile("^right")).wait_for(timeout=PATIENT)
            assert re.search(r"\b0\.5\d\d|−0\.", outcome.get_by_role("row", name=re.compile("^total")).inner_text())
            assert outcome.get_by_role("img", name=re.compile("total before against after: 0 rise")).count() == 1

            page.get_by_role("button", name="Publish as the next version").click()
            page.get_by_role("dialog").get_by_role("button", name="Publish").click()
            page.get_by_text(re.compile(r"Version 3 is live from step \d+")).wait_for(timeout=PATIENT)

            page.get_by_role("button", name=re.compile("^v2")).click()
            page.get_by_role("button", name="Make it live again").click()
            page.get_by_role("dialog").get_by_role("button", name="Make it live again").click()
            page.get_by_text(re.compile(r"Version 2 is live from step \d+")).wait_for(timeout=PATIENT)
    finally:
        run.cancel()
        run.wait()


def test_a_draft_outlasts_a_look_at_another_page_and_errors_are_told_in_place(browser: Any, tmp_path: Path) -> None:
    assert runner.emulate(write_job(tmp_path, grpo={"steps": 2}), home=tmp_path).state == "succeeded"
    with Monitor(settings(tmp_path, TOKEN, right="edit")) as monitor, watched(browser, monitor) as seen:
        seen.page.goto(monitor.link())
        page = seen.open("runs/sums-1/rewards?show=lab")
        page.get_by_role("textbox", name=re.compile("rewards.py")).fill("def right(:", timeout=PATIENT)
        page.get_by_role("textbox", name=re.compile("rewards.py")).fill("\n".join(["x = 1"] * 500))
        typed, coloured = page.evaluate(HEIGHTS)
        assert typed == coloured == 22 * 500, "the caret would stand beside the coloured text"
        page.get_by_role("textbox", name=re.compile("rewards.py")).fill("def right(:")
        page.get_by_role("link", name="Reward logs").click()
        page.get_by_role("link", name="Reward lab").click()
        page.get_by_role("button", name="Edit in the lab").click()
        editor = page.get_by_role("textbox", name=re.compile("rewards.py"))
        assert editor.input_value(timeout=PATIENT) == "def right(:"

        page.get_by_role("button", name="Score stored completions").click()

        page.get_by_text("These files can't score").wait_for(timeout=PATIENT)
        assert "rewards.py is no valid Python" in page.get_by_role("alert").inner_text()
        assert page.get_by_role("button", name="Publish as the next version").is_disabled()
        page.get_by_role("button", name="Discard").click()
        assert editor.input_value() == REWARDS


def test_without_the_right_to_edit_the_sources_are_shown_and_the_way_to_the_lab_is_told(
    browser: Any, tmp_path: Path
) -> None:
    assert runner.emulate(write_job(tmp_path, grpo={"steps": 2}), home=tmp_path).state == "succeeded"
    with Monitor(settings(tmp_path)) as monitor, watched(browser, monitor) as seen:
        page = seen.open("runs/sums-1/rewards")
        page.get_by_text("runner ui --allow-edit").wait_for(timeout=PATIENT)
        assert page.get_by_role("textbox").count() == 0
        assert page.locator(".py-keyword", has_text="def").count() == 2
