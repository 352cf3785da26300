"""job.yaml → frozen JobSpec, or every error at once.

The text is read by `document`, checked by the model; a job at fault is also put to the JSON Schema: what the schema has
nothing against and the model refuses is about meaning and carries the code `semantic`. (That the model refuses all
that the schema refuses is a property the tests prove, so a sound job never pays for jsonschema.)
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from pydantic import ValidationError

from runner.spec import document
from runner.spec.document import DataPath, Document, Place, finding
from runner.spec.errors import Finding, JobError
from runner.spec.model import JobSpec

if TYPE_CHECKING:
    from runner.spec.faults import Fault


@dataclass(frozen=True, slots=True, kw_only=True)
class Loaded:
    """A job that is sound in itself; its data and rewards have not been looked at."""

    job: JobSpec
    """With its name filled in."""
    path: Path
    folder: Path
    """What relative paths in the job are relative to."""
    source: str = field(repr=False)
    """The file's text."""
    overrides: tuple[str, ...]
    """`--set` items in force, as given."""
    document: Document = field(repr=False)

    @property
    def name(self) -> str:
        assert self.job.name is not None
        return self.job.name

    def locate(self, findings: Iterable[Finding]) -> list[Finding]:
        """The findings with the place of their field in the job, where they have no place of their own."""
        return [self._located(item) if item.field and not item.file else item for item in findings]

    def _located(self, item: Finding) -> Finding:
        place = _nearest_place(self.document, tuple(_parts(item.field)))
        return replace(item, file=place.file, line=place.line, column=place.column, excerpt=place.excerpt)


def load(path: Path, overrides: Sequence[str] = ()) -> Loaded:
    """Reads a job. `overrides` are `dotted.path=value`, the value as in YAML. Raises JobError with every finding."""
    source = document.decode(_read(path), str(path))
    read = document.parse(source, str(path))
    if not isinstance(read.value, dict):
        place = read.values[()]
        raise JobError([finding(place, "type", "a job is lines of `name: value`", "`runner init` writes one")])
    for number, override in enumerate(overrides, start=1):
        read = _override(read, override, number)
    job, problems = check(read)
    name, name_problems = _name(job, path, read)
    problems += name_problems
    if job is None or name is None or problems:
        raise JobError(sorted(problems, key=lambda f: (f.file != str(path), f.line, f.column)))
    job = job.model_copy(update={"name": name})
    return Loaded(
        job=job, path=path, folder=path.parent, source=source, overrides=tuple(overrides), document=read
    )  # fmt: skip


def check(read: Document) -> tuple[JobSpec | None, list[Finding]]:
    """The job, or what is wrong with the document: each place once."""
    try:
        job = JobSpec.model_validate(read.value)
    except ValidationError as error:
        refused = _findings(error, read)
        faults = [item for _, item in read.faults if not any(_is_inside(item, other) for other in refused)]
        return None, [*faults, *refused]
    return job, [item for _, item in read.faults]


def _read(path: Path) -> bytes:
    place = Place(str(path), 1, 1, "")
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        with open(descriptor, "rb") as file:
            if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                hint = "name the job.yaml in the folder" if path.is_dir() else "a job is a text file"
                raise JobError([finding(place, "file", f"{path} is not a regular file", hint)])
            return file.read(document.MAX_BYTES + 1)
    except IsADirectoryError:
        hint = "name the job.yaml in the folder"
        raise JobError([finding(place, "file", f"{path} is a folder", hint)]) from None
    except (OSError, ValueError) as error:
        message = f"{path} can't be read: {getattr(error, 'strerror', None) or error}"
        raise JobError([finding(place, "file", message, "check the path")]) from None


def _override(read: Document, override: str, number: int) -> Document:
    """The document with one `--set` applied. Places in the override count as a line of a file `--set`."""
    name, equals, text = override.partition("=")
    place = Place("--set", number, 1, override)
    path = tuple(_parts(name.strip()))
    if not equals or "" in path:
        hint = "write `--set dotted.path=value`, as `--set grpo.steps=20`"
        raise JobError([finding(place, "override", f"`{override}` is no override", hint)])
    offset = len(name) + 1
    if not text.strip():
        raise JobError([finding(place, "missing-value", "has no value", f"write `--set {name}=value`")])
    offset = len(name) + 1
    try:
        given = document.parse(text, "--set")
    except JobError as error:
        raise JobError([_within(place, item, offset) for item in error.findings]) from None
    tree = _put(read.value, path, given.value, place)
    return _replaced(read, path, tree, given, place, place._replace(column=offset + 1))


