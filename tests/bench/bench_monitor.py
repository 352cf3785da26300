"""How long the monitor's pages wait at a million completions: real requests to a real monitor, one after another.

    python -m tests.bench.bench_monitor [--completions 1000000] [--rounds 40] [--home DIR]

The store is filled by this script, with one run of that many completions (three reward functions each), unless `--home`
has one from an earlier call. Targets: p95 of every page that an index answers ≤ 50 ms; the first hit of a search within
the run, a word that one in 100,000 completions has, ≤ 1 s; the first paint of the run's page, and its first graph, in a
fresh browser ≤ 1 s.
"""

from __future__ import annotations

import argparse
import http.client
import json
import random
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from statistics import median, quantiles
from typing import Any
from urllib.parse import quote

from runner.monitor.server import Monitor
from runner.monitor.settings import Settings
from runner.store.ingest import rollout_ids
from runner.store.store import Store
from runner.store.submission import Submission
from tests.monitor.browser import PATIENT, launched

PER_STEP, PER_GROUP, EXAMPLES = 1000, 8, 5000
REWARDS = ("format", "equation", "length")
METRICS = ("reward", "reward_std", "kl", "entropy", "loss", *(f"m{i}" for i in range(35)))
RARE_EVERY = 100_000
PAGE_MS, SEARCH_MS, PAINT_MS = 50.0, 1000.0, 1000.0
PAINTS = 5


def fill(home: Path, completions: int) -> None:
    """One finished run: `completions` in training, an evaluation of 500 every 50 steps."""
    random.seed(0)
    words = [f"w{i}{ending}" for i in range(2000) for ending in ("", "ing")]
    texts = [" ".join(random.choices(words, k=60)) for _ in range(3000)]
    steps = completions // PER_STEP
    with Store.open(home / ".runner/runner.db") as store:
        spec = json.dumps({"rewards": {name: {"weight": 1.0} for name in REWARDS}})
        run_id = store.submit(
            Submission(job="big", revision="r", backend="emulator", emulated=True, spec=spec, total_steps=steps)
        )
        with store.writing() as conn:
            prompts = [(run_id, i, f"Question {i}: {texts[i % 3000][:200]}", '{"target": 5}') for i in range(EXAMPLES)]
            conn.executemany("INSERT INTO examples VALUES (?, ?, ?, ?)", prompts)
            conn.execute("UPDATE runs SET last_step = ?", (steps,))
        row = store.run(run_id)
        following = iter(range(rollout_ids(row.number)[0] + 1, 1 << 62))
        for step in range(1, steps + 1):
            with store.writing() as conn:
                _write(conn, run_id, step, "train", PER_STEP, following, texts)
                if step % 50 == 0:
                    _write(conn, run_id, step, "eval", 500, following, texts)
                values = [(run_id, name, step, random.random()) for name in METRICS]
                conn.executemany("INSERT INTO metrics VALUES (?, ?, ?, ?)", values)


