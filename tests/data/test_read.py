"""Every format gives the same rows in native types; a bad row is named by its line."""

import datetime
import hashlib
import json
import sys
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from runner.data.hub import HUB_ID
from runner.data.read import read
from runner.spec.errors import Finding, JobError

ROWS = [
    {"prompt": "a", "nums": [3, 5, 2], "target": 17, "share": 0.5, "ok": True, "gone": None},
    {"prompt": "b, “c”\nd", "nums": [1], "target": 2, "share": 1.0, "ok": False, "gone": "x"},
]
CSV = 'prompt,nums,target,share,ok,gone\na,"[3, 5, 2]",17,0.5,true,\n"b, “c”\nd",[1],2,1.0,false,x\n'


def parquet(folder: Path, columns: dict[str, Any]) -> Path:
    pq.write_table(pa.table(columns), folder / "data.parquet")
    return folder / "data.parquet"


def write(folder: Path, name: str, content: str | bytes) -> str:
    (folder / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    return name


def refused(folder: Path, name: str, limit: int | None = None) -> tuple[Finding, ...]:
    with pytest.raises(JobError) as caught:
        read(name, folder, limit)
    return caught.value.findings


def jsonl(rows: list[dict[str, Any]]) -> str:
    return "".join(json.dumps(row) + "\n" for row in rows)


@pytest.mark.parametrize(
    ("name", "content", "lines"),
    [
        ("d.jsonl", jsonl(ROWS), [1, 2]),
        ("d.jsonl", "\n" + jsonl(ROWS[:1]) + "\r\n  \n" + jsonl(ROWS[1:]).rstrip(), [2, 5]),
        ("d.jsonl", b"\xef\xbb\xbf" + jsonl(ROWS).encode(), [1, 2]),
        ("d.json", json.dumps(ROWS), [1, 1]),
        ("d.json", json.dumps(ROWS, indent=1), [2, 14]),
        ("d.json", json.dumps({"data": ROWS}), [1, 1]),
    ],
)
def test_json_in_every_form_gives_the_rows_as_they_are(
    tmp_path: Path, name: str, content: str | bytes, lines: list[int]
) -> None:
    table = read(write(tmp_path, name, content), tmp_path)
    assert (table.rows, table.lines) == (ROWS, lines)


def test_parquet_gives_native_types(tmp_path: Path) -> None:
    parquet(tmp_path, {name: [row[name] for row in ROWS] for name in ROWS[0]})
    assert read("data.parquet", tmp_path).rows == ROWS


def test_a_csv_column_is_json_where_every_filled_cell_is(tmp_path: Path) -> None:
    table = read(write(tmp_path, "d.csv", CSV), tmp_path)
    assert table.rows == [{**ROWS[0], "gone": ""}, ROWS[1]]
    assert table.lines == [2, 3]


def test_csv_text_that_looks_like_a_number_stays_text(tmp_path: Path) -> None:
    table = read(write(tmp_path, "d.csv", "zip,mixed,n,nan\n007,1,1,NaN\n123,x,,2\n"), tmp_path)
    assert table.rows == [
        {"zip": "007", "mixed": "1", "n": 1, "nan": "NaN"},
        {"zip": "123", "mixed": "x", "n": None, "nan": "2"},
    ]


def test_only_the_first_rows_are_read(tmp_path: Path) -> None:
    for name, content in (("d.jsonl", jsonl(ROWS) + "rubbish"), ("d.json", json.dumps(ROWS)), ("d.csv", CSV)):
        assert len(read(write(tmp_path, name, content), tmp_path, 1).rows) == 1


def test_the_hash_is_that_of_the_files_bytes(tmp_path: Path) -> None:
    write(tmp_path, "d.jsonl", '{"a": 1}\n')

    digest = hashlib.sha256(b'{"a": 1}\n').hexdigest()
    assert read("d.jsonl", tmp_path).sha256 == digest == read("d.jsonl", tmp_path, 1).sha256


@pytest.mark.parametrize(
    ("name", "content", "line", "message"),
    [
        ("d.jsonl", '{"a": 1}\n{"a": }\n', 2, "no JSON: Expecting value"),
        ("d.jsonl", '{"a": 1}\n\n[1]\n', 3, "a row must be an object, got [1]"),
        ("d.jsonl", '{"a": NaN}\n', 1, "NaN is no JSON value"),
        ("d.jsonl", '{"a": 1e999}\n', 1, "column `a`: inf is not finite"),
        ("d.jsonl", '{"a": "\\ud800"}\n', 1, "column `a`: half a surrogate pair is no character"),
        ("d.jsonl", '{"a": ' + "[" * 200_000 + "\n", 1, "nested too deep"),
        ("d.jsonl", '{"a": ' + "9" * 5000 + "}\n", 1, "Exceeds the limit"),
        ("d.jsonl", b'{"a": 1}\n{"a": "\xff"}\n', 2, "byte 0xff is not UTF-8"),
        ("d.jsonl", '{"a": 1}'.encode("utf-16"), 1, "written as UTF-16"),
        ("d.json", '{"a": 1}', 1, "holds no list of objects"),
        ("d.json", '[{"a": 1},\n{"a" 1}]', 2, "no JSON: Expecting ':' delimiter"),
        ("d.json", '[{"a": 1},\n\n3]', 3, "a row must be an object, got 3"),
        ("d.csv", "a,b\n1,2\n3\n", 3, "1 cells, and the header names 2 columns"),
        ("d.csv", "a,a\n1,2\n", 1, "column 'a' is there twice"),
        ("d.csv", "a,\n1,2\n", 1, "the first line must name every column"),
        ("d.csv", 'a,b\n"1,2\n', 2, "no CSV: unexpected end of data"),
        ("d.csv", "", 1, "the first line must name every column"),
        ("d.parquet", "rubbish", 0, "no parquet: "),
    ],
)
def test_a_bad_row_is_named_by_its_line_and_reason(
    tmp_path: Path, name: str, content: str | bytes, line: int, message: str
) -> None:
    (found,) = refused(tmp_path, write(tmp_path, name, content))
    assert (found.file, found.line) == (str(tmp_path / name), line)
    assert found.message.startswith(message)


def test_every_bad_row_is_named_up_to_a_point(tmp_path: Path) -> None:
    found = refused(tmp_path, write(tmp_path, "d.jsonl", '{"a": 1}\nx\n' * 30))
    assert [item.line for item in found] == list(range(2, 42, 2))


def test_dates_and_decimals_become_what_json_has(tmp_path: Path) -> None:
    parquet(tmp_path, {"d": [datetime.date(2024, 1, 2)], "n": [Decimal("2.50")], "i": [Decimal(3)]})
    assert read("data.parquet", tmp_path).rows == [{"d": "2024-01-02", "n": 2.5, "i": 3}]


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (b"\x89PNG", "row 0: column `x`: a value of type bytes is no JSON"),
        (float("nan"), "row 0: column `x`: nan is not"),
    ],
)
def test_what_json_cannot_hold_is_refused(tmp_path: Path, value: Any, message: str) -> None:
    parquet(tmp_path, {"x": [value]})
    assert refused(tmp_path, "data.parquet")[0].message.startswith(message)


