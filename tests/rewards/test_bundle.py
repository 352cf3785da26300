from __future__ import annotations

from pathlib import Path

import pytest

from runner.rewards.bundle import Bundle, ColumnRead, build, columns_read, read, write
from runner.spec.errors import Finding, JobError
from runner.spec.model import Reward
from tests.rewards.helpers import bundle_of

GOOD = "def score(prompt, completion, example):\n    return 1.0\n"


def findings_of(folder: Path, files: dict[str, str | bytes], fn: str = "rewards.py:score") -> list[Finding]:
    for name, source in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(source if isinstance(source, bytes) else source.encode())
    with pytest.raises(JobError) as caught:
        build({"score": Reward(fn=fn)}, folder)
    return list(caught.value.findings)


def test_a_version_is_named_by_its_section_and_its_sources(tmp_path: Path) -> None:
    version = bundle_of(tmp_path, GOOD)
    assert len(version.sha256) == 64
    assert version == bundle_of(tmp_path / "elsewhere", GOOD)
    assert version.sha256 != bundle_of(tmp_path, GOOD + "\n").sha256
    assert version.sha256 != bundle_of(tmp_path, GOOD, weight=2.0).sha256
    assert version.sha256 != bundle_of(tmp_path, GOOD, timeout=3.0).sha256


def test_functions_stand_in_the_jobs_order(tmp_path: Path) -> None:
    (tmp_path / "rewards.py").write_text(GOOD)
    rewards = {
        "z": Reward(fn="rewards.py:score", weight=0.5, trusted=True),
        "a": Reward(fn="./rewards.py:score", timeout=2.0, on_error="zero"),
    }
    functions = build(rewards, tmp_path).functions
    assert [(f.name, f.file, f.attribute, f.weight, f.trusted, f.timeout, f.on_error) for f in functions] == [
        ("z", "rewards.py", "score", 0.5, True, 10.0, "mask"),
        ("a", "rewards.py", "score", 1.0, False, 2.0, "zero"),
    ]


def test_modules_of_the_folder_belong_to_the_version_transitively(tmp_path: Path) -> None:
    files = {
        "parsing.py": "import json\nimport numbers_\n",
        "numbers_.py": "",
        "unused.py": "",
        "pkg/__init__.py": "from . import inner\n",
        "pkg/inner.py": "from .deep.low import x\n",
        "pkg/deep/low.py": "x = 1\n",
        "pkg/unused.py": "",
        "sub/rewards.py": "import parsing\ndef score(p, c, e):\n    from pkg import anything\n",
        "sub/__init__.py": "",
    }
    for name, source in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(source)
    sources = build({"score": Reward(fn="sub/rewards.py:score")}, tmp_path).sources
    assert sorted(sources) == [
        "numbers_.py",
        "parsing.py",
        "pkg/__init__.py",
        "pkg/deep/low.py",
        "pkg/inner.py",
        "sub/__init__.py",
        "sub/rewards.py",
    ]


def test_a_version_is_written_once_and_read_back_as_it_was(tmp_path: Path) -> None:
    version = bundle_of(tmp_path / "job", GOOD)
    folder = write(version, tmp_path / "rewards")
    assert folder == tmp_path / "rewards" / version.sha256 == write(version, tmp_path / "rewards")
    assert read(folder) == Bundle(sha256=version.sha256, sources=version.sources, functions=version.functions)
    assert sorted(path.name for path in (tmp_path / "rewards").iterdir()) == [version.sha256]


def test_a_version_that_was_changed_on_the_disk_is_refused(tmp_path: Path) -> None:
    folder = write(bundle_of(tmp_path / "job", GOOD), tmp_path / "rewards")
    (folder / "rewards.py").write_text(GOOD + "# later\n")
    with pytest.raises(ValueError, match="its files have changed since it was written"):
        read(folder)


def test_a_syntax_error_is_found_with_its_line_in_an_imported_file_too(tmp_path: Path) -> None:
    files = {"rewards.py": "import helper\n" + GOOD, "helper.py": "x = 1\n\ndef broken(:\n"}
    (finding,) = findings_of(tmp_path, files)
    assert (finding.code, finding.file, finding.line) == ("reward-syntax", str(tmp_path / "helper.py"), 3)
    assert finding.message == "helper.py is no valid Python: invalid syntax"


