"""Teaches the model a job's own format before GRPO: good and bad completions in equal parts, by cross-entropy.

Both are taught on purpose: GRPO needs groups in which some completions are better than others. The model that comes of
it lies in the run folder, as the base of the run's policy and reference; a resumed attempt finds it there.
"""

# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
# (torch, tokenizers and safetensors are only partly typed)

from __future__ import annotations

import hashlib
import math
import random
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from emulator.lm.adamw import AdamW
from emulator.lm.batch import Completions, Prompts, completion_logits
from emulator.lm.check import room
from emulator.lm.config import LlamaConfig
from emulator.lm.examples import Demonstration, read_demonstrations
from emulator.lm.folder import FILES
from emulator.lm.model import Llama, load_model, save_weights
from emulator.lm.tokens import Tokens
from runner.spec.model import JobSpec

STEPS = 160
ROWS = 8
"""Demonstrations in one step; of each, one good and one bad completion."""
LEARNING_RATE = 3e-3
WARMUP = 16
FOLDER = "demonstrated"


def demonstrated(job: JobSpec, base: Path, run_folder: Path | None) -> Path:
    """Folder of the base model after the job's demonstrations: made once in a run folder, else in a temporary one."""
    torch.set_num_threads(1)
    target = (run_folder or Path(tempfile.mkdtemp(prefix="demonstrated-"))) / FOLDER
    key = _key(job, base)
    if (target / "key").exists() and (target / "key").read_text() == key:
        return target
    part = target.with_name(f".{FOLDER}.part")
    for old in (part, target):
        shutil.rmtree(old, ignore_errors=True)
    part.mkdir(parents=True)
    for name in FILES:
        if (base / name).exists():
            shutil.copyfile(base / name, part / name)
    save_weights(teach(job, base), part / "model.safetensors")
    (part / "key").write_text(key)
    part.rename(target)
    return target


def _key(job: JobSpec, base: Path) -> str:
    """Of everything that decides the weights."""
    sha = hashlib.sha256(f"{STEPS} {ROWS} {LEARNING_RATE} {job.seed} {job.dataset.model_dump_json()}".encode())
    for path in (Path(job.emulator.demonstrations or ""), base / "model.safetensors", base / "tokenizer.json"):
        sha.update(hashlib.sha256(path.read_bytes()).digest())
    return sha.hexdigest()


def teach(job: JobSpec, base: Path) -> Llama:
    """The model of `base` after STEPS steps of AdamW on the job's demonstrations; pure in the job's seed."""
    rows, tokens = read_demonstrations(job), Tokens(base)
    length = room(job, LlamaConfig.read(base / "config.json"))
    model, rng = load_model(base), random.Random(f"demonstrations/{job.seed}")
    optimizer = AdamW(dict(model.named_parameters()), betas=(0.9, 0.98))
    for step in range(STEPS):
        model.zero_grad()
        _loss(model, tokens, [rng.choice(rows) for _ in range(ROWS)], length, rng).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step(learning_rate(step))
    return model


def learning_rate(step: int) -> float:
    """Of the 0-based step: up in WARMUP steps, then down to 0 along a cosine."""
    if step < WARMUP:
        return LEARNING_RATE * (step + 1) / WARMUP
    return LEARNING_RATE * 0.5 * (1 + math.cos(math.pi * (step - WARMUP) / (STEPS - WARMUP)))


def _loss(model: Llama, tokens: Tokens, rows: Sequence[Demonstration], length: int, rng: random.Random) -> Tensor:
    """Mean cross-entropy of the completions' tokens; the prompts are read, not learnt."""
    prompts = [tokens.encode(row.example, length) for row in rows]
    written = [(i, rng.choice(texts)) for i, row in enumerate(rows) for texts in (row.good, row.bad) if texts]
    ids = [tokens.encode_completion(text) for _, text in written]
    completions = Completions.pad(ids, [owner for owner, _ in written])
    logits = completion_logits(model, Prompts.pad(prompts), completions)
    losses = F.cross_entropy(logits.flatten(0, 1), completions.ids.flatten(), reduction="none")
    real = completions.real.flatten()
    return (losses * real).sum() / real.sum()
