"""`runner prompt`: what a run's model answers now, beside what it answered before the run."""

from __future__ import annotations

import shutil
import sys
import textwrap
from collections.abc import Iterator, Sequence
from itertools import zip_longest
from typing import TYPE_CHECKING, Annotated, Any

import typer

from runner.cli.options import HomeOption, JsonOption
from runner.cli.out import Line, note, say, say_json
from runner.cli.text import clean, clean_line, cut, plural

if TYPE_CHECKING:
    from runner.answers import Answer, Answers, Completion

NARROW = 80
"""Columns of a terminal below which the answers stand one below the other."""
WIDEST = 160


def prompt(
    run: Annotated[
        str, typer.Argument(metavar="RUN[@STEP]", help="A run; its last checkpoint, that of STEP, or @best.")
    ],
    prompts: Annotated[
        list[str] | None, typer.Argument(metavar="[PROMPT]...", help="Default, or -: one prompt from stdin.")
    ] = None,
    example: Annotated[
        list[int] | None, typer.Option(metavar="ID", help="This row of the run's dataset. Repeatable.")
    ] = None,
    n: Annotated[int, typer.Option("-n", "--n", min=1, help="Answers to each prompt.")] = 1,
    temperature: Annotated[float | None, typer.Option(min=0, help="0 is greedy. Default: as the job trains.")] = None,
    max_tokens: Annotated[
        int | None, typer.Option(min=1, metavar="N", help="Longest answer. Default: as the job trains.")
    ] = None,
    seed: Annotated[int | None, typer.Option(min=0, help="Default: the job's.")] = None,
    raw: Annotated[bool, typer.Option("--raw", help="The text is the exact prompt: no chat template.")] = False,
    base: Annotated[bool, typer.Option(help="Ask the model that the run began with, too.")] = True,
    home: HomeOption = None,
    json: JsonOption = False,
) -> None:
    """Asks a run's model, beside the one it began with. Prompts are made as the job makes them; nothing is recorded."""
    from runner.answers import answer

    found = answer(
        run,
        _texts(prompts or [], bool(example)),
        examples=example or (),
        n=n,
        temperature=temperature,
        max_completion_length=max_tokens,
        seed=seed,
        as_it_stands=raw,
        base=base,
        home=home,
    )
    if json:
        say_json(_plain(found))
        return
    how = "greedy" if found.temperature == 0 else f"temperature {found.temperature:g}, seed {found.seed}"
    note(clean_line(f"base: {found.model}; tuned: {found.run} at step {found.step}"))
    note(f"{how}, at most {plural(found.max_completion_length, 'token')} an answer")
    width = min(shutil.get_terminal_size((100, 24)).columns, WIDEST)
    for item in found.answers:
        for line in _lines(item, width):
            say(*line)


def _texts(prompts: Sequence[str], others: bool) -> list[str]:
    """The prompts given, `-` replaced by stdin. Raises BadParameter where there is none."""
    if not prompts and not others and not sys.stdin.isatty():
        prompts = ["-"]
    texts = [_stdin() if text == "-" else text for text in prompts]
    if not any(text.strip() for text in texts) and not others:
        raise typer.BadParameter('what to ask is missing: "a prompt", --example ID, or a prompt on stdin')
    return texts


def _stdin() -> str:
    return sys.stdin.read().removesuffix("\n")


def _lines(item: Answer, width: int) -> Iterator[Line]:
    yield [""]
    which = "" if item.example.id < 0 else f"example {item.example.id}: "
    yield [(f"> {which}{clean_line(cut(_text(item), 4 * width))}", "cyan")]
    for number, (old, new) in enumerate(zip_longest(item.base, item.tuned), 1):
        which = f" ({number})" if len(item.tuned) > 1 else ""
        if old is None:
            yield from _alone("tuned" + which, new, width)
        elif width < NARROW:
            yield from _alone("base" + which, old, width)
            yield from _alone("tuned" + which, new, width)
        else:
            yield from _beside(("base" + which, old), ("tuned" + which, new), width)


def _text(item: Answer) -> str:
    if isinstance(item.example.prompt, str):
        return item.example.prompt
    return "\n".join(f"{message['role']}: {message['content']}" for message in item.example.prompt)


def _alone(title: str, completion: Completion, width: int) -> Iterator[Line]:
    yield [(clean_line(title), "bold"), f"  {_size(completion)}"]
    yield from ([line] for line in _wrapped(completion.text, width))


def _beside(left: tuple[str, Completion], right: tuple[str, Completion], width: int) -> Iterator[Line]:
    """Two columns. The head tells how long each answer is."""
    half = (width - 3) // 2
    heads = [cut(clean_line(f"{title}  {_size(completion)}"), half) for title, completion in (left, right)]
    yield [(heads[0].ljust(half), "bold"), " │ ", (heads[1], "bold")]
    columns = [_wrapped(completion.text, half) for _, completion in (left, right)]
    for a, b in zip_longest(*columns, fillvalue=""):
        yield [f"{a.ljust(half)} │ {b}".rstrip()]


def _size(completion: Completion) -> str:
    return plural(completion.n_tokens, "token") + (", cut" if completion.finish == "length" else "")


def _wrapped(text: str, width: int) -> list[str]:
    wrapped = (textwrap.wrap(line, width, drop_whitespace=False) or [""] for line in clean(text).split("\n"))
    return [line.rstrip() for lines in wrapped for line in lines]


def _plain(found: Answers) -> dict[str, Any]:
    return {
        "run": found.run,
        "step": found.step,
        "base_model": found.model,
        "temperature": found.temperature,
        "max_completion_length": found.max_completion_length,
        "seed": found.seed,
        "answers": [
            {
                "prompt": item.example.prompt,
                "example": item.example.id if item.example.id >= 0 else None,
                "base": [_plain_completion(completion) for completion in item.base],
                "tuned": [_plain_completion(completion) for completion in item.tuned],
            }
            for item in found.answers
        ],
    }


def _plain_completion(completion: Completion) -> dict[str, Any]:
    return {"text": completion.text, "n_tokens": completion.n_tokens, "finish": completion.finish}