def test_a_file_with_nul_bytes_is_no_python(tmp_path: Path) -> None:
    (finding,) = findings_of(tmp_path, {"rewards.py": b"x = 1\0\n"})
    assert finding.code == "reward-syntax"


@pytest.mark.parametrize(
    ("fn", "message"),
    [
        ("absent.py:score", "absent.py does not exist"),
        ("../rewards.py:score", "../rewards.py lies outside the job's folder"),
        ("/rewards.py:score", "/rewards.py lies outside the job's folder"),
        ("my.rewards.py:score", "my.rewards.py has a dot in its name"),
        ("json.py:score", "json.py is named like a module of Python's own"),
    ],
)
def test_a_file_that_cant_be_used_is_named(tmp_path: Path, fn: str, message: str) -> None:
    (finding,) = findings_of(tmp_path, {}, fn)
    assert (finding.code, finding.message) == ("reward-file", message)


def test_a_function_that_is_not_there_is_missing_with_the_nearest_name(tmp_path: Path) -> None:
    (finding,) = findings_of(tmp_path, {"rewards.py": GOOD}, "rewards.py:scores")
    assert (finding.code, finding.message, finding.hint) == (
        "reward-missing",
        "rewards.py defines no scores",
        "did you mean `score`?",
    )


@pytest.mark.parametrize(
    ("parameters", "problem"),
    [
        ("", "takes 0 parameters ()"),
        ("completion", "takes 1 parameter (completion)"),
        ("prompt, completion", "takes 2 parameters (prompt, completion)"),
        ("a, b, c, d", "takes 4 parameters (a, b, c, d)"),
        ("a, b, ctx", "takes 3 parameters (a, b, ctx)"),
        ("a, b, c, *, d", "needs a keyword that nobody gives: d"),
    ],
)
def test_a_function_of_other_parameters_is_refused(tmp_path: Path, parameters: str, problem: str) -> None:
    (finding,) = findings_of(tmp_path, {"rewards.py": f"\ndef score({parameters}):\n    return 1\n"})
    assert (finding.code, finding.message, finding.line) == ("reward-signature", f"score {problem}", 2)


@pytest.mark.parametrize(
    "source",
    [
        "def score(p, c, e, ctx): ...",
        "def score(p, c, e, *, ctx): ...",
        "def score(p, c, e, scale=2): ...",
        "def score(*args): ...",
        "async def score(prompt, completion, example): ...",
        "from helpers import score",
        "from helpers import *",
        "score = lambda p, c, e: 1",
        "if True:\n    def score(p, c, e): ...",
        "import functools\n@functools.cache\ndef score(*, anything): ...",
    ],
)
def test_what_may_be_a_reward_passes(tmp_path: Path, source: str) -> None:
    assert bundle_of(tmp_path, source).functions[0].attribute == "score"


def test_every_finding_comes_at_once(tmp_path: Path) -> None:
    (tmp_path / "rewards.py").write_text(GOOD)
    rewards = {"a": Reward(fn="rewards.py:nothing"), "b": Reward(fn="absent.py:x"), "c": Reward(fn="rewards.py:score")}
    with pytest.raises(JobError) as caught:
        build(rewards, tmp_path)
    assert [finding.code for finding in caught.value.findings] == ["reward-missing", "reward-file"]


def test_columns_are_found_by_the_third_parameters_name(tmp_path: Path) -> None:
    source = """
    def score(prompt, completion, row, ctx=None):
        a = row["target"]
        b = row.get("hint", "")
        if "extra" in row:
            c = row["extra"]
        try:
            d = row["maybe"]
        except KeyError:
            d = 0
        row["own"] = 1
        e = row["own"] + example["other"] + row[a]
    """
    assert columns_read(bundle_of(tmp_path, source)) == [
        ColumnRead("target", "rewards.py", 3, True),
        ColumnRead("hint", "rewards.py", 4, False),
        ColumnRead("extra", "rewards.py", 6, False),
        ColumnRead("maybe", "rewards.py", 8, False),
        ColumnRead("own", "rewards.py", 12, False),
    ]
