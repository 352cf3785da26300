"""Routes about what the model wrote and what the rewards said of it."""

from __future__ import annotations

import difflib
import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from typing import Annotated, Any

import msgspec
from fastapi import HTTPException, Path, Query

from runner.journal.events import Split
from runner.monitor import models
from runner.monitor.reading import BIG, Count, Limit, OfRun, Reading, api_router
from runner.rewards.bundle import Bundle, editable
from runner.rewards.versions import Shelf
from runner.store import browse, queries
from runner.store.rows import CompletionRow, GroupRow, PromptRow

router = api_router()

After = Annotated[str | None, Query(max_length=1000, description="`next` of the page before.")]
Text = Annotated[str | None, Query(max_length=1000, description="Case counts when it has a capital letter.")]
Number = Annotated[float | None, Query(allow_inf_nan=False)]
Sha256 = Annotated[str, Path(pattern="^[0-9a-f]{64}$")]

Place = Annotated[int, msgspec.Meta(ge=0, lt=BIG)]
CURSORS: Mapping[browse.Order, Any] = {
    "step": tuple[Place, Place, Place],
    "best": tuple[float, Place],
    "worst": tuple[float, Place],
    "errors": tuple[Place],
}
"""What a cursor of each order is made of."""
NO_SPREAD = 1e-8
"""Rewards this close are equal, as for `frac_reward_zero_std`."""


def key_of(after: str | None, kind: Any) -> browse.Key | None:
    """The place that a cursor names. Raises HTTPException for one that is not ours."""
    if after is None:
        return None
    try:
        return msgspec.json.decode(after, type=kind)
    except (msgspec.DecodeError, RecursionError):
        text = f"after: {after!r} is no cursor of this list; take the `next` of an answer"
        raise HTTPException(422, text) from None


def cursor_of(key: browse.Key | None) -> str | None:
    return None if key is None else msgspec.json.encode(key).decode()


@router.get("/runs/{run_id}/steps")
def steps(store: Reading, row: OfRun, split: Split = "train") -> models.StepList:
    """Steps that have completions."""
    return models.StepList(steps=queries.steps(store, row.id, split))


@router.get("/runs/{run_id}/prompts")
def prompts(
    store: Reading, row: OfRun, split: Split = "train", q: Text = None, after: After = None, limit: Limit = 50
) -> models.PromptList:
    """Prompts that have completions, with what came of each. `q` is in the prompt."""
    page = browse.prompts(store, row.id, split, text=q, after=key_of(after, tuple[Place]), limit=limit)
    return models.PromptList(prompts=[_prompt(one) for one in page.rows], next=cursor_of(page.next))


def _prompt(row: PromptRow) -> models.Prompt:
    return models.Prompt.model_validate({**asdict(row), "columns": json.loads(row.columns)})


@router.get("/runs/{run_id}/completions")
def completions(
    store: Reading,
    row: OfRun,
    split: Split = "train",
    step: Count = None,
    group_id: Count = None,
    example_id: Count = None,
    order: browse.Order = "step",
    reward: Annotated[str | None, Query(max_length=200)] = None,
    least: Annotated[Number, Query(alias="min")] = None,
    most: Annotated[Number, Query(alias="max")] = None,
    q: Text = None,
    after: After = None,
    limit: Limit = 50,
) -> models.CompletionList:
    """Completions of one split. `best` and `worst` go by the total reward, `errors` has those that a reward failed on,
    latest first; `min` and `max` bound the score of the function `reward`, or the total."""
    wanted = browse.Wanted(
        split=split, step=step, group_id=group_id, example_id=example_id, reward=reward, least=least, most=most, text=q
    )
    place = key_of(after, CURSORS[order])
    return _completions(browse.completions(store, row.id, wanted, order=order, after=place, limit=limit))


@router.get("/runs/{run_id}/search")
def search(
    store: Reading,
    row: OfRun,
    q: Annotated[str, Query(min_length=1, max_length=1000)],
    after: After = None,
    limit: Limit = 50,
) -> models.CompletionList:
    """Completions of both splits that have this text in them, latest first."""
    return _completions(browse.search(store, row.id, q, after=key_of(after, tuple[Place]), limit=limit))


def _completions(page: browse.Page[CompletionRow]) -> models.CompletionList:
    found = [models.Completion.of(one) for one in page.rows]
    return models.CompletionList(completions=found, next=cursor_of(page.next))


@router.get("/completions/{rollout_id}")
def completion(store: Reading, rollout_id: Annotated[int, Path(ge=0, lt=BIG)]) -> models.Completion:
    """One completion with its scores."""
    row = browse.completion(store, rollout_id)
    if row is None:
        raise HTTPException(404, "There is no such completion (any more): a resumed run makes its last steps anew.")
    return models.Completion.of(row)


@router.get("/runs/{run_id}/groups")
def groups(
    store: Reading, row: OfRun, step: Annotated[int, Query(ge=0, lt=BIG)], split: Split = "train"
) -> models.GroupList:
    """The groups of one step in figures."""
    return models.GroupList(groups=[_group(one) for one in queries.groups(store, row.id, step, split)])


def _group(row: GroupRow) -> models.Group:
    low, high = row.reward_min, row.reward_max
    signal = low is not None and high is not None and high - low > NO_SPREAD
    return models.Group.model_validate({**asdict(row), "signal": signal})


@router.get("/runs/{run_id}/logs")
def logs(
    store: Reading,
    row: OfRun,
    name: Annotated[str | None, Query(max_length=200)] = None,
    outcome: Annotated[str | None, Query(max_length=50, description="`failed` is every failure.")] = None,
    step: Count = None,
    q: Text = None,
    after: After = None,
    limit: Limit = 100,
) -> models.LogList:
    """Reward calls that failed or printed, in their order."""
    place = key_of(after, tuple[Place, str])
    page = browse.reward_logs(store, row.id, name=name, outcome=outcome, step=step, text=q, after=place, limit=limit)
    return models.LogList(logs=[models.LogEntry.model_validate(one) for one in page.rows], next=cursor_of(page.next))


@router.get("/runs/{run_id}/versions/{sha256}")
def version(store: Reading, row: OfRun, sha256: Sha256) -> models.VersionSources:
    """The source files of one reward version, and what it changed."""
    known = [one.sha256 for one in queries.reward_versions(store, row.id)]
    if sha256 not in known:
        raise HTTPException(404, f"{row.id} has no reward version {sha256[:12]}")
    shelf = Shelf(store.folder(row).rewards)
    place = known.index(sha256)
    shown = _bundle(shelf, sha256)
    before = _sources(_bundle(shelf, known[place - 1])) if place else _sources(shown)
    return models.VersionSources(
        files=_sources(shown),
        editable=editable(shown),
        diff_from_previous="".join(_diff(before, _sources(shown))),
        wanted=shelf.target.sha256,
    )


def _bundle(shelf: Shelf, sha256: str) -> Bundle:
    try:
        return shelf.bundle(sha256)
    except (OSError, ValueError) as error:
        raise HTTPException(404, f"The sources of reward version {sha256[:12]} can't be read: {error}") from error


def _sources(version: Bundle) -> dict[str, str]:
    """The files of a version, by their path in the job's folder."""
    return {path: source.decode(errors="replace") for path, source in version.sources.items()}


def _diff(before: Mapping[str, str], after: Mapping[str, str]) -> Iterator[str]:
    for path in sorted({*before, *after}):
        old, new = (side.get(path, "").splitlines(keepends=True) for side in (before, after))
        yield from difflib.unified_diff(old, new, f"a/{path}", f"b/{path}")
