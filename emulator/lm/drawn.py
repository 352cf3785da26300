"""A drawn batch: what an update needs of it, and how it survives a checkpoint in its midst."""

# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
# (torch, tokenizers and safetensors are only partly typed)

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save_file
from torch import Tensor

from runner.grpo.types import Completion

BATCH = "batch.json"
OLD_LOGPS = "batch.safetensors"


@dataclass(slots=True)
class Drawn:
    """Completions as token ids, with the log-probabilities under the policy that drew them."""

    prompts: list[list[int]]
    tokens: list[list[int]]
    """Of every completion, group after group."""
    owner: list[int]
    """The prompt of each completion, ascending."""
    temperature: float
    completions: list[list[Completion]]
    """[group][generation]; empty in a part, and in what was loaded."""
    old_logps: Tensor | None = None
    """[N, T], 0 behind the end. None before the first update, and where every completion is trained on once: then the
    policy that is updated is the one that drew them."""

    def part(self, rows: Sequence[int]) -> Drawn:
        """Only these completions (ascending), and the prompts they need."""
        used = sorted({self.owner[row] for row in rows})
        place = {prompt: i for i, prompt in enumerate(used)}
        return Drawn(
            prompts=[self.prompts[prompt] for prompt in used],
            tokens=[self.tokens[row] for row in rows],
            owner=[place[self.owner[row]] for row in rows],
            temperature=self.temperature,
            completions=[],
            old_logps=None if self.old_logps is None else self.old_logps[list(rows)],
        )

    def save(self, folder: Path) -> None:
        stored = {"prompts": self.prompts, "tokens": self.tokens, "owner": self.owner, "temperature": self.temperature}
        (folder / BATCH).write_text(json.dumps(stored))
        if self.old_logps is not None:
            save_file({"old_logps": self.old_logps.contiguous()}, folder / OLD_LOGPS)

    @staticmethod
    def load(folder: Path) -> Drawn:
        stored: dict[str, Any] = json.loads((folder / BATCH).read_text())
        old = load_file(folder / OLD_LOGPS)["old_logps"] if (folder / OLD_LOGPS).exists() else None
        return Drawn(**stored, completions=[], old_logps=old)
