"""The app itself: help, the reference in the README, defects, and the verbs that need no run."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import typer

from runner.cli import boundary, reference
from runner.cli.app import VERBS, Verbs, build
from runner.store.errors import StoreError
from tests.cli.kit import ROOT, as_json, cli


def test_every_verb_says_in_its_help_what_the_list_says_of_it() -> None:
    group = typer.main.get_command(build())
    assert isinstance(group, Verbs)
    for name, (_, text) in VERBS.items():
        said = " ".join((group.get_command(None, name).help or "").split())
        assert said.startswith(text), name


def test_the_readme_holds_the_reference() -> None:
    readme = (ROOT / "README.md").read_text()
    assert reference.BEGIN in readme and reference.END in readme
    assert reference.with_reference(readme) == readme, "run `python -m runner.cli.reference`"


def test_the_reference_names_every_verb_and_option() -> None:
    text = reference.reference()
    for verb in VERBS:
        assert f"`runner {verb} " in text or f"`runner {verb}`" in text
    assert "`--exit-code`" in text and "`runner db rebuild`" in text


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (StoreError("no run 'x'"), 2),
        (KeyboardInterrupt(), 130),
        (ValueError("\x1b[2Jodd"), 1),
    ],
)
def test_an_exception_becomes_a_message_and_an_exit_code(
    error: BaseException, code: int, capsys: pytest.CaptureFixture[str]
) -> None:
    def verb() -> None:
        raise error

    with pytest.raises(typer.Exit) as ended:
        boundary.guarded(verb)()
    told = capsys.readouterr().err
    assert ended.value.exit_code == code
    assert "\x1b" not in told and "Traceback (most recent" not in told


def test_a_defect_says_where_its_traceback_is(capsys: pytest.CaptureFixture[str]) -> None:
    def verb() -> None:
        raise ZeroDivisionError("oh")

    with pytest.raises(typer.Exit):
        boundary.guarded(verb)()
    told = capsys.readouterr().err
    assert "defect: ZeroDivisionError: oh" in told
    path = Path(told.rsplit("Traceback: ", 1)[1].strip())
    assert "ZeroDivisionError" in path.read_text()
    path.unlink()


def test_an_unknown_verb_or_option_is_a_usage_error(tmp_path: Path) -> None:
    assert cli("trian", cwd=tmp_path).returncode == 2
    assert cli("ls", "--nope", cwd=tmp_path).returncode == 2
    assert cli("ls", "--home", "nowhere", cwd=tmp_path).returncode == 2


def test_explain_tells_meaning_type_and_default(tmp_path: Path) -> None:
    shown = cli("explain", "grpo.num_generations", cwd=tmp_path).stdout
    assert shown.startswith("grpo.num_generations  integer ≥ 2, default 8\n")
    assert "grpo  " in cli("explain", cwd=tmp_path).stdout
    assert "on_error" in cli("explain", "rewards", cwd=tmp_path).stdout
    wrong = cli("explain", "beta", cwd=tmp_path)
    assert wrong.returncode == 2
    assert "did you mean `grpo.beta`?" in wrong.stderr


def test_schema_prints_json_schema(tmp_path: Path) -> None:
    assert "grpo" in as_json(cli("schema", cwd=tmp_path))["properties"]
    assert "batch_scored" in json.dumps(as_json(cli("schema", "event", cwd=tmp_path)))


def test_doctor_tells_versions_and_verdicts(tmp_path: Path) -> None:
    done = cli("doctor", "--json", cwd=tmp_path)
    found = as_json(done)
    assert done.returncode == 0
    assert {check["name"] for check in found["checks"]} >= {"sqlite", "gpu", "emulate", "run", "home"}
    assert found["versions"]["python"].startswith("3.")
