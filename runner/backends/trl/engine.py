"""vLLM inside the trainer's process (TRL's `colocate`): how it is set up, and the proof that it follows the policy.

Written against TRL 1.16.0 and vLLM 0.31.0. Weights go from the trainer to the engine one parameter at a time; when that
silently fails, the run trains on completions of an old policy and nothing looks wrong. So after the first update, and
every `EVERY` steps, the engine is asked for the log-probabilities of a fixed prompt: they must have changed.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Sequence
from typing import Any

EVERY = 25
"""Steps between two looks at whether the engine follows."""
LARGEST_GAP = 0.1
"""Mean difference of log-probabilities between sampler and trainer above which a person is told; kernels and types
account for 0.001–0.05."""
PROBE_TOKENS = 16


class EngineStale(RuntimeError):
    """The policy was updated and the engine still answers as before: it generates from old weights."""


def prepare(device: str) -> None:
    """Before a trainer is built: settings that TRL can't pass on. vLLM reads them when it is imported."""
    os.environ.setdefault("VLLM_NO_USAGE_STATS", "1")
    os.environ.setdefault("VLLM_LOGGING_LEVEL", "WARNING")
    if device != "cpu":
        return
    os.environ.setdefault("VLLM_ENABLE_V1_MULTIPROCESSING", "0")
    os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", "1")  # GiB
    import trl.generation.vllm_generation as generation
    import vllm._custom_ops as operations
    from vllm import LLM

    # vllm-cpu packs linear layers at load and leaves empty parameters, which TRL can't write to any more ('Parameter'
    # object has no attribute 'weight_loader'). Without oneDNN they stay. Goes when TRL syncs through vLLM's interface.
    operations._supports_onednn = False  # pyright: ignore[reportAttributeAccessIssue]
    # TRL has no way to pass these; compiling takes minutes on a CPU, and the trainer computes in float32.
    generation.LLM = functools.partial(LLM, enforce_eager=True, dtype="float32")  # pyright: ignore[reportAttributeAccessIssue]


class EngineCheck:
    """Compares what the engine answers before and after updates of the policy."""

    def __init__(self, llm: Any, prompt: Sequence[int]) -> None:
        self._llm = llm
        self._prompt = list(prompt[:PROBE_TOKENS])
        self._answered: list[float] | None = None
        self._weights: float | None = None
        self._next = 0

    def look(self, step: int, weights: float) -> None:
        """`weights`: a figure that changes with the policy's weights. Raises EngineStale."""
        if step < self._next:
            return
        answered = self._ask()
        if self._answered is not None and weights != self._weights and answered == self._answered:
            raise EngineStale(
                f"step {step}: the policy has been updated, but vLLM answers exactly as before: its weights are not "
                "synchronised. Update vLLM and TRL to versions that fit together, or set `grpo.vllm: false`."
            )
        self._next = step + (1 if self._answered is None else EVERY)
        self._answered, self._weights = answered, weights

    def _ask(self) -> list[float]:
        from vllm import SamplingParams

        settings = SamplingParams(temperature=0.0, max_tokens=1, logprobs=5)
        [output] = self._llm.generate([{"prompt_token_ids": self._prompt}], settings, use_tqdm=False)
        return sorted(entry.logprob for entry in output.outputs[0].logprobs[0].values())


def biased(job_grpo: Any) -> str:
    """Why the importance ratio is biased, or "": what vLLM cuts off, the trainer's log-probabilities still contain."""
    cut = [
        f"{name}: {getattr(job_grpo, name)}"
        for name, off in (("top_p", 1.0), ("top_k", 0), ("min_p", 0.0))
        if getattr(job_grpo, name) != off
    ]
    return f"{', '.join(cut)} with vLLM biases the importance ratio (TRL #6789)" if cut else ""
