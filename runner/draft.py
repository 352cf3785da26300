"""A job made in code → the same folder that people write by hand: `job.yaml`, `rewards.py`, `data.jsonl`.

There is one way to describe a job. What a notebook builds is written down first and then read like any other, so its
errors have lines to look at, a run can be repeated from the file alone, and the folder can move to `jobs/` as it is.
"""

from __future__ import annotations

import datetime
import json
import os
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from pathlib import Path, PurePath
from typing import Any, Literal, TypedDict, Unpack, cast

import yaml
from pydantic import BaseModel

from runner.queue.home import Home, find_home
from runner.rewards.capture import capture, name_of
from runner.spec.errors import Finding, JobError
from runner.spec.load import Loaded, load
from runner.spec.model import (
    Budget,
    Checkpoints,
    Dataset,
    Emulator,
    Evaluation,
    Expect,
    Grpo,
    JobSpec,
    Limits,
    Lora,
    RateLimit,
    Retries,
    Retry,
    Reward,
    Sandbox,
    Secret,
    Stop,
)

RewardCallable = Callable[..., Any]
"""`def name(prompt, completion, example) -> number | None | {"score": …}`, optionally with a keyword `ctx`."""
Rewards = Mapping[str, Any] | Iterable[RewardCallable]
Mapped = Mapping[str, Any]

REWARDS, DATA, COMPLETIONS = "rewards.py", "data.jsonl", "completions.jsonl"
MARK = "# Written by runner.job() with: "
"""First line of our `job.yaml`, followed by the files that are ours, too: those are replaced, no others."""
NOTE = "# Running the code again writes the folder anew. To go on by hand, copy it to jobs/ and remove these lines.\n"


class Sections(TypedDict, total=False):
    """The other sections of a job, as in `job.yaml`: mappings, or the models of the same name."""

    seed: int
    packages: Sequence[str]
    lora: Lora | Mapped
    sandbox: Sandbox | Mapped
    secrets: Mapping[str, Secret | Mapped]
    grpo: Grpo | Mapped
    evaluation: Evaluation | Mapped
    checkpoints: Checkpoints | Mapped
    stop: Stop | Mapped
    expect: Sequence[Expect | Mapped]
    emulator: Emulator | Mapped
    limits: Limits | Mapped
    reload: Literal["auto", "ask", "off"]
    priority: int
    after: Sequence[str]
    retry: Retry | Mapped
    report_to: Sequence[Literal["tensorboard", "wandb", "trackio", "mlflow"]]
    labels: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class RewardFunction:
    """A reward with its options, as `runner.reward` gives it."""

    fn: RewardCallable | str
    options: Mapped = field(default_factory=dict[str, Any])


def reward(
    fn: RewardCallable | str,
    *,
    weight: float | None = None,
    trusted: bool | None = None,
    timeout: float | None = None,
    on_error: Literal["mask", "zero", "fail"] | None = None,
    clip: tuple[float, float] | None = None,
    only_if: str | None = None,
    style: Literal["runner", "trl", "predibase", "verl"] | None = None,
    batch: Literal["one", "group"] | None = None,
    isolation: Literal["auto", "worker", "call"] | None = None,
    concurrency: int | None = None,
    rate_limit: RateLimit | Mapped | None = None,
    retries: Retries | Mapped | None = None,
    budget: Budget | Mapped | None = None,
    cache: bool | None = None,
) -> RewardFunction:
    """A reward function with options of the job's `rewards:` section; those left out have the section's defaults."""
    options = {
        "weight": weight,
        "trusted": trusted,
        "timeout": timeout,
        "on_error": on_error,
        "clip": clip,
        "only_if": only_if,
        "style": style,
        "batch": batch,
        "isolation": isolation,
        "concurrency": concurrency,
        "rate_limit": rate_limit,
        "retries": retries,
        "budget": budget,
        "cache": cache,
    }
    return RewardFunction(fn, {name: value for name, value in options.items() if value is not None})


def job(
    name: str,
    *,
    model: str | Path,
    dataset: Any,
    rewards: Rewards,
    setup: Callable[[], Any] | None = None,
    holdout: float | None = None,
    folder: str | Path | None = None,
    home: str | Path | None = None,
    **sections: Unpack[Sections],
) -> Loaded:
    """Writes a job into a folder and reads it: ready for `validate`, `emulate`, `run` and `submit`.

    `dataset`: rows (dicts, a pandas DataFrame), a path, a hub id, or a `dataset:` section whose `path` may be rows.
    `rewards`: by name a function, `(function, weight)`, `runner.reward(…)`, or "file.py:function" in `folder`.
    `setup`: called once in each reward worker, as to load a word list into a global. `holdout`: share of the prompts
    kept for evaluation. `folder`: where the job is written, unset the home's `.runner/drafts/<name>`; files in it that
    this function did not write are never replaced. Local paths are relative to the working directory.

    Raises JobError with places in the written `job.yaml`, CaptureError for functions that can't be written out.
    """
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}", name):
        raise _error("name", f"{name!r} is no name", "use letters, digits, `-`, `_` and `.`")
    where = Home(Path(home).resolve()) if home else find_home()
    draft = _Draft(Path(folder).resolve() if folder else where.state / "drafts" / name)
    content = {
        "name": name,
        "model": _placed(model, draft.folder) if Path(model).is_dir() else str(model),
        "dataset": draft.dataset(dataset, holdout),
        "rewards": draft.rewards(rewards, setup, given_folder=folder is not None),
        **draft.sections(sections),
    }
    draft.write(content)
    return load(draft.folder / "job.yaml")


