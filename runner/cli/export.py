"""`runner export`: a run's model, completions, metrics and pages as files. Nothing that exists is overwritten."""

from __future__ import annotations

import csv
import json as jsonlib
from collections.abc import Iterator
from importlib import import_module
from itertools import islice
from pathlib import Path
from typing import Annotated, Any

import typer

from runner.api import RunHandle
from runner.cli.boundary import FAILED
from runner.cli.completions import Wanted, plain, rows
from runner.cli.options import HomeOption, JsonOption, RunArgument
from runner.cli.out import note, say, say_json
from runner.cli.text import clean_line, plural, size
from runner.journal.events import Split
from runner.store import queries

BATCH = 2000
"""Rows written at once."""


def export(
    run: RunArgument,
    completions: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Every completion with its scores: .jsonl or .parquet.")
    ] = None,
    metrics: Annotated[Path | None, typer.Option(metavar="FILE", help="Every metric: .csv or .jsonl.")] = None,
    model: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Adapter or model with its tokenizer, a card and its provenance.")
    ] = None,
    html: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Graphs, completions and rewards as one web page: .html.")
    ] = None,
    step: Annotated[int | None, typer.Option(help="The checkpoint to take the model from. Default: the last.")] = None,
    verify: Annotated[
        bool, typer.Option(help="See whether the exported model loads, and differs from its base.")
    ] = True,
    home: HomeOption = None,
    json: JsonOption = False,
) -> None:
    """Writes model, completions, metrics and a web page. As files, all into RUN/ unless some are named."""
    from runner import api

    handle = api.open_run(run, home=home)
    run_id = handle.row.id
    if completions is metrics is model is html is None:
        folder = Path(run_id)
        completions, metrics, html = folder / "completions.parquet", folder / "metrics.csv", folder / "run.html"
        model = folder / "model" if step is not None or _has_checkpoint(handle) else None
        if model is None:
            note("no checkpoint, so no model")
    for path, endings in (
        (completions, (".jsonl", ".parquet")),
        (metrics, (".csv", ".jsonl")),
        (html, (".html",)),
        (model, ()),
    ):
        _refuse(path, endings)
    written: dict[str, Any] = {}
    if completions is not None:
        written["completions"] = (completions, plural(_write_completions(handle, completions), "completion"))
    if metrics is not None:
        written["metrics"] = (metrics, plural(_write_metrics(handle, metrics), "value"))
    if html is not None:
        written["html"] = (html, _write_page(handle, html))
    if model is not None:
        written["model"] = (model, _write_model(handle, model, step))
    wrong = _verify(handle, model) if model is not None and verify else []
    if json:
        plain_wrong = {"problems": wrong} if model is not None and verify else {}
        say_json({"run": run_id, **{what: str(path) for what, (path, _) in written.items()}, **plain_wrong})
    else:
        for what, (path, how) in written.items():
            say((what, "bold"), f"  {clean_line(str(path))}  {how}")
    if wrong:
        note(("failed: ", "bold red"), f"the exported model: {clean_line('; '.join(wrong))}")
        raise typer.Exit(FAILED)


def _refuse(path: Path | None, endings: tuple[str, ...]) -> None:
    """Raises BadParameter, before anything is written, for a name that can't be or is there already."""
    if path is None:
        return
    if endings and path.suffix not in endings:
        raise typer.BadParameter(f"{path} should end in {' or '.join(endings)}")
    if path.exists():
        raise typer.BadParameter(f"{path} is there already; remove it or choose another name")


def _flat_rows(handle: RunHandle) -> Iterator[dict[str, Any]]:
    splits: tuple[Split, ...] = ("train", "eval")
    with handle.reading() as store:
        for split in splits:
            wanted = Wanted(
                run=handle.id, step=None, split=split, example=None, prompt=None, failed=False, order="step"
            )
            yield from (plain(row) for row in rows(store, wanted))


def _write_completions(handle: RunHandle, path: Path) -> int:
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".jsonl":
        return _write_lines(path, _flat_rows(handle))
    with handle.reading() as store:
        scored = dict.fromkeys(f"rewards/{row.name}" for row in queries.outcomes(store, handle.id))
    return _write_parquet(path, ({"id": item["id"], **scored, **item} for item in _flat_rows(handle)))


def _write_lines(path: Path, items: Iterator[dict[str, Any]]) -> int:
    with path.open("x") as file:
        return sum(bool(file.write(jsonlib.dumps(item, ensure_ascii=False) + "\n")) for item in items)


def _write_parquet(path: Path, items: Iterator[dict[str, Any]]) -> int:
    """Columns as in JSON lines, for every reward that ever scored; `errors` and `reasons` as JSON text, for their names
    differ from row to row."""
    pa: Any = import_module("pyarrow")  # half a second, and it has no types
    parquet: Any = import_module("pyarrow.parquet")
    n = 0
    writer: Any = None
    while batch := list(islice(items, BATCH)):
        n += len(batch)
        made = pa.Table.from_pylist([_text_columns(item) for item in batch], schema=_schema(pa, batch[0]))
        writer = writer or parquet.ParquetWriter(path, made.schema)
        writer.write_table(made)
    if writer is None:
        note("no completions, so an empty file")
        path.touch()
    else:
        writer.close()
    return n


def _text_columns(item: dict[str, Any]) -> dict[str, Any]:
    return {name: jsonlib.dumps(value) if isinstance(value, dict) else value for name, value in item.items()}


def _schema(pa: Any, item: dict[str, Any]) -> Any:
    """Types by name, not by the first rows' values: a column may begin with nothing but nulls."""
    whole = ("id", "step", "group_id", "idx", "example_id", "n_tokens")
    figures = {name for name in item if name in ("reward", "advantage") or name.startswith("rewards/")}
    kinds = {**dict.fromkeys(whole, pa.int64()), **dict.fromkeys(figures, pa.float64())}
    return pa.schema([(name, kinds.get(name, pa.string())) for name in item])


def _write_metrics(handle: RunHandle, path: Path) -> int:
    with handle.reading() as store:
        series = queries.metrics(store, handle.id)
    values = [(name, step, value) for name, points in series.items() for step, value in points]
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".jsonl":
        return _write_lines(path, ({"metric": name, "step": step, "value": value} for name, step, value in values))
    with path.open("x", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(("metric", "step", "value"))
        writer.writerows(values)
    return len(values)


def _write_page(handle: RunHandle, path: Path) -> str:
    from runner.monitor import export as pages

    path.parent.mkdir(parents=True, exist_ok=True)
    with handle.reading() as store:
        count = pages.write(store, store.run(handle.id), path)
    return f"{plural(count, 'completion')}, {size(path.stat().st_size)}"


def _has_checkpoint(handle: RunHandle) -> bool:
    with handle.reading() as store:
        return any(item.kept for item in queries.checkpoints(store, handle.id))


def _write_model(handle: RunHandle, target: Path, step: int | None) -> str:
    from runner.api import checkpoint_of
    from runner.artifact import export_model

    checkpoint = checkpoint_of(handle, step)
    export_model(handle, checkpoint, target)
    total = sum(path.stat().st_size for path in target.rglob("*") if path.is_file())
    return f"of step {checkpoint.step}, {size(total)}; README.md says how to serve it"


def _verify(handle: RunHandle, folder: Path) -> list[str]:
    from runner.artifact import problems

    found = problems(handle, folder)
    if found == []:
        note("verified: loads, has the base model's weight names, differs from it")
    return found or []