def _write(
    conn: Any, run_id: str, step: int, split: str, count: int, following: Iterator[int], texts: list[str]
) -> None:
    rollouts: list[tuple[object, ...]] = []
    scores: list[tuple[object, ...]] = []
    for i in range(count):
        rollout_id = next(following)
        example = (step * (count // PER_GROUP) + i // PER_GROUP) % EXAMPLES
        rare = " needle" if rollout_id % RARE_EVERY == 7 else ""
        text = f"{texts[rollout_id % 3000]} {rollout_id}{rare}"
        reward = round(random.random() * 2, 2)
        place = (rollout_id, run_id, split, step, i // PER_GROUP, i % PER_GROUP, example)
        rollouts.append((*place, text, 100, "eos", reward, 0.1, "v1"))
        for name in REWARDS:
            failed = rollout_id % 5000 == 0 and name == "length"
            told = ("exception", None, "ValueError: x", "printed") if failed else ("ok", None, None, None)
            scores.append((rollout_id, name, None if failed else reward / 2, *told, 0.001))
    conn.executemany(f"INSERT INTO rollouts VALUES ({', '.join('?' * 13)})", rollouts)
    conn.executemany(f"INSERT INTO scores VALUES ({', '.join('?' * 8)})", scores)


class Client:
    """Asks one monitor, on one connection."""

    def __init__(self, monitor: Monitor) -> None:
        self._connection = http.client.HTTPConnection("127.0.0.1", monitor.port, timeout=60)

    def get(self, path: str) -> tuple[float, Any]:
        """Milliseconds, and the answer."""
        start = time.perf_counter()
        self._connection.request("GET", f"/api/v1/{path}")
        response = self._connection.getresponse()
        body = response.read()
        took = (time.perf_counter() - start) * 1000
        assert response.status == 200, body[:500]
        return took, json.loads(body)


def pages(steps: int) -> dict[str, Callable[[], str]]:
    """Every page that an index answers, at a random place."""

    def step() -> int:
        return random.randint(1, steps)

    def behind(*key: float) -> str:
        return quote(json.dumps(key))

    run = "runs/big-1"
    return {
        "runs": lambda: "runs",
        "run": lambda: run,
        "steps": lambda: f"{run}/steps",
        "metrics of a page": lambda: f"{run}/metrics?names={','.join(METRICS[:20])}&points=400",
        "metrics since then": lambda: f"{run}/metrics?names={','.join(METRICS[:20])}&size=4&from={(step() // 4) * 4}",
        "markers": lambda: f"{run}/markers",
        "prompts": lambda: f"{run}/prompts?after={behind(random.randrange(EXAMPLES))}",
        "a step": lambda: f"{run}/completions?step={step()}",
        "a step, best first": lambda: f"{run}/completions?step={step()}&order=best",
        "a prompt over steps": lambda: f"{run}/completions?example_id={random.randrange(EXAMPLES)}",
        "deep page": lambda: f"{run}/completions?after={behind(step(), 3, 2)}",
        "best of the run": lambda: f"{run}/completions?order=best&after={behind(random.random(), 1)}",
        "worst of the run": lambda: f"{run}/completions?order=worst",
        "errors": lambda: f"{run}/completions?order=errors",
        "evaluation": lambda: f"{run}/completions?split=eval&after={behind(step(), 0, 0)}",
        "groups of a step": lambda: f"{run}/groups?step={step()}",
        "reward logs": lambda: f"{run}/logs",
        "total above a bound": lambda: f"{run}/completions?min=1.9",
        "score above a bound": lambda: f"{run}/completions?reward=format&min=0.9",
    }


def search(client: Client, text: str) -> tuple[float, float, int]:
    """Milliseconds until the first hit (or the end), until the end, and how many there are."""
    first, total, hits = 0.0, 0.0, 0
    after = ""
    while True:
        took, answer = client.get(f"runs/big-1/search?limit=500&q={text}{after}")
        total += took
        if not hits and answer["completions"]:
            first = total
        hits += len(answer["completions"])
        if answer["next"] is None:
            return first or total, total, hits
        after = f"&after={quote(answer['next'])}"


def paint(monitor: Monitor, place: str) -> tuple[float, float]:
    """Milliseconds to the first contentful paint, and to the first graph or table, in a tab without a cache."""
    with launched() as browser:
        tab = browser.new_context()
        page = tab.new_page()
        start = time.perf_counter()
        page.goto(f"{monitor.url}#/{place}")
        page.wait_for_selector("main canvas, main table.rows tbody tr", timeout=PATIENT)
        shown = (time.perf_counter() - start) * 1000
        first = page.evaluate("performance.getEntriesByName('first-contentful-paint')[0].startTime")
        tab.close()
        return float(first), shown


def measure(home: Path, rounds: int) -> int:
    missed = 0
    with Monitor(Settings(home=home, token=None)) as monitor:
        client = Client(monitor)
        steps = client.get("runs/big-1")[1]["last_step"]
        for name, path in pages(steps).items():
            taken = [client.get(path())[0] for _ in range(rounds)]
            p95 = quantiles(taken, n=20)[-1]
            missed += p95 > PAGE_MS
            print(f"{name:<24}{median(taken):8.1f} ms  p95 {p95:8.1f} ms{'   !' if p95 > PAGE_MS else ''}")
        for text in ("needle", "w19ing", "Needle"):
            first, total, hits = search(client, text)
            missed += text == "needle" and first > SEARCH_MS
            print(f"search {text:<17}{first:8.0f} ms to the first, {total:8.0f} ms for all {hits}")
        for place in ("", "runs/big-1", "runs/big-1/completions"):
            times = [paint(monitor, place) for _ in range(PAINTS)]
            first, shown = (median(column) for column in zip(*times, strict=True))
            missed += first > PAINT_MS
            print(f"page {place or 'jobs':<24}{first:8.0f} ms to the first paint, {shown:8.0f} ms to its contents")
    return missed


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--completions", type=int, default=1_000_000)
    parser.add_argument("--rounds", type=int, default=40)
    parser.add_argument("--home", type=Path)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        home: Path = asked.home or Path(folder)
        if not (home / ".runner/runner.db").exists():
            start = time.perf_counter()
            fill(home, asked.completions)
            size = (home / ".runner/runner.db").stat().st_size / 2**20
            print(f"filled in {time.perf_counter() - start:.0f} s: {asked.completions} completions, {size:.0f} MiB")
        return 1 if measure(home, asked.rounds) else 0


if __name__ == "__main__":
    sys.exit(main())
