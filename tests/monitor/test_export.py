"""`runner export --html`: one file with the run in it, opened from the disk."""

from __future__ import annotations

import json
import re
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

import runner
from runner.monitor import export
from runner.store.store import Store
from tests.monitor.browser import HOSTILE, PATIENT, launched
from tests.monitor.kit import record
from tests.small_job import write_job

REWARDS = f"""
def right(prompt, completion, example):
    print({HOSTILE!r})
    return {{"score": float(completion.endswith(str(example["sum"]))), "reason": {HOSTILE!r}}}


def short(prompt, completion, example):
    if completion == "no idea":
        raise ValueError({HOSTILE!r})
    return 1 / (1 + len(completion))
"""


def write(home: Path, run_id: str, file: Path, **more: Any) -> int:
    with Store.open(home / ".runner" / "runner.db") as store:
        return export.write(store, store.run(run_id), file, **more)


def data_of(file: Path) -> Any:
    (text,) = re.findall(r'<script type="application/json" id="run">(.*?)</script>', file.read_text(), re.DOTALL)
    return json.loads(text)


def test_the_file_has_everything_of_the_run_and_nothing_of_the_machine(tmp_path: Path) -> None:
    run_id = record(tmp_path)
    file = tmp_path / "run.html"

    count = write(tmp_path, run_id, file)

    held = data_of(file)
    assert count == len(held["completions"]) > 0
    assert held["run"]["id"] == "countdown-1" and held["home"]["rights"] == []
    assert "reward" in held["series"]
    assert all(one["example_id"] in {example[0] for example in held["examples"]} for one in held["completions"])
    assert str(tmp_path) not in file.read_text()
    with pytest.raises(FileExistsError):
        write(tmp_path, run_id, file)


def test_of_a_long_run_evenly_spaced_steps_are_kept_and_the_page_says_so(tmp_path: Path) -> None:
    run = runner.emulate(write_job(tmp_path), home=tmp_path)
    file = tmp_path / "run.html"

    write(tmp_path, run.id, file, most=80)

    held = data_of(file)
    steps = sorted({one["step"] for one in held["completions"] if one["split"] == "train"})
    assert steps == [4, 8, 12, 16, 20]
    assert held["home"]["problems"] == ["Of the train completions only those of evenly spaced steps are in this file."]


@pytest.mark.browser
def test_the_file_shows_graphs_completions_and_rewards_without_a_server_and_hostile_text_stays_text(
    tmp_path: Path,
) -> None:
    run = runner.emulate(write_job(tmp_path, REWARDS), home=tmp_path)
    file = tmp_path / "run.html"
    write(tmp_path, run.id, file)
    faults: list[str] = []
    with launched() as browser, closing(browser.new_context()) as tab:
        page = tab.new_page()
        page.on("console", lambda said: said.type == "error" and faults.append(said.text))
        page.on("pageerror", lambda error: faults.append(str(error)))
        page.on("request", lambda asked: asked.url.startswith("file:") or faults.append(asked.url))
        page.goto(file.as_uri())
        page.get_by_role("figure", name="total_reward", exact=True).locator("canvas").wait_for(timeout=PATIENT)
        page.keyboard.press("2")
        page.locator("table.rows tbody tr").first.wait_for(timeout=PATIENT)
        page.keyboard.press("j")
        page.keyboard.press("Enter")
        page.get_by_role("article", name="Right: best of the latest step").wait_for(timeout=PATIENT)
        assert "<script>document.title='owned'</script>" in page.get_by_role("article").first.inner_text()
        for place, shown in [
            ("completions?view=list&order=worst&min=0.01", "table.rows tbody tr"),
            ("completions?view=list&order=latest&q=it%20is", "main mark"),
            ("completions?view=groups", "article.completion"),
            ("logs?outcome=exception", ".log-line"),
            ("rewards", ".py-keyword"),
            ("settings", "table.rows"),
        ]:
            page.goto(f"{file.as_uri()}#/runs/sums-1/{place}")
            page.locator(shown).first.wait_for(timeout=PATIENT)
            page.evaluate("document.querySelectorAll('details').forEach(one => { one.open = true })")
            assert page.title() != "owned"
            assert page.locator("main script, main img, main [onerror], main [onload], main iframe").count() == 0
            assert not {"\x1b", "\x00", "\u202e", "\u200b"} & set(
                page.evaluate("document.querySelector('main').textContent")
            )
    assert faults == []
