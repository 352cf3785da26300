"""A file of demonstrations: rows like the dataset's, with completions that are good and completions that are bad."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from runner.data.load import load_examples
from runner.data.read import read
from runner.grpo.types import Example
from runner.spec.errors import Finding, JobError
from runner.spec.model import JobSpec

FIELD = "emulator.demonstrations"


@dataclass(frozen=True, slots=True, kw_only=True)
class Demonstration:
    example: Example
    """Its prompt, made as the dataset's prompts are."""
    good: Sequence[str]
    bad: Sequence[str]


def read_demonstrations(job: JobSpec) -> list[Demonstration]:
    """The rows of the job's file. A row with a `prompt` is taken as it stands, else through `dataset.prompt`.

    Raises JobError for a row without any completion, and for a file in which none is good or none is bad.
    """
    path = Path(job.emulator.demonstrations or "")
    try:
        return _read(job, path)
    except JobError as error:
        raise JobError([_about_demonstrations(finding) for finding in error.findings]) from None


def _read(job: JobSpec, path: Path) -> list[Demonstration]:
    rows = read(str(path), path.parent, None).rows
    template = None if all("prompt" in row for row in rows) else job.dataset.prompt
    update = {"path": str(path), "prompt": template, "holdout": 0.0, "limit": None}
    data = load_examples(job.model_copy(update={"dataset": job.dataset.model_copy(update=update)}), path.parent)
    found = [
        Demonstration(example=example, good=_texts(example, "good", path), bad=_texts(example, "bad", path))
        for example in data.train
    ]
    for name in ("good", "bad"):
        if not any(getattr(row, name) for row in found):
            raise _wrong(path, 0, f"no row has completions under `{name}`; the policy needs both kinds")
    for row in found:
        if not row.good and not row.bad:
            raise _wrong(path, row.example.id + 1, "neither `good` nor `bad` has a completion")
    return found


def _texts(example: Example, name: str, path: Path) -> list[str]:
    value: Any = example.columns.get(name)
    texts = cast(list[Any], value if isinstance(value, list) else [] if value is None else [value])
    if not all(isinstance(text, str) for text in texts):
        raise _wrong(path, example.id + 1, f"`{name}` must be a list of texts, and is {value!r:.60}")
    return texts


def _wrong(path: Path, line: int, message: str) -> JobError:
    hint = 'write rows like {"prompt": "…", "good": ["…"], "bad": ["…"]}'
    finding = Finding(code="demonstrations", field=FIELD, file=str(path), line=line, message=message, hint=hint)
    return JobError([finding])


def _about_demonstrations(finding: Finding) -> Finding:
    """A fault of the file that the dataset's reader found, under the field that names the file."""
    if finding.field == FIELD:
        return finding
    return Finding(
        code=finding.code, field=FIELD, file=finding.file, line=finding.line, message=finding.message, hint=finding.hint
    )
