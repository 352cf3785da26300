"""A dataset file, or a dataset of the hub → rows of plain values."""

from __future__ import annotations

import datetime
import hashlib
import json
import math
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from decimal import Decimal
from itertools import islice
from pathlib import Path
from typing import Any

from runner.data.formats import MAX_FINDINGS, READERS, Row
from runner.data.hub import HUB_ID, read_hub
from runner.spec.errors import Finding, JobError


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """A dataset as read."""

    rows: Sequence[Row]
    lines: Sequence[int]
    """Line each row begins in, from 1; 0 where the format has no lines."""
    file: str
    sha256: str
    """Of the file's bytes; of the rows as JSON for a dataset of the hub."""

    def finding(self, row: int, code: str, message: str, hint: str = "") -> Finding:
        where = "" if self.lines[row] else f"row {row}: "
        return Finding(code=code, message=where + message, hint=hint, file=self.file, line=self.lines[row])


def read(path: str, folder: Path, limit: int | None = None) -> Table:
    """Reads the first `limit` rows of a dataset; `path` is relative to `folder`. Raises JobError."""
    file = folder / path
    if not os.path.exists(file) and HUB_ID.fullmatch(path) and file.suffix.lower() not in READERS:
        return _from_hub(path, limit)
    reader = READERS.get(file.suffix.lower())
    if reader is None or not os.path.isfile(file):
        raise JobError([_not_readable(file)])
    data = _bytes(file)
    rows, lines = reader(data, str(file), limit)
    table = Table(rows=rows, lines=lines, file=str(file), sha256=hashlib.sha256(data).hexdigest())
    return _plain_table(table)


def _bytes(file: Path) -> bytes:
    try:
        return file.read_bytes()
    except OSError as error:
        raise JobError([_about_path(f"{file} can't be read: {error.strerror}", "check its permissions")]) from None


def _from_hub(name: str, limit: int | None) -> Table:
    rows = read_hub(name, limit)
    table = _plain_table(Table(rows=rows, lines=[0] * len(rows), file=name, sha256=""))
    text = json.dumps(table.rows, sort_keys=True, ensure_ascii=False).encode()
    return Table(rows=table.rows, lines=table.lines, file=name, sha256=hashlib.sha256(text).hexdigest())


def _about_path(message: str, hint: str) -> Finding:
    return Finding(code="dataset", message=message, hint=hint, field="dataset.path")


def _not_readable(file: Path) -> Finding:
    if os.path.isfile(file):
        return _about_path(f"{file} is of a kind that can't be read", f"kinds: {', '.join(READERS)}")
    if os.path.isdir(file):
        return _about_path(f"{file} is a folder", "name the file in it")
    names = os.listdir(file.parent) if os.path.isdir(file.parent) else []
    beside = sorted(name for name in names if Path(name).suffix.lower() in READERS)[:8]
    return _about_path(f"there is no file {file}", f"beside it: {', '.join(beside)}" if beside else "check the path")


def _plain_table(table: Table) -> Table:
    rows: list[Row] = []
    findings: list[Finding] = []
    for i, row in enumerate(table.rows):
        try:
            rows.append({name: _plain(value) for name, value in row.items()})
        except ValueError:
            findings += _refused(table, i)
        if len(findings) >= MAX_FINDINGS:
            break
    if findings:
        raise JobError(findings[:MAX_FINDINGS])
    return Table(rows=rows, lines=table.lines, file=table.file, sha256=table.sha256)


def _refused(table: Table, row: int) -> Iterable[Finding]:
    for name, value in islice(table.rows[row].items(), 1000):
        try:
            _plain(value)
        except ValueError as error:
            hint = "use text, a finite number, true, false or null"
            yield table.finding(row, "data-value", f"column `{name}`: {error}", hint)


def _plain(value: Any) -> Any:
    """The value as JSON has it: dates as ISO text, decimals as numbers. Raises ValueError for what JSON can't hold."""
    if value is None or isinstance(value, int):
        return value
    if isinstance(value, str):
        return value if value.isascii() else _text_value(value)
    match value:
        case float() if math.isfinite(value):
            return value
        case Decimal() if value.is_finite():
            return int(value) if value == value.to_integral_value() else float(value)
        case datetime.date() | datetime.time():
            return value.isoformat()
        case list() | tuple():
            return [_plain(item) for item in value]  # pyright: ignore[reportUnknownVariableType]
        case dict():
            return {str(key): _plain(item) for key, item in value.items()}  # pyright: ignore[reportUnknownVariableType, reportUnknownArgumentType]
        case float() | Decimal():
            raise ValueError(f"{value} is not finite")
        case _:
            raise ValueError(f"a value of type {type(value).__name__} is no JSON")


def _text_value(value: str) -> str:
    try:
        value.encode()
    except UnicodeEncodeError:
        raise ValueError("half a surrogate pair is no character") from None
    return value