def _replaced(read: Document, path: DataPath, tree: Any, given: Document, name: Place, value: Place) -> Document:
    """The document with everything at and below the path given anew; `name` and `value` are the new places."""
    old = {"keys": _outside(read.keys, path), "values": _outside(read.values, path)}
    above = [path[:length] for length in range(1, len(path) + 1)]
    kept = [(at, item) for at, item in read.faults if at[: len(path)] != path and not _filled(at, item, path)]
    new = [((*path, *at), _within(name, item, value.column - 1)) for at, item in given.faults]
    return Document(
        value=tree,
        keys=dict.fromkeys(above, name) | old["keys"] | {(*path, *at): value for at in given.keys},
        values=dict.fromkeys(above, value) | old["values"] | {(*path, *at): value for at in given.values},
        faults=(*kept, *new),
    )


def _outside(places: Mapping[DataPath, Place], path: DataPath) -> dict[DataPath, Place]:
    return {at: place for at, place in places.items() if at[: len(path)] != path}


def _filled(at: DataPath, item: Finding, path: DataPath) -> bool:
    """Whether a section without a value has got one."""
    return item.code == "missing-value" and path[: len(at)] == at


def _is_inside(item: Finding, other: Finding) -> bool:
    """Whether one is about a part of a value that the other refuses as a whole."""
    return other.code == "type" and item.field.startswith(other.field + ".")


def _within(place: Place, item: Finding, offset: int) -> Finding:
    """A finding about the value of an override, placed in the whole override."""
    name = place.excerpt[: offset - 1]
    column = offset + max(item.column, 1) if item.line <= 1 else place.column
    field = f"{name}.{item.field}" if item.field else name
    return replace(item, file=place.file, line=place.line, column=column, excerpt=place.excerpt, field=field)


def _put(tree: Any, path: DataPath, value: Any, place: Place) -> Any:
    """A copy of the tree with the value at the path; sections on the way are made."""
    if not path:
        return value
    head, rest = path[0], path[1:]
    if isinstance(tree, list):
        items = cast(list[Any], tree)
        if head in range(len(items)):
            return [_put(item, rest, value, place) if i == head else item for i, item in enumerate(items)]
    elif tree is None or isinstance(tree, dict):
        section = cast(dict[str, Any], tree or {})
        return {**section, str(head): _put(section.get(str(head)), rest, value, place)}
    message = f"`{head}` can't be set: what it is in holds no fields"
    raise JobError([finding(place, "override", message, "check the dotted path with `runner explain`")])


def _parts(name: str) -> Iterator[str | int]:
    for part in name.split("."):
        yield int(part) if part.isascii() and part.isdigit() and len(part) < 6 else part


def _name(job: JobSpec | None, path: Path, read: Document) -> tuple[str | None, list[Finding]]:
    """The job's name: its own, else the folder's of a `job.yaml`, else the file's."""
    if job is not None and job.name is not None:
        return job.name, []
    own = path.absolute().parent.name if path.stem == "job" else path.stem
    name = re.sub(r"[^A-Za-z0-9_.-]+", "-", own).strip("-._")[:64]
    if name or job is None:
        return name, []
    message = f"no name can be made from {own!r}"
    return None, [finding(read.values[()], "semantic", message, "give the job a `name:`", "name")]


def _findings(error: ValidationError, read: Document) -> list[Finding]:
    from runner.spec.faults import describe, faults  # only a job at fault pays for these
    from runner.spec.schema import shape_faults

    shape = shape_faults(read.value)
    unreadable = [at for at, item in read.faults if item.code != "duplicate-key"]
    return [
        describe(fault, _place_of(fault, read), is_shape=fault.path in shape)
        for fault in faults(error, read.value)
        if not any(fault.path[: len(at)] == at for at in unreadable)
    ]


def _place_of(fault: Fault, read: Document) -> Place:
    if fault.kind in ("extra_forbidden", "key") and fault.path in read.keys:
        return read.keys[fault.path]
    return _nearest_place(read, fault.path)


def _nearest_place(read: Document, path: DataPath) -> Place:
    """Of the value; of the section's key where the field is not written, or the value is a section."""
    for length in range(len(path), 0, -1):
        at = path[:length]
        if at in read.keys and (length < len(path) or isinstance(_at(read.value, at), Mapping)):
            return read.keys[at]
        if at in read.values:
            return read.values[at]
    return read.values[()]


def _at(tree: Any, path: DataPath) -> Any:
    for part in path:
        tree = tree[part]
    return tree
