"""The values of a job's secrets: found when they are needed, by the process that starts the reward workers.

They reach the workers in their environment, and nothing else: no file, record, log or command line of ours has them.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from runner.spec.errors import Finding, JobError
from runner.spec.sandbox import Secret

SHORTEST = 6
"""Characters: a shorter value can't be taken out of texts without taking words along."""


def resolve(secrets: Mapping[str, Secret], folder: Path) -> dict[str, str]:
    """The values by name. Relative files are the folder's. Raises JobError with every secret that isn't there."""
    values = {name: _value(secret, folder) for name, secret in secrets.items()}
    findings = [
        finding for name, value in values.items() if (finding := _problem(name, secrets[name], value)) is not None
    ]
    if findings:
        raise JobError(findings)
    return {name: value for name, value in values.items() if value is not None}


def _value(secret: Secret, folder: Path) -> str | None:
    if secret.env is not None:
        return os.environ.get(secret.env)
    try:
        return (folder / Path(secret.file or "").expanduser()).read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError):
        return None


def _problem(name: str, secret: Secret, value: str | None) -> Finding | None:
    place = f"the environment variable {secret.env}" if secret.env else f"the file {secret.file}"
    if value is None:
        way_out = f"export {secret.env}=… before starting" if secret.env else "write the value there, and nothing else"
        message, hint = f"the secret {name} is not there: {place} can't be read", way_out
    elif "\0" in value or len(value) < SHORTEST:
        message = f"the secret {name} is no secret: {place} has fewer than {SHORTEST} characters, or a zero byte"
        hint = "a short value can't be kept out of texts; use `sandbox: {env: [NAME]}` for what isn't secret"
    else:
        return None
    return Finding(code="secret", message=message, hint=hint, field=f"secrets.{name}")
