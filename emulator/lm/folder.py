"""What a Hugging Face model folder says beside the weights: end tokens, chat template, special tokens."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

FILES = (
    "config.json",
    "generation_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "chat_template.jinja",
)
"""What a saved folder takes over from the one the policy was made from."""


def end_tokens(folder: Path) -> frozenset[int]:
    """Ids that end a completion, from `generation_config.json` and `config.json`."""
    found: set[int] = set()
    for name in ("generation_config.json", "config.json"):
        value = read_json(folder / name).get("eos_token_id") if (folder / name).exists() else None
        ids = cast(list[int | None], value if isinstance(value, list) else [value])
        found |= {token for token in ids if token is not None}
    if not found:
        raise ValueError(f"{folder}: no eos_token_id in generation_config.json or config.json; completions never end")
    return frozenset(found)


def chat_template(folder: Path, settings: Mapping[str, Any]) -> str:
    path = folder / "chat_template.jinja"
    template = path.read_text() if path.exists() else settings.get("chat_template")
    if not isinstance(template, str):
        raise ValueError(f"{folder}: no chat template; set `dataset.format: text` or use a model that has one")
    return template


def special_tokens(settings: Mapping[str, Any]) -> dict[str, str]:
    """The tokens a chat template may name, by name; tokenizer_config.json gives each as text or as an object."""
    found = {name: settings.get(name) for name in ("bos_token", "eos_token", "pad_token", "unk_token")}
    return {name: token if isinstance(token, str) else token["content"] for name, token in found.items() if token}


def read_json(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text())