class _Draft:
    """The folder to be, and the files that go beside its `job.yaml`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._files: dict[str, str] = {}

    # The job's parts

    def dataset(self, given: Any, holdout: float | None) -> dict[str, Any]:
        section = dict(_plain(given, "dataset", keep=("path",))) if _is_section(given) else {"path": given}
        if "path" in section:
            section["path"] = self._rows_or_path(section["path"], DATA, "dataset")
        return section if holdout is None else {**section, "holdout": holdout}

    def rewards(
        self, given: Rewards, setup: Callable[[], Any] | None, *, given_folder: bool
    ) -> dict[str, dict[str, Any]]:
        entries = {name: _entry(name, value) for name, value in _named(given).items()}
        functions = {name: entry["fn"] for name, entry in entries.items() if not isinstance(entry.get("fn", ""), str)}
        if functions:
            styles = {name: entry["style"] for name, entry in entries.items() if "style" in entry}
            self._files[REWARDS] = capture(functions, setup, styles)
        for name, entry in entries.items():
            if name in functions:
                entry["fn"] = f"{REWARDS}:{name_of(functions[name])}"
            elif not given_folder and "grader" not in entry:
                hint = f"give the function itself, or `folder=`, where {entry.get('fn')} is"
                raise _error(f"rewards.{name}", "names a file, and the job has no folder of its own", hint)
        return entries

    def sections(self, given: Sections) -> dict[str, Any]:
        plain = {name: _plain(value, name, keep=("completions",)) for name, value in given.items() if value is not None}
        emulator: Any = plain.get("emulator")
        if isinstance(emulator, dict):
            settings = cast("dict[str, Any]", emulator)
            if (rows := settings.get("completions")) is not None:
                settings["completions"] = self._rows_or_path(rows, COMPLETIONS, "emulator.completions")
            if isinstance(model := settings.get("model"), str):
                settings["model"] = _placed(model, self.folder)
        order = [*JobSpec.model_fields, *plain]
        return dict(sorted(plain.items(), key=lambda item: order.index(item[0])))

    def _rows_or_path(self, given: Any, file: str, field: str) -> str:
        if isinstance(given, str | PurePath):
            return _placed(given, self.folder)
        self._files[file] = _json_lines(_rows(given, field), field)
        return file

    # The folder

    def write(self, content: Mapped) -> None:
        """Each file whole or not at all, `job.yaml` last. Raises JobError before it would replace somebody's file."""
        self.folder.mkdir(parents=True, exist_ok=True)
        ours = _ours(self.folder / "job.yaml")
        for name in ("job.yaml", *self._files):
            if name not in ours and (self.folder / name).exists():
                message = f"{self.folder / name} is there already, and runner.job() did not write it"
                raise _error("", message, "give another `folder=`, or rename the file")
        for name, text in self._files.items():
            _write_whole(self.folder / name, text)
        text = f"{MARK}{', '.join(self._files) or 'nothing else'}\n{NOTE}{to_yaml(content)}"
        _write_whole(self.folder / "job.yaml", text)
        for name in ours - {"job.yaml", *self._files}:
            (self.folder / name).unlink(missing_ok=True)


def _ours(job_file: Path) -> set[str]:
    """Files of the folder that an earlier call wrote."""
    try:
        with job_file.open(encoding="utf-8", errors="replace") as file:
            first = file.readline().strip()
    except FileNotFoundError:
        return set()
    listed = first.removeprefix(MARK.strip()).strip().split(", ")
    return {"job.yaml", *({REWARDS, DATA, COMPLETIONS} & set(listed))} if first.startswith(MARK) else set()


def _write_whole(path: Path, text: str) -> None:
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    part.write_text(text, encoding="utf-8")
    part.replace(path)


def _placed(path: str | PurePath, folder: Path) -> str:
    """The path as the job has to name it: what is in the working directory from there, all else as it stands."""
    here = Path(path).absolute()
    if not here.exists():
        return str(path)
    return str(here.relative_to(folder)) if here.is_relative_to(folder) else str(here)


