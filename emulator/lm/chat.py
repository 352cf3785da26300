"""Chat messages as the text the model sees, rendered from the folder's own template the way transformers does it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import cache
from typing import Any, NoReturn

from jinja2 import Template, TemplateError
from jinja2.ext import loopcontrols
from jinja2.sandbox import ImmutableSandboxedEnvironment

from runner.data.examples import Message

_TAG = "<!-- the turn goes on here -->"


def render(template: str, messages: Sequence[Message], **tokens: str) -> str:
    """The messages as one text. A last assistant message is a prefilled turn: the text ends where its content ends.

    Otherwise the template adds its generation prompt. `tokens` are the special tokens a template may name
    (`eos_token` …). Raises ValueError when the template refuses the messages or leaves out a prefilled turn.
    """
    turns: list[Message] = [{"role": message["role"], "content": message["content"]} for message in messages]
    prefilled = bool(turns) and turns[-1]["role"] == "assistant"
    if prefilled:
        turns[-1]["content"] += _TAG
    try:
        text = _compile(template).render(messages=turns, add_generation_prompt=not prefilled, **tokens)
    except TemplateError as error:
        raise ValueError(f"the model's chat template refuses these messages: {error}") from None
    return _before_tag(text) if prefilled else text


def _before_tag(text: str) -> str:
    before, tag, _ = text.rpartition(_TAG)
    if not tag:
        raise ValueError("the model's chat template leaves out the prefilled assistant turn; use a job without one")
    return before


@cache
def _compile(template: str) -> Template:
    environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True, extensions=[loopcontrols])
    environment.filters["tojson"] = _to_json
    return environment.from_string(template, globals={"raise_exception": _raise})


def _to_json(value: Any, indent: int | None = None) -> str:
    """jinja2's own filter escapes HTML; a prompt must not be."""
    return json.dumps(value, ensure_ascii=False, indent=indent)


def _raise(message: str) -> NoReturn:
    raise TemplateError(message)
