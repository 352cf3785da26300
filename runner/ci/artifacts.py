"""What a CI job keeps of an emulated run: enough to look into it without the machine it ran on."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from runner.api import flat
from runner.ci.checks import Check, Result, Trial
from runner.ci.html import page
from runner.ci.place import shown
from runner.spec.errors import Finding

FOLDERS = ("journal", "rewards", "source", "attempts")


def write_artifacts(results: Sequence[Result], folder: Path) -> None:
    """`summary.json` and `report.html`, and a folder for each run: spec, journal, sources, completions, metrics.

    A run's folder is made anew; other files in `folder` stay.
    """
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "summary.json").write_text(json.dumps([_with_runs(result) for result in results], indent=2) + "\n")
    (folder / "report.html").write_text(page(results), encoding="utf-8")
    for result in results:
        for trial in result.trials:
            _write_run(trial, folder / trial.run.id)


def _write_run(trial: Trial, target: Path) -> None:
    shutil.rmtree(target, ignore_errors=True)
    target.mkdir()
    source = trial.handle.folder
    for name in ("spec.json", "run.json", "state.json"):
        if (source / name).exists():
            shutil.copyfile(source / name, target / name)
    for name in FOLDERS:
        if (source / name).is_dir():
            shutil.copytree(source / name, target / name)
    with (target / "completions.jsonl").open("w") as file:
        for row in trial.handle.completions():
            file.write(json.dumps(flat(row)) + "\n")
    with (target / "metrics.jsonl").open("w") as file:
        for name, series in trial.metrics.items():
            for step, value in series:
                file.write(json.dumps({"metric": name, "step": step, "value": value}) + "\n")


def _with_runs(result: Result) -> dict[str, Any]:
    """The verdict, and how its runs ended."""
    runs = [
        {"run": trial.run.id, "seed": trial.seed, "state": trial.run.state, "reason": trial.run.reason,
         "steps": trial.run.last_step, "digest": trial.run.digest}
        for trial in result.trials
    ]  # fmt: skip
    return {**plain(result), "runs": runs}


def plain(result: Result) -> dict[str, Any]:
    """The verdict as JSON values."""
    return {
        "job": result.job,
        "path": str(result.path),
        "emulated": True,
        "passed": result.passed,
        "exit_code": result.code,
        "seconds": round(result.seconds, 3),
        "checks": [plain_check(check) for check in result.checks],
        "findings": [_plain_finding(finding) for finding in result.findings],
        "differences": [{"field": d.field, "asked": d.asked, "kind": d.kind, "detail": d.detail}
                        for d in result.differences],
    }  # fmt: skip


def plain_check(check: Check) -> dict[str, Any]:
    """A row as JSON values."""
    return {
        "name": check.name,
        "verdict": str(check.verdict),
        "found": check.found,
        "asked": check.asked,
        "tier": check.tier,
        "place": shown(check),
    }


def _plain_finding(finding: Finding) -> dict[str, Any]:
    return {name: getattr(finding, name) for name in ("code", "message", "hint", "field", "file", "line", "column")}