MISSING: list[tuple[str, Callable[[Path], object], str, str]] = [
    ("dat.jsonl", lambda folder: (folder / "data.jsonl").touch(), "there is no file", "beside it: data.jsonl"),
    ("d.txt", lambda folder: (folder / "d.txt").touch(), "of a kind that can't be read", "kinds: .jsonl"),
    ("sub", lambda folder: (folder / "sub").mkdir(), "is a folder", "name the file in it"),
    ("./no/where.csv", lambda folder: None, "there is no file", "check the path"),
    ("x" * 5000 + ".csv", lambda folder: None, "there is no file", "check the path"),
    ("a\0b.csv", lambda folder: None, "there is no file", "check the path"),
]


@pytest.mark.parametrize(("name", "prepare", "message", "hint"), MISSING)
def test_a_path_that_leads_nowhere_is_explained(
    tmp_path: Path, name: str, prepare: Callable[[Path], object], message: str, hint: str
) -> None:
    prepare(tmp_path)
    (found,) = refused(tmp_path, name)
    assert found.field == "dataset.path"
    assert message in found.message
    assert found.hint.startswith(hint)


def test_a_hub_dataset_without_its_library_is_told_the_way_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "datasets", None)
    (found,) = refused(tmp_path, "openai/gsm8k:main@e53f048")
    assert found.field == "dataset.path"
    assert found.hint == "`uv pip install datasets`, or name a file beside the job"


@pytest.mark.parametrize(
    ("name", "parts"),
    [
        ("openai/gsm8k", ("openai/gsm8k", None, None)),
        ("openai/gsm8k:main", ("openai/gsm8k", "main", None)),
        ("gsm8k@refs/pr/1", ("gsm8k", None, "refs/pr/1")),
    ],
)
def test_a_hub_id_has_an_optional_config_and_revision(name: str, parts: tuple[str, ...]) -> None:
    match = HUB_ID.fullmatch(name)
    assert match is not None and match.groups() == parts
