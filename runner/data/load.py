"""A job's dataset → Examples for training and for evaluation, with everything wrong with it at once."""

from __future__ import annotations

import difflib
import hashlib
import json
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple, cast

from runner.data.examples import Example, Message
from runner.data.read import MAX_FINDINGS, Table, read
from runner.data.template import Template
from runner.spec.errors import Finding, JobError
from runner.spec.model import Dataset, JobSpec

Split = Literal["train", "eval"]
Prompt = str | list[Message]

SPLITS: Mapping[str, Split] = {
    "train": "train",
    **dict.fromkeys(("evaluation", "eval", "validation", "valid", "val", "dev", "test"), "eval"),
}
"""What a column `split` may say."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Data:
    """A dataset ready to train on."""

    train: tuple[Example, ...]
    """Never empty."""
    eval: tuple[Example, ...]
    sha256: str
    """Of the file's bytes."""
    rows: int
    columns: tuple[str, ...]
    """Those that every row has."""
    warnings: tuple[Finding, ...]


class Read(NamedTuple):
    """A column that a reward function reads, as found in its source."""

    column: str
    file: str
    line: int
    certain: bool
    """`example["x"]` as against `example.get("x")`."""


def load_examples(job: JobSpec, folder: Path) -> Data:
    """Reads, renders and splits the job's dataset; its path is relative to `folder`. Raises JobError."""
    table = read(job.dataset.path, folder, job.dataset.limit)
    if not table.rows:
        raise JobError([_about("path", "empty", f"{table.file} has no rows", "give at least one")])
    source = _Source(job.dataset, table)
    prompts = source.prompts()
    splits = _splits(job.dataset, table, prompts)
    examples = [
        Example(id=i, prompt=with_turns(job.dataset, prompt), columns=row)
        for i, (prompt, row) in enumerate(zip(prompts, table.rows, strict=True))
    ]
    train = tuple(example for example, split in zip(examples, splits, strict=True) if split == "train")
    if not train:
        raise JobError([_about("holdout", "empty", "every row is held out: nothing to train on", "lower `holdout`")])
    return Data(
        train=train,
        eval=tuple(example for example, split in zip(examples, splits, strict=True) if split == "eval"),
        sha256=table.sha256,
        rows=len(examples),
        columns=_common_columns(table),
        warnings=tuple(_warnings(job.dataset, table, prompts, splits)),
    )


def check_columns(reads: Iterable[tuple[str, str, int, bool]], columns: Collection[str]) -> list[Finding]:
    """Reads of columns that not every row has: an error for `example["x"]`, a warning for `example.get("x")`."""
    return [_missing_column(Read(*item), columns) for item in reads if item[0] not in columns]


def _missing_column(item: Read, columns: Collection[str]) -> Finding:
    near = difflib.get_close_matches(item.column, columns, n=1)
    return Finding(
        code="column",
        message=f"reads column `{item.column}`, which not every row of the dataset has",
        hint=f"did you mean `{near[0]}`?" if near else f"columns: {', '.join(columns)}",
        file=item.file,
        line=item.line,
        severity="error" if item.certain else "warning",
    )


def _about(field: str, code: str, message: str, hint: str, severity: Literal["error", "warning"] = "error") -> Finding:
    return Finding(code=code, message=message, hint=hint, field=f"dataset.{field}", severity=severity)


def _common_columns(table: Table) -> tuple[str, ...]:
    counts = Counter(name for row in table.rows for name in row)
    return tuple(name for name, count in counts.items() if count == len(table.rows))


class _Source:
    """Makes the prompts of a table's rows, before system message and prefill are added (`with_turns`)."""

    def __init__(self, spec: Dataset, table: Table) -> None:
        self._spec, self._table = spec, table

    def prompts(self) -> list[Prompt]:
        """One per row. Raises JobError with what is wrong in each row."""
        names = list(dict.fromkeys(name for row in self._table.rows for name in row))
        template = Template(self._spec.prompt) if self._spec.prompt is not None else None
        findings = template.findings(names) if template else _no_prompt_column(names)
        if findings:
            raise JobError(findings)
        prompts: list[Prompt] = []
        for i, row in enumerate(self._table.rows):
            try:
                prompts.append(self._checked(_rendered(template, row) if template else _column(row)))
            except ValueError as error:
                findings.append(self._table.finding(i, "prompt", *error.args))
                if len(findings) == MAX_FINDINGS:
                    break
        if findings:
            raise JobError(findings)
        return prompts

    def _checked(self, prompt: Prompt) -> Prompt:
        """Raises ValueError(message, hint) where the prompt and the job's other fields contradict each other."""
        if isinstance(prompt, str):
            return prompt
        if self._spec.format == "text":
            raise ValueError("the prompt is a list of messages, and `dataset.format` is `text`", "write `format: chat`")
        if self._spec.system is not None and prompt[0]["role"] == "system":
            raise ValueError("has a system message of its own", "remove it, or `dataset.system`")
        if self._spec.prefill is not None and prompt[-1]["role"] == "assistant":
            raise ValueError("already ends with an assistant turn", "remove it, or `dataset.prefill`")
        return prompt


