"""A dataset of the Hugging Face hub → rows. Needs the `datasets` library, which the core install leaves out."""

from __future__ import annotations

import re
from itertools import islice
from typing import Any

from runner.spec.errors import Finding, JobError

HUB_ID = re.compile(
    r"(?P<id>[A-Za-z0-9][\w.-]*(?:/[A-Za-z0-9][\w.-]*)?)(?::(?P<config>[\w.-]+))?(?:@(?P<revision>[\w./-]+))?"
)
"""`owner/name`, with optional `:config` and `@revision`."""


def read_hub(name: str, limit: int | None) -> list[dict[str, Any]]:
    """The rows of the dataset's `train` split. Raises JobError with the way out."""
    match = HUB_ID.fullmatch(name)
    assert match is not None
    try:
        from datasets import load_dataset  # pyright: ignore
    except ImportError:
        message = f"there is no file {name!r}, and a dataset of the hub needs the `datasets` library"
        raise JobError([_finding(message, "`uv pip install datasets`, or name a file beside the job")]) from None
    try:
        rows: Any = load_dataset(match["id"], match["config"], revision=match["revision"], split="train")  # pyright: ignore
        return [dict(row) for row in islice(rows, limit)]
    except (OSError, ValueError) as error:  # offline, no such dataset, or a config must be chosen
        message = f"no file beside the job, and the hub gave no dataset {name!r}: {str(error).splitlines()[0][:300]}"
        raise JobError([_finding(message, "check the name (`owner/name:config@revision`) and the network")]) from None


def _finding(message: str, hint: str) -> Finding:
    return Finding(code="dataset", message=message, hint=hint, field="dataset.path")
