"""Prompt templates: `{column}` stands for the row's value, as Python would format it; `{{` and `}}` for braces.

Nothing else: no attributes, indices, conversions or format specs, so a dataset's text can't reach into objects.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Collection, Mapping
from typing import Any

from runner.spec.errors import Finding

_PIECE = re.compile(r"\{\{|\}\}|\{([^{}]*)\}|[{}]|[^{}]+")
_BRACES = {"{{": "{", "}}": "}"}


class Template:
    """A parsed template; `columns` are the names it uses."""

    def __init__(self, text: str) -> None:
        self._pieces = [(match[0], match[1]) for match in _PIECE.finditer(text)]
        self.columns = tuple(dict.fromkeys(name for _, name in self._pieces if name is not None))

    def findings(self, known: Collection[str]) -> list[Finding]:
        """What is wrong with the template for a dataset of the `known` columns."""
        stray = any(text in ("{", "}") for text, _ in self._pieces)
        findings = [_finding("a single brace", "write `{{` or `}}` for a brace in the text")] if stray else []
        return findings + [_unknown(name, known) for name in self.columns if name not in known]

    def render(self, row: Mapping[str, Any]) -> str:
        """Raises KeyError with the column that the row lacks, or has as null."""
        return "".join(_BRACES.get(text, text) if name is None else _value(row, name) for text, name in self._pieces)


def _value(row: Mapping[str, Any], name: str) -> str:
    value = row.get(name)
    if value is None:
        raise KeyError(name)
    return str(value)


def _unknown(name: str, known: Collection[str]) -> Finding:
    near = difflib.get_close_matches(name, known, n=1)
    if near:
        return _finding(f"{{{name}}}: there is no column `{name}`", f"did you mean `{{{near[0]}}}`?")
    hint = f"columns: {', '.join(known)}; write `{{{{` and `}}}}` for braces in the text"
    return _finding(f"{{{name}}}: there is no column `{name}`", hint)


def _finding(message: str, hint: str) -> Finding:
    return Finding(code="template", message=message, hint=hint, field="dataset.prompt")
