"""The bytes of a dataset file → rows, with the line each begins in. The types are the file's own: lists stay lists.

CSV knows no types: a column is read as JSON where every filled cell is JSON other than a text (`007` is not), else it
is text. NaN and infinity are refused: they are no JSON, and no reward can compare with them.
"""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from typing import Any

from runner.spec.errors import Finding, JobError

MAX_FINDINGS = 20
"""Of one kind; a file that is wrong in every row need not say so a million times."""

Row = dict[str, Any]


def _no_constant(name: str) -> float:
    raise ValueError(f"{name} is no JSON value")


_decode = json.JSONDecoder(parse_constant=_no_constant).decode

Rows = tuple[list[Row], list[int]]


def _read_jsonl(data: bytes, file: str, limit: int | None) -> Rows:
    rows: list[Row] = []
    lines: list[int] = []
    findings: list[Finding] = []
    for number, line in enumerate(io.StringIO(_text(data, file)), start=1):
        if len(rows) == limit or len(findings) == MAX_FINDINGS:
            break
        if not line.strip():
            continue
        try:
            row = _decode(line)
            rows.append(_object(row))
            lines.append(number)
        except _NOT_JSON as error:
            findings.append(_not_json(file, number, error, line))
    if findings:
        raise JobError(findings)
    return rows, lines


def _read_json(data: bytes, file: str, limit: int | None) -> Rows:
    text = _text(data, file)
    start = re.match(r'\s*(?:\{\s*"data"\s*:\s*)?\[', text)
    if start is None:
        message, hint = "holds no list of objects", 'write `[{…}, {…}]` or `{"data": [{…}, {…}]}`'
        raise JobError([Finding(code="data-format", message=message, hint=hint, file=file, line=1)])
    try:
        _decode(text)
        return _items(text, start.end(), limit)
    except _NOT_JSON as error:
        at = error.lineno if isinstance(error, json.JSONDecodeError) else getattr(error, "line", 1)
        raise JobError([_not_json(file, at, error, text.split("\n")[at - 1])]) from None


def _items(text: str, at: int, limit: int | None) -> Rows:
    """The items of a sound JSON list that begins before `at`, each with its line."""
    decoder = json.JSONDecoder()
    space = re.compile(r"[\s,]*")
    rows: list[Row] = []
    lines: list[int] = []
    line, counted = 1, 0
    while len(rows) != limit:
        at = _end(space.match(text, at))
        if text[at] == "]":
            break
        line, counted = line + text.count("\n", counted, at), at
        value, at = decoder.raw_decode(text, at)
        rows.append(_object(value, line))
        lines.append(line)
    return rows, lines


def _end(match: re.Match[str] | None) -> int:
    assert match is not None
    return match.end()


def _read_csv(data: bytes, file: str, limit: int | None) -> Rows:
    reader = csv.reader(io.StringIO(_text(data, file), newline=""), strict=True)
    cells: list[list[str]] = []
    lines: list[int] = []
    try:
        header = next(reader, list[str]())
        _check_header(header, file)
        line = reader.line_num + 1
        for row in reader:
            if len(cells) == limit:
                break
            if row:
                _check_width(row, header, file, line)
                cells.append(row)
                lines.append(line)
            line = reader.line_num + 1
    except csv.Error as error:
        hint = "check the quotes, or use jsonl"
        raise JobError(
            [Finding(code="data-format", message=f"no CSV: {error}", hint=hint, file=file, line=reader.line_num)]
        ) from None
    columns = [_typed([row[i] for row in cells]) for i in range(len(header))]
    return [dict(zip(header, row, strict=True)) for row in zip(*columns, strict=True)], lines


def _check_header(header: Sequence[str], file: str) -> None:
    twice = sorted({name for name in header if header.count(name) > 1})
    if not header or "" in header or twice:
        message = f"column {twice[0]!r} is there twice" if twice else "the first line must name every column"
        raise JobError([Finding(code="data-format", message=message, hint="name the columns", file=file, line=1)])


def _check_width(row: Sequence[str], header: Sequence[str], file: str, line: int) -> None:
    if len(row) != len(header):
        message = f"{len(row)} cells, and the header names {len(header)} columns"
        hint = "put a cell that contains a comma in double quotes"
        raise JobError([Finding(code="data-format", message=message, hint=hint, file=file, line=line)])


def _typed(cells: Sequence[str]) -> Sequence[Any]:
    """The column's cells as JSON values, None where empty, if all of them are; else the texts."""
    try:
        values = [_decode(cell) if cell.strip() else None for cell in cells]
    except (ValueError, RecursionError):
        return cells
    is_text = any(isinstance(value, str) for value in values) or all(value is None for value in values)
    return cells if is_text else values


def _read_parquet(data: bytes, file: str, limit: int | None) -> Rows:
    arrow: Any = import_module("pyarrow")  # without type stubs
    parquet: Any = import_module("pyarrow.parquet")
    try:
        table = parquet.read_table(io.BytesIO(data))
    except (arrow.ArrowException, OSError) as error:
        message = f"no parquet: {str(error).splitlines()[0]}"
        raise JobError([Finding(code="data-format", message=message, hint="write the file again", file=file)]) from None
    rows: list[Row] = (table if limit is None else table.slice(0, limit)).to_pylist()
    return rows, [0] * len(rows)


class _NotAnObject(ValueError):
    def __init__(self, message: str, line: int) -> None:
        super().__init__(message)
        self.line = line


_NOT_JSON = (ValueError, RecursionError)


def _text(data: bytes, file: str) -> str:
    if data.startswith((b"\xff\xfe", b"\xfe\xff")):
        message, line = "written as UTF-16", 1
    else:
        try:
            return data.decode("utf-8-sig")
        except UnicodeDecodeError as error:
            message = f"byte 0x{data[error.start]:02x} is not UTF-8"
            line = data.count(b"\n", 0, error.start) + 1
    raise JobError(
        [Finding(code="encoding", message=message, hint="save the file as UTF-8", file=file, line=line)]
    )  # fmt: skip


def _object(value: Any, line: int = 0) -> Row:
    if not isinstance(value, dict):
        raise _NotAnObject(f"a row must be an object, got {json.dumps(value)[:60]}", line)
    return {str(key): item for key, item in value.items()}  # pyright: ignore[reportUnknownVariableType, reportUnknownArgumentType]


def _not_json(file: str, line: int, error: Exception, text: str) -> Finding:
    column = error.colno if isinstance(error, json.JSONDecodeError) else 0
    match error:
        case RecursionError():
            message, hint = "nested too deep", "flatten the row"
        case _NotAnObject():
            message, hint = str(error), 'write one object a row, as `{"prompt": "…"}`'
        case json.JSONDecodeError():
            message, hint = f"no JSON: {error.msg}", "one JSON object a line" if file.endswith("l") else ""
        case _:
            message, hint = str(error), "use a finite number, text or null"
    return Finding(
        code="data-format",
        message=message,
        hint=hint,
        file=file,
        line=line,
        column=column,
        excerpt=text.rstrip()[:2000],
    )


READERS: Mapping[str, Callable[[bytes, str, int | None], Rows]] = {
    ".jsonl": _read_jsonl,
    ".ndjson": _read_jsonl,
    ".json": _read_json,
    ".csv": _read_csv,
    ".parquet": _read_parquet,
}
"""By the file's suffix: (bytes, name, limit) → rows and lines. Each raises JobError."""
