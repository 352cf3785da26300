"""`runner init`: a job that works, to change into one's own. Nothing that exists is overwritten."""

from __future__ import annotations

import json as jsonlib
from pathlib import Path
from typing import Annotated, Literal

import typer

from runner.cli.options import JsonOption
from runner.cli.out import note, say, say_json
from runner.cli.text import clean_line
from runner.spec.errors import Finding, JobError

PACKAGE = Path(__file__).parent.parent
MODELINE = "# yaml-language-server: $schema="
SCHEMA = "schemas/job.schema.json"
WORKFLOW = ".github/workflows/runner.yml"


def init(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Where jobs/ is or shall be.")] = Path(),
    template: Annotated[
        Literal["countdown", "own-data", "predibase"],
        typer.Option(help="countdown: the tutorial. own-data: questions, answers. predibase: its defaults."),
    ] = "countdown",
    json: JsonOption = False,
) -> None:
    """Writes a job to start from. With job.yaml come rewards, sample data, an editor schema and a workflow for CI."""
    job = folder / "jobs" / template
    # pip compiles what it installs: beside a template's files there may be a __pycache__.
    files = {
        job / path.name: _adapted(path, template)
        for path in sorted(template_folder(template).iterdir())
        if path.is_file()
    }
    _refuse_existing(list(files))
    shared = {folder / WORKFLOW: (PACKAGE / "templates" / "workflow.yml").read_text(), folder / SCHEMA: _schema()}
    kept = [path for path in shared if path.exists()]
    written = files | {path: text for path, text in shared.items() if path not in kept}
    for path, text in written.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("x") as file:
            file.write(text)
    if json:
        say_json({"written": [str(path) for path in written], "kept": [str(path) for path in kept]})
        return
    for path in written:
        say(clean_line(str(path)))
    for path in kept:
        note(f"kept as it is: {clean_line(str(path))}")
    _next(folder, template)


def template_folder(name: str) -> Path:
    """In the installed package; the countdown job of a checkout is the shipped example itself."""
    packaged = PACKAGE / "templates" / name
    return packaged if packaged.is_dir() else PACKAGE.parent / "jobs" / "examples" / name


def _adapted(path: Path, template: str) -> str:
    """A template's file with its paths as they are in the new place."""
    lines = path.read_text().replace(f"jobs/examples/{template}", f"jobs/{template}").splitlines(keepends=True)
    if lines and lines[0].startswith(MODELINE):
        lines[0] = f"{MODELINE}../../{SCHEMA}\n"
    return "".join(lines)


def _schema() -> str:
    from runner.spec.schema import job_schema

    return jsonlib.dumps(job_schema(), indent=2) + "\n"


def _refuse_existing(paths: list[Path]) -> None:
    there = [path for path in paths if path.exists()]
    if there:
        hint = "remove it, or choose another folder or template"
        raise JobError(
            [Finding(code="exists", message=f"{path} is there already", hint=hint, file=str(path)) for path in there]
        )


def _next(folder: Path, template: str) -> None:
    where = "" if folder == Path() else f"cd {clean_line(str(folder))} && "
    note(f"next: {where}runner emulate jobs/{template}")
