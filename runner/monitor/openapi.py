"""`python -m runner.monitor.openapi` writes `schemas/openapi.json`; a test fails when it has drifted."""

from __future__ import annotations

import json
from pathlib import Path

from runner.monitor.app import build
from runner.monitor.settings import Settings


def openapi() -> str:
    """The API's description, as text."""
    _, app = build(Settings(home=Path(), token=None))
    return json.dumps(app.openapi(), indent=2, ensure_ascii=False) + "\n"


if __name__ == "__main__":
    (Path(__file__).parents[2] / "schemas" / "openapi.json").write_text(openapi(), encoding="utf-8")
