"""Arguments and options that several verbs share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

RunArgument = Annotated[
    str, typer.Argument(metavar="RUN", help="Id of a run, the start of one, or a job's name for its latest run.")
]
JobArgument = Annotated[
    str, typer.Argument(metavar="JOB", help="A job.yaml, the folder it is in, or a job's name in jobs/.")
]
HomeOption = Annotated[
    Path | None,
    typer.Option(
        "--home",
        metavar="DIR",
        exists=True,
        file_okay=False,
        help="Folder that holds jobs/ and the recorded runs. Default: found from the job or here.",
    ),
]
JsonOption = Annotated[bool, typer.Option("--json", help="The result as JSON on stdout.")]
SetOption = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="PATH=VALUE", help="Changes a field for this run, as grpo.steps=20. Repeatable."),
]
DetachOption = Annotated[
    bool, typer.Option("-d", "--detach", help="Returns at once; the run goes on without this terminal.")
]
DeviceOption = Annotated[
    Literal["gpu", "cpu"], typer.Option(help="cpu insists on training the real model without a GPU, slowly.")
]