def with_turns(spec: Dataset, prompt: Prompt) -> Prompt:
    """The prompt with the job's system message and prefilled turn; a text as a user's message where the job chats."""
    if isinstance(prompt, str):
        if spec.format != "chat" and spec.system is None and spec.prefill is None:
            return prompt
        prompt = [Message(role="user", content=prompt)]
    system = [Message(role="system", content=spec.system)] if spec.system is not None else []
    prefill = [Message(role="assistant", content=spec.prefill)] if spec.prefill is not None else []
    return [*system, *prompt, *prefill]


def _no_prompt_column(names: Sequence[str]) -> list[Finding]:
    if "prompt" in names:
        return []
    hint = f'give a template, as `prompt: "{{{names[0]}}}"`; columns: {", ".join(names)}' if names else "name a column"
    return [_about("prompt", "column", "there is no column named `prompt`", hint)]


def _rendered(template: Template, row: Mapping[str, Any]) -> str:
    try:
        text = template.render(row)
    except KeyError as error:
        raise ValueError(f"column `{error.args[0]}` is missing or null", "fill it in, or remove the row") from None
    return _not_blank(text)


def _column(row: Mapping[str, Any]) -> Prompt:
    prompt = row.get("prompt")
    if isinstance(prompt, str):
        return _not_blank(prompt)
    if isinstance(prompt, list) and prompt:
        return [_message(item) for item in prompt]  # pyright: ignore[reportUnknownVariableType]
    raise ValueError(f"`prompt` is {json.dumps(prompt)[:60]}", "write text, or a list of messages")


def _not_blank(text: str) -> str:
    if not text.strip():
        raise ValueError("the prompt is empty", "fill it in, or remove the row")
    return text


def _message(item: Any) -> Message:
    """Raises ValueError(message, hint) for anything but text with a role."""
    fields = cast(dict[str, Any], item) if isinstance(item, dict) else {}
    turn = {name: value for name, value in fields.items() if value is not None}
    role, content = turn.get("role"), turn.get("content")
    if not isinstance(role, str) or not isinstance(content, str) or len(turn) != 2:
        raise ValueError(
            f"{json.dumps(item)[:60]} is no message", 'write `{"role": "user", "content": "…"}`, text only'
        )  # fmt: skip
    return Message(role=role, content=content)


def _splits(spec: Dataset, table: Table, prompts: Sequence[Prompt]) -> list[Split]:
    """By the column `split` where there is one; else by a hash of the prompt, so duplicates stay together."""
    if not any("split" in row for row in table.rows):
        return ["eval" if _position(prompt) < spec.holdout else "train" for prompt in prompts]
    findings = [
        table.finding(i, "split", f"split is {json.dumps(row.get('split'))[:60]}", "write `train` or `evaluation`, "
        "or give the column another name")
        for i, row in enumerate(table.rows)
        if not isinstance(row.get("split"), str) or row["split"] not in SPLITS
    ]  # fmt: skip
    if findings:
        raise JobError(findings[:MAX_FINDINGS])
    return [SPLITS[row["split"]] for row in table.rows]


def _key(prompt: Prompt) -> str:
    return prompt if isinstance(prompt, str) else json.dumps(prompt, sort_keys=True, ensure_ascii=False)


def _position(prompt: Prompt) -> float:
    """The prompt's place in [0, 1): the same wherever it stands and whatever else is in the file."""
    return int.from_bytes(hashlib.blake2b(_key(prompt).encode(), digest_size=8).digest()) / 2**64


def _warnings(spec: Dataset, table: Table, prompts: Sequence[Prompt], splits: Sequence[Split]) -> Iterable[Finding]:
    keys = [_key(prompt) for prompt in prompts]
    if repeated := len(keys) - len(set(keys)):
        yield _about("path", "duplicates", f"{repeated} of {len(keys)} prompts are repeats", "", "warning")
    train, held = ({key for key, at in zip(keys, splits, strict=True) if at == split} for split in ("train", "eval"))
    if leaked := len(train & held):
        yield _about("path", "leak", f"{leaked} prompts are both trained on and evaluated", "mend `split`", "warning")
    if spec.holdout and any("split" in row for row in table.rows):
        yield _about("holdout", "holdout", "has no effect: the column `split` decides", "remove one of them", "warning")
    elif spec.holdout and not held:
        message = f"no prompt of {len(keys)} falls into a holdout of {spec.holdout:g}"
        yield _about("holdout", "holdout", message, "raise `holdout`, or mark rows by a column `split`", "warning")