def _error(field: str, message: str, hint: str) -> JobError:
    return JobError([Finding(code="type", message=message, hint=hint, field=field)])


# ------------------------------------------------------------------------------------------- values of the job


def _named(given: Rewards) -> dict[str, Any]:
    """Functions in a list go by their own names."""
    if isinstance(given, Mapping):
        return {str(name): value for name, value in cast("Mapping[Any, Any]", given).items()}
    return {getattr(function, "__name__", repr(function)): function for function in given}


def _entry(name: str, given: Any) -> dict[str, Any]:
    """One reward's section; `fn` is still the function where one was given."""
    match given:
        case RewardFunction(fn=fn, options=options):
            return {"fn": fn, **_plain(options, f"rewards.{name}")}
        case (fn, weight):
            return {"fn": fn, "weight": _plain(weight, f"rewards.{name}")}
        case Reward() | Mapping():
            return _plain(given, f"rewards.{name}", keep=("fn",))
        case _:
            return {"fn": given}


def _is_section(value: Any) -> bool:
    return isinstance(value, Dataset | Mapping)


def _plain(value: Any, field: str, keep: Sequence[str] = ()) -> Any:
    """The value as YAML has it. Entries named in `keep` stay as they are. Raises JobError for other objects."""
    match value:
        case BaseModel():
            return value.model_dump(mode="json", by_alias=True, exclude_unset=True)
        case Mapping():
            pairs = cast("Mapping[Any, Any]", value)
            return {str(k): v if k in keep else _plain(v, f"{field}.{k}") for k, v in pairs.items()}
        case list() | tuple():
            items = cast("Sequence[Any]", value)
            return [_plain(item, f"{field}.{i}") for i, item in enumerate(items)]
        case str() | PurePath():
            return str(value)
        case None | bool():
            return value
        case int() | float():  # or a class made of them, as one of numpy's
            return int(value) if isinstance(value, int) else float(value)
        case _ if callable(getattr(value, "item", None)):  # a number of numpy or torch
            return value.item()
        case _:
            raise _error(field, f"is {value!r:.60}, which no job can hold", "use text, numbers, lists, dicts of them")


class _Dumper(yaml.SafeDumper):
    """Quotes what YAML 1.2, by which jobs are read, would take for something else than text."""

    def ignore_aliases(self, data: Any) -> bool:
        return True

    def text(self, data: str) -> yaml.ScalarNode:
        readable = data.replace("\n", "").isprintable()
        style = ("|" if "\n" in data else None) if readable else '"'
        return self.represent_scalar("tag:yaml.org,2002:str", data, style)  # pyright: ignore[reportUnknownMemberType]


_NUMBER = re.compile(r"(?:[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?|0o[0-7]+)\Z")
_Dumper.add_representer(str, _Dumper.text)
_Dumper.add_implicit_resolver("tag:yaml.org,2002:float", _NUMBER, None)  # pyright: ignore[reportUnknownMemberType]


def to_yaml(content: Mapped) -> str:
    """The content as a job file is written by hand: in the order given, innermost sections on one line."""
    return yaml.dump(content, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=110, default_flow_style=None)


# ------------------------------------------------------------------------------------------- rows of the dataset


def _rows(given: Any, field: str) -> list[Mapping[Any, Any]]:
    if hasattr(given, "notna") and hasattr(given, "to_dict"):  # a pandas DataFrame; its NaN means: no value
        given = given.astype(object).where(given.notna(), None).to_dict("records")
    if not isinstance(given, Iterable):
        raise _error(field, f"is of type {type(given).__name__}", "give rows (a list of dicts, a DataFrame) or a path")
    rows: list[Any] = list(given)  # pyright: ignore[reportUnknownArgumentType, reportUnknownVariableType]
    for number, row in enumerate(rows, 1):
        if not isinstance(row, Mapping):
            raise _error(field, f"row {number} is {row!r:.60}", "a row is a dict of columns")
    return rows


def _json_lines(rows: Sequence[Mapping[Any, Any]], field: str) -> str:
    lines: list[str] = []
    for number, row in enumerate(rows, 1):
        try:
            line = json.dumps(dict(row), ensure_ascii=False, allow_nan=False, default=_json_value)
            line.encode()
        except (TypeError, ValueError) as error:
            hint = "use text, finite numbers, true, false, null, and lists and dicts of them"
            raise _error(field, f"row {number}: {error}", hint) from None
        lines.append(line + "\n")
    return "".join(lines)


def _json_value(value: Any) -> Any:
    """What JSON has no word for. Raises TypeError."""
    if isinstance(value, datetime.date | datetime.time):
        return value.isoformat()
    if isinstance(value, Decimal):
        return int(value) if value == value.to_integral_value() else float(value)
    if callable(getattr(value, "tolist", None)):  # numpy's numbers and arrays
        return value.tolist()
    raise TypeError(f"no JSON: {value!r:.60}")
