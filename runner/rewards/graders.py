"""OpenAI's grader JSON → sources in the bundle, so that versions and isolation treat it as any other reward file."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from typing import Any, cast

from runner.rewards.styles import ADAPTERS

ATTRIBUTE = "grade"
PREFIX = "_grader_"
OURS = "_runner_grader.py"
"""What the generated files import."""

STUB = '''"""Written by the runner from the job's `rewards.{name}.grader`."""

{imports}from _runner_grader import made_of

GRADER = {grader!r}

{attribute} = made_of(GRADER, {{{sources}}})
'''


def file_of(name: str) -> str:
    """The generated file of the reward `name`."""
    plain = re.sub(r"\W", "_", name)
    return f"{PREFIX}{plain if plain == name else f'{plain}_{hashlib.sha256(name.encode()).hexdigest()[:6]}'}.py"


def sources_of(name: str, grader: Mapping[str, Any]) -> dict[str, bytes]:
    """Every generated file of a grader; each `python` grader's source is a module of its own."""
    module = file_of(name).removesuffix(".py")
    parts = grader["graders"] if grader["type"] == "multi" else {"": grader}
    written = {
        path: (f"{module}__{path or 'source'}", str(inner["source"]))
        for path, inner in cast("Mapping[str, Mapping[str, Any]]", parts).items()
        if inner["type"] == "python"
    }
    stub = STUB.format(
        name=name,
        imports="".join(f"import {part}\n" for part, _ in written.values()),
        grader=dict(grader),
        attribute=ATTRIBUTE,
        sources=", ".join(f"{path!r}: {part}" for path, (part, _) in written.items()),
    )
    return {
        f"{module}.py": stub.encode(),
        **{f"{part}.py": source.encode() for part, source in written.values()},
        OURS: (ADAPTERS / "grader.py").read_bytes(),
    }
