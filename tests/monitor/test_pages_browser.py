"""The pages in a real Chromium, over a real monitor and real emulated runs."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import yaml

import runner
from runner.monitor.server import Monitor
from runner.monitor.settings import Settings
from runner.store.store import Store
from tests.monitor.browser import AXE, HOSTILE, PATIENT, Watched, launched, missing, watched
from tests.monitor.kit import settings
from tests.monitor.test_server import newer, older
from tests.small_job import write_job

pytestmark = pytest.mark.browser

SLOW = """
import time

def right(prompt, completion, example):
    time.sleep(0.01)
    return 1.0 if completion.endswith(str(example["sum"])) else 0.0

def short(prompt, completion, example):
    if completion == "no idea":
        raise ValueError("no idea is no answer")
    print("length", len(completion))
    return {"score": 1 / (1 + len(completion)), "reason": "shorter is better"}
"""

LONG = "<b>" + "x" * (1 << 20)


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with launched() as it:
        yield it


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home with a finished run, `sums-1`."""
    path = tmp_path_factory.mktemp("pages")
    run = runner.emulate(write_job(path, SLOW.replace("    time.sleep(0.01)\n", "")), home=path)
    assert run.state == "succeeded"
    return path


@pytest.fixture(scope="module")
def monitor(home: Path) -> Iterator[Monitor]:
    with Monitor(settings(home, "a-secret-of-thirty-two-bytes-or-so", right="edit")) as running:
        yield running


@pytest.fixture
def seen(browser: Any, monitor: Monitor) -> Iterator[Watched]:
    with watched(browser, monitor) as one:
        one.page.goto(monitor.link())
        yield one


def hash_of(page: Any) -> str:
    return str(page.evaluate("location.hash"))


def test_the_curve_moves_while_the_run_goes_on(browser: Any, tmp_path: Path) -> None:
    job = write_job(tmp_path, SLOW, grpo={"steps": 60})
    run = runner.emulate(job, home=tmp_path, wait=False)
    try:
        with Monitor(settings(tmp_path)) as monitor, watched(browser, monitor) as seen:
            page = seen.open(f"runs/{run.id}")
            chart = page.locator("figure", has=page.get_by_role("heading", name="total_reward", exact=True))
            chart.get_by_role("button", name="table").click(timeout=PATIENT)
            last = chart.locator("tbody tr th")
            first = int(last.last.inner_text())

            page.wait_for_function(
                "([n, i]) => Number(document.querySelectorAll('figure')[i]?.querySelector('tbody tr:last-child th')"
                "?.textContent) > n",
                arg=[first, 1],
                timeout=PATIENT,
            )
            page.get_by_text("all steps are done").wait_for(timeout=PATIENT)
            assert page.locator("progress").first.evaluate("bar => bar.value") == 1
    finally:
        run.wait()


def test_a_completion_is_found_by_filter_and_followed_over_steps(seen: Watched) -> None:
    page = seen.open("runs/sums-1/completions?view=list&order=step")
    page.get_by_label("completion contains").fill("it is 5")
    page.get_by_label("score of").select_option("right")
    page.get_by_label("at least").fill("1")
    page.wait_for_function("() => location.hash.includes('min=1')", timeout=PATIENT)
    page.locator("main mark").first.wait_for(timeout=PATIENT)
    assert "q=it+is+5" in hash_of(page) and "reward=right" in hash_of(page)
    rows = page.locator("table.rows tbody tr")
    assert rows.count() > 0
    assert all(text.startswith("it is 5") for text in rows.locator("button.line").all_inner_texts())

    page.get_by_role("link", name="this prompt over steps").click()

    page.get_by_role("group", name="Completions by step").wait_for(timeout=PATIENT)
    steps = [int(text) for text in page.locator("table.course tbody th").all_inner_texts()]
    assert len(steps) > 1 and steps == sorted(steps)
    before = page.locator("article.completion h3").inner_text()
    page.keyboard.press("k")
    page.wait_for_function("was => document.querySelector('article.completion h3').textContent !== was", arg=before)


def test_side_by_side_begins_with_the_best_of_the_latest_step_and_marks_words(seen: Watched) -> None:
    page = seen.open("runs/sums-1/completions?view=compare&example=2")
    right = page.get_by_role("article", name="Right: best of the latest step")
    right.wait_for(timeout=PATIENT)
    table = page.locator("section[aria-label='All completions of this prompt'] tbody tr")
    latest = max(int(text) for text in table.locator("td:first-child").all_inner_texts())
    assert f"step {latest}" in right.inner_text()

    page.get_by_role("button", name="left: step").last.click()  # the first step, at the table's end
    slider = page.locator("input[type=range]")
    assert slider.input_value() == "0"
    page.keyboard.press("ArrowRight")
    page.wait_for_function("() => document.querySelector('input[type=range]').value === '1'", timeout=PATIENT)
    assert "left=" in hash_of(page)
    page.keyboard.press("d")
    assert "diff=off" in hash_of(page)
    assert page.locator("article ins, article del").count() == 0


