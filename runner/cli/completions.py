"""`runner completions`: what the model wrote, with every score, group by group."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import typer

from runner.api import flat
from runner.cli.options import HomeOption, JsonOption, RunArgument
from runner.cli.out import Line, Part, note, say, say_json
from runner.cli.progress import failure_line
from runner.cli.text import clean, clean_line, cut, indent, number
from runner.journal.events import Split
from runner.store import queries
from runner.store.errors import StoreError
from runner.store.rows import CompletionRow, ScoreRow
from runner.store.store import Store

PAGE = 500
PROMPT_CUT = 400
COMPLETION_CUT = 1600

Order = Literal["step", "best", "worst"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """Which completions."""

    run: str
    step: int | None
    split: Split
    example: int | None
    prompt: str | None
    failed: bool
    order: Order


def completions(
    run: RunArgument,
    step: Annotated[
        str | None,
        typer.Option(
            metavar="N|last|all", help="Only this step. Default: last; all with --errors, --example, --prompt."
        ),
    ] = None,
    split: Annotated[Literal["train", "eval"], typer.Option(help="Training or evaluation.")] = "train",
    prompt: Annotated[str | None, typer.Option(metavar="TEXT", help="Only prompts that contain this.")] = None,
    example: Annotated[int | None, typer.Option(metavar="ID", help="Only this dataset row: its course.")] = None,
    best: Annotated[bool, typer.Option("--best", help="Highest rewards first.")] = False,
    worst: Annotated[bool, typer.Option("--worst", help="Lowest rewards first.")] = False,
    errors: Annotated[bool, typer.Option("--errors", help="Only those that a reward failed on.")] = False,
    limit: Annotated[int, typer.Option(min=1, help="At most this many (not with --jsonl).")] = 16,
    full: Annotated[bool, typer.Option("--full", help="Long texts whole.")] = False,
    diff: Annotated[
        tuple[int, int] | None, typer.Option(metavar="ID ID", help="What differs between two completions.")
    ] = None,
    jsonl: Annotated[bool, typer.Option("--jsonl", help="All that match, one JSON object a line.")] = False,
    home: HomeOption = None,
    json: JsonOption = False,
) -> None:
    """Shows what the model wrote, and every score. The last step's groups, unless asked for others."""
    from runner import api

    if best and worst:
        raise typer.BadParameter("--best and --worst exclude each other")
    handle = api.open_run(run, home=home)
    run_id = handle.row.id
    course = jsonl or errors or example is not None or prompt is not None
    with handle.reading() as store:
        if diff is not None:
            _diff(*(_one(store, run_id, number) for number in diff), as_json=json)
            return
        wanted = Wanted(
            run=run_id,
            step=_step(store, run_id, split, step or ("all" if course else "last")),
            split=split,
            example=example,
            prompt=prompt,
            failed=errors,
            order="best" if best else "worst" if worst else "step",
        )
        _output(store, wanted, limit, full, jsonl, json)


def _output(store: Store, wanted: Wanted, limit: int, full: bool, jsonl: bool, json: bool) -> None:
    if jsonl:
        for row in rows(store, wanted):
            say_json(plain(row), indent=None)
        return
    found = _page(store, wanted, None, limit + 1)
    if json:
        say_json({"completions": [plain(row) for row in found[:limit]], "more": len(found) > limit})
        return
    _show(found[:limit], full)
    if not found:
        note("no completions like that")
    elif len(found) > limit:
        note(f"there are more; --limit {limit * 4} shows more of them, --jsonl all")


def rows(store: Store, wanted: Wanted) -> Iterator[CompletionRow]:
    """All that match, page by page."""
    after: int | None = None
    while page := _page(store, wanted, after, PAGE):
        yield from page
        after = page[-1].id


def _page(store: Store, wanted: Wanted, after: int | None, limit: int) -> list[CompletionRow]:
    return queries.completions(
        store,
        wanted.run,
        step=wanted.step,
        split=wanted.split,
        example_id=wanted.example,
        prompt=wanted.prompt,
        failed=wanted.failed,
        order=wanted.order,
        after=after,
        limit=limit,
    )


