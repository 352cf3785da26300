"""The way out of a wrong field name or value: what the person most likely meant."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from typing import Any, cast

from runner.spec.document import DataPath, dotted
from runner.spec.schema import fields, job_schema, node_at, resolve

ELSEWHERE = {
    "actor_rollout_ref": "the sections here are `grpo:`, `lora:` and `evaluation:`",
    "adam_beta": "grpo.adam_beta1",
    "algorithm": "grpo",
    "apply_chat_template": "write `format: chat` in `dataset:`",
    "backend": "the verb decides: `runner run` trains on a GPU, `runner emulate` on a CPU",
    "base_model": "model",
    "base_model_name_or_path": "model",
    "batch_size": "grpo.prompts_per_step",
    "clip_range": "grpo.epsilon",
    "clip_ratio": "grpo.epsilon",
    "clip_ratio_high": "grpo.epsilon_high",
    "clip_ratio_low": "grpo.epsilon",
    "cliprange": "grpo.epsilon",
    "data": "dataset",
    "dataset_name": "dataset.path",
    "device": "the verb decides: `runner run` trains on a GPU, `runner emulate` on a CPU",
    "early_stopping": "stop",
    "effective_batch_size": "grpo.prompts_per_step",
    "enable_early_stopping": "stop",
    "enabled": "a section is on when it is there; to turn it off, remove it",
    "epochs": "give the number of steps, `grpo.steps`",
    "eval": "evaluation",
    "eval_steps": "evaluation.every",
    "file": "write `fn: file.py:function`",
    "function": "write `fn: file.py:function`",
    "gradient_accumulation_steps": "give `grpo.prompts_per_step`; `grpo.micro_batch` pins the forward pass",
    "group_size": "grpo.num_generations",
    "kl_beta": "grpo.beta",
    "kl_coef": "grpo.beta",
    "kl_loss_coef": "grpo.beta",
    "logging_steps": "every step is recorded",
    "lora_alpha": "lora.alpha",
    "lora_dropout": "lora.dropout",
    "lora_r": "lora.rank",
    "lora_rank": "lora.rank",
    "lr": "grpo.learning_rate",
    "lr_scheduler": "grpo.lr_scheduler_type",
    "max_grad_value": "grpo.max_grad_norm",
    "max_new_tokens": "grpo.max_completion_length",
    "max_response_length": "grpo.max_completion_length",
    "max_steps": "grpo.steps",
    "max_tokens": "grpo.max_completion_length",
    "model_id": "model",
    "model_name": "model",
    "model_name_or_path": "model",
    "n": "grpo.num_generations",
    "num_train_epochs": "give the number of steps, `grpo.steps`",
    "optimizer": "grpo.optim",
    "output_dir": "runs are kept in the runner's home; nothing to set",
    "path": "write `fn: file.py:function` for a reward, `path:` in `dataset:` for data",
    "per_device_train_batch_size": "give `grpo.prompts_per_step`; `grpo.micro_batch` pins the forward pass",
    "ppo_mini_batch_size": "grpo.prompts_per_step",
    "r": "lora.rank",
    "random_seed": "seed",
    "report_to": "everything is recorded in the runner's own database",
    "reward_functions": "rewards",
    "reward_fns": "rewards",
    "reward_funcs": "rewards",
    "reward_weights": "give each reward its `weight:`",
    "rewardFns": "rewards",
    "rollout": "grpo",
    "rollouts_per_prompt": "grpo.num_generations",
    "sampling_params": "write `temperature`, `top_p`, `top_k` and `max_completion_length` in `grpo:`",
    "save_steps": "checkpoints.every",
    "save_total_limit": "checkpoints.keep",
    "steps_per_generation": "grpo.generate_every",
    "test_freq": "evaluation.every",
    "total_steps": "grpo.steps",
    "train_batch_size": "grpo.prompts_per_step",
    "train_files": "dataset.path",
    "train_steps": "grpo.steps",
    "trainer": "grpo",
    "training": "grpo",
    "use_vllm": "grpo.vllm",
    "warmup_steps": "give a share of the steps, `grpo.warmup_ratio`",
}
"""Names of Predibase, TRL, verl and habit → our field (a dotted name), or what to do (a sentence)."""


def for_unknown(path: DataPath, value: Any) -> str:
    """The hint for a field that does not exist."""
    section, name = path[:-1], str(path[-1])
    here = list(fields(node_at(section) or {}))
    if name not in ELSEWHERE and (near := nearest(name, here)):
        return f"did you mean `{near}`?"
    if homes := _homes(name, section):
        return f"it belongs {homes}"
    if name in ELSEWHERE:
        return " · ".join([_meant(name), *_children(value)])
    if near := nearest(name, [field for field in _all_fields() if field not in here]):
        return f"did you mean `{near}`? It belongs {_homes(near, section)}"
    where = f"`{dotted(section)}:`" if section else "a job"
    return f"fields of {where}: {', '.join(here)}"


def nearest(name: str, known: Iterable[str]) -> str | None:
    """The known name closest to a mistyped one."""
    folded = {candidate.lower().replace("-", "_"): candidate for candidate in known}
    found = difflib.get_close_matches(name.lower().replace("-", "_"), folded, n=1, cutoff=0.7)
    return folded[found[0]] if found else None


def for_type(path: DataPath, value: Any) -> str:
    """The hint for a value of the wrong type, from the kind of field and the text written."""
    node = node_at(path) or {}
    kind = node.get("type")
    if kind == "object" or "properties" in node:
        return f"write a section with fields such as {', '.join(f'`{name}:`' for name in list(fields(node))[:3])}"
    if kind == "array":
        return "a list: `[…]`"
    if kind == "boolean":
        return "write true or false"
    if kind in ("integer", "number"):
        return _as_number(value, whole=kind == "integer")
    if isinstance(value, Mapping):
        return "put the text in quotes; a plain `{` begins a section"
    return f"put it in quotes: '{value}'" if isinstance(value, (bool, int, float)) else "a text is expected"


def _as_number(value: Any, *, whole: bool) -> str:
    plain = str(value).replace("_", "").replace(",", "").strip()
    meant = "" if isinstance(value, bool) else _number(plain, whole=whole)
    if not meant:
        return "write a whole number" if whole else "write a number"
    return f"write {meant}" + (", without quotes" if value == plain else "")


def _number(text: str, *, whole: bool) -> str:
    """The number in the text as it should be written; empty where there is none."""
    try:
        number = float(text)
    except ValueError:
        return ""
    if not whole:
        return text
    return f"{number:.0f}" if number.is_integer() and abs(number) < 2**53 else ""


def _meant(name: str) -> str:
    target = ELSEWHERE[name]
    return f"here it is `{target}`" if node_at(tuple(target.split("."))) else target


def _children(value: Any) -> list[str]:
    if not isinstance(value, Mapping):
        return []
    return [f"`{name}`: {_meant(name)}" for name in cast(Mapping[str, Any], value) if name in ELSEWHERE]


def _homes(name: str, section: DataPath) -> str:
    """Where a field of that name belongs: at the top level, or in the sections that have one."""
    if section and name in fields(job_schema()):
        return "at the top level"
    found = [f"`{home}:`" for home, node in _sections().items() if name in fields(node) and (home,) != section]
    return "in " + " or ".join(found[:2]) if found else ""


def _all_fields() -> list[str]:
    return [field for node in _sections().values() for field in fields(node)]


def _sections() -> dict[str, Any]:
    """The job's sections with fields of their own; overrides come behind what they override."""
    found = {name: resolve(node) for name, node in fields(job_schema()).items() if fields(node)}
    overriding = found.pop("emulator")
    elsewhere = {name for node in found.values() for name in fields(node)}
    only_there = {name: node for name, node in fields(overriding).items() if name not in elsewhere}
    return {"grpo": found.pop("grpo"), **found, "emulator": {**overriding, "properties": only_there}}