def test_reward_logs_show_prints_and_errors_beside_their_completion(seen: Watched) -> None:
    page = seen.open("runs/sums-1/logs?outcome=exception")
    page.locator(".log-line").first.click(timeout=PATIENT)
    assert "ValueError: no idea is no answer" in page.locator(".log-open").first.inner_text()

    page.get_by_role("link", name="the completion it was about").first.click()

    page.get_by_role("article").wait_for(timeout=PATIENT)
    assert "no idea" in page.get_by_role("article").inner_text()
    assert "left its group" in page.get_by_role("article").inner_text()


def test_a_total_that_rises_while_the_trusted_reward_falls_is_said(browser: Any, tmp_path: Path) -> None:
    job = write_job(tmp_path)
    job.write_text(job.read_text().replace("fn: rewards.py:right\n", "fn: rewards.py:right\n    trusted: true\n"))
    assert runner.emulate(job, home=tmp_path).state == "succeeded"
    with Store.open(tmp_path / ".runner" / "runner.db") as store:
        store.db.conn.execute("UPDATE metrics SET value = step * 0.01 WHERE name = 'reward'")
        store.db.conn.execute("UPDATE metrics SET value = 1 - step * 0.01 WHERE name = 'rewards/right/mean'")
    with Monitor(settings(tmp_path)) as monitor, watched(browser, monitor) as seen:
        page = seen.open("runs/sums-1/alerts")
        said = page.get_by_role("listitem").filter(has_text="The total rises, the trusted reward right falls")
        said.get_by_role("link", name="best totals with a low right").click(timeout=PATIENT)
        page.wait_for_function("() => location.hash.includes('order=best') && location.hash.includes('reward=right')")


def test_everything_can_be_reached_with_the_keyboard(seen: Watched) -> None:
    page = seen.open()
    page.locator("table.rows tbody tr").first.wait_for(timeout=PATIENT)
    page.keyboard.press("j")
    page.keyboard.press("Enter")
    page.wait_for_function("() => location.hash === '#/runs/sums-1'")
    page.locator(".plot").first.focus(timeout=PATIENT)
    page.keyboard.press("Home")
    page.keyboard.press("ArrowRight")
    spoken = page.locator("figure").first.locator("[aria-live]")
    assert spoken.inner_text().startswith("step 2, train ")
    page.keyboard.press("Enter")
    page.wait_for_function("() => location.hash.includes('view=groups') && location.hash.includes('step=2')")
    page.keyboard.press("2")
    page.wait_for_function("() => location.hash === '#/runs/sums-1/completions'")
    page.locator("table.rows tbody tr").first.wait_for(timeout=PATIENT)
    page.keyboard.press("/")
    assert page.evaluate("document.activeElement.matches('input[data-search]')")
    page.keyboard.press("Escape")
    page.keyboard.press("j")
    page.keyboard.press("Enter")
    page.wait_for_function("() => location.hash.includes('view=compare')")
    page.get_by_role("article").first.wait_for(timeout=PATIENT)
    page.keyboard.press("p")
    page.wait_for_function("() => location.hash.includes('view=course')")
    page.keyboard.press("?")
    assert "the prompt over all steps" in page.get_by_role("dialog").inner_text()
    page.keyboard.press("Escape")
    assert page.get_by_role("dialog").count() == 0


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_axe_finds_nothing_serious(browser: Any, monitor: Monitor, theme: str) -> None:
    if not AXE.is_file():
        missing("axe-core: npm ci in runner/monitor/pages")
    places = ["", "runs/sums-1", "runs/sums-1/completions", "runs/sums-1/completions?view=compare&example=2"]
    places += ["runs/sums-1/completions?view=groups", "runs/sums-1/completions?view=course&example=2"]
    places += ["runs/sums-1/completions?view=list", "runs/sums-1/logs", "runs/sums-1/rewards", "runs/sums-1/settings"]
    places += ["runs/sums-1/rewards?show=lab", "runs/sums-1/alerts", "compare?runs=sums-1,sums-1", "alerts"]
    rules = {} if theme == "light" else {"runOnly": ["color-contrast"]}  # the rest is the same in both
    found: dict[str, list[str]] = {}
    with watched(browser, monitor, color_scheme=theme) as seen:
        seen.page.goto(monitor.link())
        for place in places:
            page = seen.open(place)
            page.wait_for_function("() => !document.querySelector('.loading')", timeout=PATIENT)
            page.evaluate(AXE.read_text())
            result = page.evaluate("options => axe.run(options)", {"resultTypes": ["violations"], **rules})
            worst = [
                f"{one['id']}: {one['nodes'][0]['html'][:200]}"
                for one in result["violations"]
                if one["impact"] in ("serious", "critical")
            ]
            if worst:
                found[place] = worst
        assert seen.page.evaluate("document.documentElement.dataset.theme") == theme
    assert found == {}