def _step(store: Store, run_id: str, split: Split, step: str) -> int | None:
    """The step's number; None for all of them."""
    if step == "all":
        return None
    if step.isdecimal():
        return int(step)
    if step != "last":
        raise typer.BadParameter(f"--step {step!r}: write a number, last, or all")
    steps = queries.steps(store, run_id, split)
    return steps[-1] if steps else None


def _one(store: Store, run_id: str, rollout_id: int) -> CompletionRow:
    row = queries.completion(store, rollout_id)
    if row is None or row.run_id != run_id:
        raise StoreError(f"{run_id} has no completion {rollout_id}; `runner completions {run_id}` shows their numbers")
    return row


def plain(row: CompletionRow) -> dict[str, Any]:
    """A completion as a flat JSON object, with the reasons its rewards gave."""
    reasons = {name: score.reason for name, score in row.scores.items() if score.reason}
    return {"id": row.id, **flat(row), "reasons": reasons or None}


def _show(found: list[CompletionRow], full: bool) -> None:
    before: tuple[int, int] | None = None
    for row in found:
        if (row.step, row.group_id) != before:
            before = (row.step, row.group_id)
            say((f"{row.split} step {row.step}, group {row.group_id}, example {row.example_id}", "bold"))
            for line in _block(row.prompt or "", full, PROMPT_CUT, "  > "):
                say((line, "cyan"))
        for line in completion_lines(row, full):
            say(*line)


def _block(text: str, full: bool, most: int, prefix: str) -> list[str]:
    return indent(clean(text if full else cut(text, most)), prefix)


def completion_lines(row: CompletionRow, full: bool) -> Iterator[Line]:
    """One completion: its figures, its text, and what its rewards said."""
    reward: Part = (f"reward {number(row.reward)}", "bold") if row.reward is not None else ("left its group", "red")
    scores = "  ".join(f"{clean_line(name)} {_value(score)}" for name, score in row.scores.items())
    tail = f"  advantage {row.advantage:+.2f}  {scores}  {row.n_tokens} tokens, {row.finish_reason}"
    yield [(f"  #{row.id}", "dim"), "  ", reward, tail]
    yield from ([line] for line in _block(row.completion, full, COMPLETION_CUT, "    │ "))
    for name, score in row.scores.items():
        if score.reason:
            yield [f"    {clean_line(name)}: ", (clean_line(score.reason), "italic")]
        if score.error:
            yield [("    ! ", "red"), f"{clean_line(name)}: {failure_line(score.error)}"]


def _value(score: ScoreRow) -> str:
    return score.outcome if score.outcome not in ("ok", "none") else number(score.value)


def _diff(old: CompletionRow, new: CompletionRow, *, as_json: bool) -> None:
    if as_json:
        say_json({"old": plain(old), "new": plain(new), "diff": word_diff(old.completion, new.completion)})
        return
    for mark, row in (("-", old), ("+", new)):
        figures = next(completion_lines(row, full=True))
        say(mark, f" step {row.step}, example {row.example_id}", *figures)
    say()
    marks = {"-": ("[-{}-]", "red"), "+": ("{{+{}+}}", "green"), " ": ("{}", "")}
    words = word_diff(old.completion, new.completion)
    say(*((marks[sign][0].format(clean(text)), marks[sign][1]) for sign, text in words))


def word_diff(old: str, new: str) -> list[tuple[str, str]]:
    """The texts' words in turn, as (sign, text): `-` only in the old one, `+` only in the new one, a space in both."""
    before, after = re.findall(r"\s+|\w+|[^\w\s]", old), re.findall(r"\s+|\w+|[^\w\s]", new)
    said: list[tuple[str, str]] = []
    for tag, a, b, c, d in difflib.SequenceMatcher(None, before, after, autojunk=False).get_opcodes():
        if tag == "equal":
            said.append((" ", "".join(before[a:b])))
            continue
        said += [(sign, "".join(words)) for sign, words in (("-", before[a:b]), ("+", after[c:d])) if words]
    return said