@pytest.fixture(scope="module")
def hostile(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home in which prompt, completion, log, reason, reward name and job name are hostile."""
    path = tmp_path_factory.mktemp("hostile")
    rewards = f"""
def right(prompt, completion, example):
    print({HOSTILE!r})
    if len(completion) < 5:
        raise ValueError({HOSTILE!r})
    return {{"score": len(completion) % 7, "reason": {HOSTILE!r}}}
"""
    job = write_job(path, rewards, grpo={"steps": 2})
    folder = job.parent
    rows = [{"a": f"{HOSTILE} {n}", "b": n, "sum": n} for n in range(8)]
    (folder / "data.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    said = [{"a": row["a"], "b": row["b"], "completions": [HOSTILE, HOSTILE + " again", "?"]} for row in rows]
    (folder / "completions.jsonl").write_text("".join(json.dumps(row) + "\n" for row in said))
    spec = yaml.safe_load(job.read_text())
    job.write_text(yaml.safe_dump({**spec, "rewards": {"right": {"fn": "rewards.py:right"}}}))
    runner.emulate(job, home=path)
    _rename(path)
    return path


def _rename(home: Path) -> None:
    """Names that our own checks would refuse, as a database of another origin may have them."""
    name = "<img src=x onerror=\"document.title='owned'\">"
    finding = {"code": "type", "message": HOSTILE, "hint": HOSTILE, "field": name, "file": f"{name}.yaml", "line": 3}
    finding |= {"column": 2, "excerpt": HOSTILE, "severity": "error"}
    with Store.open(home / ".runner" / "runner.db") as store:
        store.db.conn.execute("UPDATE scores SET name = ?", [name])
        store.db.conn.execute("UPDATE rollouts SET completion = ? WHERE id = (SELECT max(id) FROM rollouts)", [LONG])
        store.db.conn.execute(
            "UPDATE runs SET job = ?, detail = ?, spec = replace(spec, '\"right\"', ?)",
            [name, HOSTILE, json.dumps(name)],
        )
        store.db.conn.execute(
            "INSERT INTO jobs VALUES (?, ?, NULL, 'invalid', ?, 0)",
            [f"{name} 2", f"jobs/{name}", json.dumps([finding])],
        )


def test_hostile_text_stays_text_wherever_it_is_shown(browser: Any, hostile: Path) -> None:
    places = ["", "runs/sums-1", "runs/sums-1/completions", "runs/sums-1/completions?view=groups", "runs/sums-1/logs"]
    places += ["runs/sums-1/completions?view=list&order=worst", "runs/sums-1/completions?view=list&order=step"]
    places += [f"runs/sums-1/completions?view={view}&example=%d" for view in ("compare", "course")]
    places += ["runs/sums-1/rewards", "runs/sums-1/settings", "runs/sums-1/completions?view=list&order=errors"]
    with Monitor(settings(hostile)) as monitor, watched(browser, monitor) as seen:
        asked = seen.open("runs/sums-1/completions").locator("table.rows tbody tr td:first-child").first
        example = int(asked.inner_text(timeout=PATIENT))
        for place in places:
            page = seen.open(place.replace("%d", str(example)))
            page.wait_for_function("() => !document.querySelector('.loading')", timeout=PATIENT)
            page.evaluate("document.querySelectorAll('details').forEach(one => { one.open = true })")
            assert page.title() != "owned"
            assert page.locator("main script, main img, main [onerror], main [onload], main iframe").count() == 0
            assert page.locator("a[href^=javascript]").count() == 0
            assert not {"\x1b", "\x00", "\u202e", "\u200b"} & set(page.evaluate("document.body.textContent")), place
        seen.open("runs/sums-1/completions?view=list&order=step&q=again")
        page.get_by_role("article").wait_for(timeout=PATIENT)
        shown = page.get_by_role("article").inner_text()
    assert "<script>document.title='owned'</script>" in shown
    assert "\u241b[31mred" in shown and "nul:\u2400" in shown and "bidi:[RLO]dlrow[PDF] zero:[ZWSP] end" in shown


def test_a_megabyte_in_one_line_is_cut_until_asked_for(browser: Any, hostile: Path) -> None:
    with Monitor(settings(hostile)) as monitor, watched(browser, monitor) as seen:
        page = seen.open("runs/sums-1/completions?view=list&order=latest&q=xxxx")
        page.get_by_role("article").wait_for(timeout=PATIENT)
        pre = page.get_by_role("article").locator("pre").first
        assert pre.evaluate("node => node.textContent.length") == 20_000
        page.get_by_role("button", name="Show all 1,0").click()
        page.wait_for_function(
            "() => document.querySelector('article pre').textContent.length > 1000000", timeout=PATIENT
        )


def test_a_restarted_monitor_is_found_again_and_the_page_says_so(browser: Any, home: Path) -> None:
    first = Monitor(settings(home))
    with closing(browser.new_context()) as tab:
        page = tab.new_page()
        page.goto(f"{first.url}#/runs/sums-1")
        page.get_by_text("live", exact=True).wait_for(timeout=PATIENT)
        first.close()
        page.get_by_text("connection lost; trying again").wait_for(timeout=PATIENT)
        assert "sums-1" in page.inner_text("main")
        with Monitor(settings(home), port=first.port):
            page.get_by_text("Connected again after").wait_for(timeout=PATIENT)


def test_a_ninth_tab_still_loads(browser: Any, home: Path) -> None:
    with Monitor(settings(home)) as monitor, closing(browser.new_context()) as context:
        for _ in range(9):
            page = context.new_page()
            page.goto(f"{monitor.url}#/runs/sums-1/settings")
            page.get_by_text("Job as it ran").wait_for(timeout=PATIENT)
        for page in context.pages:
            page.get_by_text("live", exact=True).wait_for(timeout=PATIENT)


def test_an_empty_home_teaches_the_first_commands(browser: Any, tmp_path: Path) -> None:
    with Monitor(Settings(home=tmp_path, token=None)) as monitor, closing(browser.new_context()) as context:
        page = context.new_page()
        page.goto(monitor.url)
        page.get_by_text("No jobs here yet").wait_for(timeout=PATIENT)
        assert "runner init --template countdown" in page.inner_text("main")


def test_a_run_that_does_not_exist_is_said_to_be_gone(browser: Any, home: Path) -> None:
    with Monitor(settings(home)) as monitor, closing(browser.new_context()) as context:
        page = context.new_page()
        page.goto(f"{monitor.url}#/runs/nothing-7")
        page.get_by_text("There is no run nothing-7").wait_for(timeout=PATIENT)


@pytest.mark.parametrize(
    ("make", "way_out"), [(newer, "upgrade this one"), (older, "`runner ls` brings it up to date")]
)
def test_a_database_of_another_version_is_told_on_the_page_with_the_way_out(
    browser: Any, tmp_path: Path, make: Callable[[Path], None], way_out: str
) -> None:
    (tmp_path / ".runner").mkdir()
    make(tmp_path / ".runner" / "runner.db")
    with Monitor(settings(tmp_path)) as monitor, closing(browser.new_context()) as context:
        for place in ("", "runs/sums-1", "alerts"):
            page = context.new_page()
            page.goto(f"{monitor.url}#/{place}")
            page.get_by_role("alert").get_by_text(way_out).first.wait_for(timeout=PATIENT)


def test_a_run_that_is_deleted_while_it_is_looked_at_is_said_to_be_gone(
    browser: Any, home: Path, tmp_path: Path
) -> None:
    shutil.copytree(home, tmp_path / "copy")
    with Monitor(settings(tmp_path / "copy")) as monitor, closing(browser.new_context()) as context:
        page = context.new_page()
        page.goto(f"{monitor.url}#/runs/sums-1")
        page.get_by_role("figure", name="total_reward", exact=True).wait_for(timeout=PATIENT)
        page.get_by_text("live", exact=True).wait_for(timeout=PATIENT)
        with Store.open(tmp_path / "copy" / ".runner" / "runner.db") as store:
            store.db.conn.execute("PRAGMA foreign_keys = off")
            store.db.conn.execute("DELETE FROM runs")
        page.get_by_text("It may have been deleted").first.wait_for(timeout=PATIENT)
