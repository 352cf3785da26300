"""`GRPOTrainer` connected to a run: its order, its rewards, its checkpoints.

Every override wraps `super()` and says why it is there. Written against TRL 1.16.0 and transformers 5.23.0.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from itertools import chain, repeat
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import Sampler
from transformers import GenerationConfig
from trl import GRPOTrainer  # pyright: ignore[reportPrivateImportUsage]

from runner.backends.trl.engine import EngineCheck
from runner.backends.trl.model import token_ids
from runner.backends.trl.settings import greedy_or
from runner.grpo.advantages import EPSILON, normalized_sums, std
from runner.grpo.run import Run
from runner.grpo.types import Completion, Example, Group, Scored, Split
from runner.spec.model import Grpo

STATE_FILE = "grpo_state.pt"
TOLERANCE = 1e-3
"""Largest difference of an advantage between TRL and us, beside float32 rounding."""

FLOAT32_LOSS = 8 * torch.finfo(torch.float32).eps
"""What float32 may lose in sum, mean and spread together, relative to the largest term."""


class AdvantageMismatch(RuntimeError):
    """TRL was about to train on other advantages than the recorded ones: a defect, never the job's fault."""


class OrderSampler(Sampler[int]):
    """Row numbers in the run's order, laid out as TRL's `RepeatSampler` does: each prompt `generations` times, each
    generation batch `repeats` times. One epoch for the whole run, because TRL's sampler replays the first epoch's order
    when it resumes in a later one.
    """

    def __init__(self, batches: Sequence[Sequence[int]], generations: int, repeats: int) -> None:
        self.batches = batches
        self.generations = generations
        self.repeats = repeats

    def __len__(self) -> int:
        return sum(len(batch) for batch in self.batches) * self.generations * self.repeats

    def __iter__(self) -> Iterator[int]:
        for batch in self.batches:
            rows = list(chain.from_iterable(repeat(row, self.generations) for row in batch))
            for _ in range(self.repeats):
                yield from rows


class Column:
    """What TRL calls as a reward function: hands over one column of the scores that the run has just given.

    TRL wants a sync callable with a `__name__`; weight-0 functions and failures never get here (see `Run.score`).
    """

    def __init__(self, name: str, values: list[float | None]) -> None:
        self.__name__ = name
        self._values = values

    def __call__(self, **_: Any) -> list[float | None]:
        return self._values


class RunTrainer(GRPOTrainer):
    """`GRPOTrainer` whose data order, rewards and checkpoints are the run's. One process."""

    # what TRL and transformers type as optional, or not at all
    args: Any
    model: Any
    num_generations: int
    num_generations_eval: int
    eos_token_ids: list[int]
    _tokenizer: Any

    def __init__(
        self, *, run: Run, examples: Mapping[int, Example], chat: bool, order: OrderSampler, **values: Any
    ) -> None:
        self.run = run
        self.examples = examples
        """Every example of the run, by id."""
        self.chat = chat
        self.order = order
        self.figures: dict[str, float] = {}
        """Metrics of the last batch that TRL does not log; taken by the reporter."""
        self._engine_check: EngineCheck | None = None
        self._scored: Scored | None = None
        self._writing_to: Path | None = None
        self._scoring_seconds = 0.0
        super().__init__(reward_funcs=[Column("none yet", [])], **values)
        if self.use_vllm:
            self.vllm_generation.sync_weights = partial(self._timed_sync, self.vllm_generation.sync_weights)

    # Order

    def _get_train_sampler(self, dataset: Any = None) -> Sampler[int]:
        """Not TRL's: the order is the run's, so that both backends see the same."""
        return self.order

    def _get_eval_sampler(self, eval_dataset: Any) -> Sampler[int]:
        """Not TRL's, which shuffles: evaluation keeps the order given."""
        return OrderSampler([range(len(eval_dataset))], self.num_generations_eval, 1)

    # Generation and rewards

    def _tokenize_prompts(self, prompts: list[str]) -> Any:
        """Chat prompts come as rendered text (a prefilled turn can't be passed otherwise), so no second BOS."""
        if not self.chat:
            return super()._tokenize_prompts(prompts)
        return token_ids(self.processing_class, prompts, chat=True), None, {}  # pyright: ignore[reportArgumentType]

    def _generate(self, prompts: list[str]) -> Any:
        """TRL logs no time of its phases."""
        began, synchronised = time.monotonic(), self.figures.get("time/sync", 0.0)
        result = super()._generate(prompts)
        syncing = self.figures.get("time/sync", 0.0) - synchronised
        self._add_time("generate", time.monotonic() - began - syncing)
        if self.use_vllm and self.model.training:
            self._look_at_engine(result[0][0])
        return result

    def _add_time(self, phase: str, seconds: float) -> None:
        name = f"time/{phase}"
        self.figures[name] = self.figures.get(name, 0.0) + seconds

    def _timed_sync(self, synchronise: Callable[[], None]) -> None:
        """Stands in for vLLM's `sync_weights`, which TRL calls in the midst of generating."""
        began = time.monotonic()
        synchronise()
        self._add_time("sync", time.monotonic() - began)

    def take_scoring_seconds(self) -> float:
        """Spent in the run's `score` since the last call."""
        seconds, self._scoring_seconds = self._scoring_seconds, 0.0
        return seconds

    def _look_at_engine(self, prompt: Sequence[int]) -> None:
        """TRL takes it on trust that vLLM got the new weights."""
        if self._engine_check is None:
            self._engine_check = EngineCheck(self.vllm_generation.llm, prompt)
        self._engine_check.look(self.state.global_step, self._fingerprint())

    def _fingerprint(self) -> float:
        """A figure that changes when the trained weights do."""
        sums = [
            parameter.detach().double().abs().sum() for parameter in self.model.parameters() if parameter.requires_grad
        ]
        return float(torch.stack(sums).sum())

    def _calculate_rewards(
        self, inputs: Any, prompts: list[str], completions: list[str], completion_ids_list: list[list[int]]
    ) -> torch.Tensor:
        """Scores through the run first; TRL then finds the figures in its own place and does its own arithmetic.

        The four parallel structures are replaced because a reward version may have other functions and weights.
        """
        split: Split = "train" if self.model.training else "eval"
        began = time.monotonic()
        groups = self._groups(inputs, completions, completion_ids_list, split)
        scored = self.run.score(groups, step=self.state.global_step + (split == "train"), split=split)
        self._scoring_seconds += time.monotonic() - began
        self._scored = scored
        self.reward_funcs = [Column(name, [row[f] for row in scored.values]) for f, name in enumerate(scored.names)]
        self.reward_func_names = list(scored.names)
        self.reward_processing_classes = [None] * len(scored.names)
        self.reward_weights = torch.tensor(scored.weights, dtype=torch.float32)
        return super()._calculate_rewards(inputs, prompts, completions, completion_ids_list)

    def _groups(
        self, rows: Sequence[Any], completions: Sequence[str], ids: Sequence[Sequence[int]], split: Split
    ) -> list[Group]:
        """The batch as groups. Equal prompts lie together, `num_generations` of them, in the order of the rows."""
        ended = {*self.eos_token_ids, self._tokenizer.pad_token_id}
        every = [
            Completion(
                text=text, n_tokens=len(tokens), finish="eos" if tokens[-1] in ended else "length", ids=tuple(tokens)
            )
            for text, tokens in zip(completions, ids, strict=True)
        ]
        size = self.num_generations if split == "train" else self.num_generations_eval
        heads = rows[::size]
        return [
            Group(example=self.examples[head["example_id"]], prompt=head["prompt"], completions=group)
            for head, group in zip(heads, _batched(every, size), strict=True)
        ]

    def _generate_and_score_completions(self, inputs: Any) -> Any:
        """Compares what TRL will train on with what the run has recorded, on every batch."""
        output = super()._generate_and_score_completions(inputs)
        if self.model.training:
            assert self._scored is not None
            try:
                difference = check_advantages(
                    self._scored, output["advantages"].tolist(), self.num_generations, self.run.job.grpo
                )
            except AdvantageMismatch as mismatch:
                raise AdvantageMismatch(f"step {self.state.global_step + 1}, {mismatch}") from None
            self.figures["advantages_max_difference"] = difference
        return output

    # Evaluation

    def evaluate(self, *args: Any, **kwargs: Any) -> Any:
        """TRL evaluates with the training temperature; the job has its own. Training does not notice an evaluation:
        the generator's state is put back, and each evaluation starts from the job's seed.
        """
        devices = [torch.cuda.current_device()] if self.accelerator.device.type == "cuda" else []
        with self._eval_sampling(self.run.job.evaluation.temperature), torch.random.fork_rng(devices):
            torch.manual_seed(self.run.job.seed)
            return super().evaluate(*args, **kwargs)

    @contextmanager
    def _eval_sampling(self, temperature: float) -> Iterator[None]:
        if self.use_vllm:
            engine = self.vllm_generation
            engine.temperature, before = temperature, engine.temperature
            try:
                yield
            finally:
                engine.temperature = before
            return
        before = self.generation_kwargs, self.generation_config
        self.generation_kwargs = {**self.generation_kwargs, **greedy_or({"temperature": temperature}, temperature)}
        self.generation_config = GenerationConfig(**self.generation_kwargs, disable_compile=True)
        try:
            yield
        finally:
            self.generation_kwargs, self.generation_config = before

    # Weights and checkpoints

    def weights_are_finite(self) -> bool:
        """Whether the trained weights still have a norm in float32; without one the next generation crashes."""
        norms = [
            torch.linalg.vector_norm(parameter.detach(), dtype=torch.float32)
            for parameter in self.model.parameters()
            if parameter.requires_grad
        ]
        return bool(torch.stack(norms).sum().isfinite())

    def _get_output_dir(self, trial: Any) -> str:
        """transformers writes to `<this>/checkpoint-<step>`; the run says where."""
        return str(self._writing_to) if self._writing_to else super()._get_output_dir(trial)

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        """Into the run's temporary folder, so that a checkpoint is whole or not there; and with what TRL forgets: its
        count of passes, and the generation batch it is in the middle of.
        """
        with self.run.checkpoint(self.state.global_step) as folder:
            self._writing_to = folder
            try:
                super()._save_checkpoint(model, trial)
            finally:
                self._writing_to = None
            _lift(folder / f"checkpoint-{self.state.global_step}")
            state = {"_step": self._step, "_buffered_inputs": self._unfinished_batch()}
            torch.save(state | {"passes": self.args.steps_per_generation}, folder / STATE_FILE)

    def _unfinished_batch(self) -> Any:
        passes = self.args.steps_per_generation * self.num_iterations
        return self._buffered_inputs if self._step % passes else None

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        """The last thing loaded before the first step: TRL's own state goes with it."""
        super()._load_optimizer_and_scheduler(checkpoint)
        if checkpoint is not None:
            state = torch.load(Path(checkpoint) / STATE_FILE, map_location=self.accelerator.device, weights_only=True)
            passes = self.args.steps_per_generation
            self._step = state["_step"] * passes // state.get("passes", passes)
            self._buffered_inputs = cut_again(state["_buffered_inputs"], passes)


def cut_again(parts: Sequence[Mapping[str, Any]] | None, passes: int) -> Sequence[Mapping[str, Any]] | None:
    """A generation batch that was cut for other forward passes, cut into `passes`; what is no row of it is kept."""
    if parts is None or len(parts) == passes:
        return parts
    rows = {
        name: torch.cat([part[name] for part in parts])
        for name, value in parts[0].items()
        if isinstance(value, torch.Tensor) and value.ndim > 0
    }
    size = len(next(iter(rows.values()))) // passes
    return [
        {name: rows[name][i * size : (i + 1) * size] if name in rows else value for name, value in parts[0].items()}
        for i in range(passes)
    ]


def check_advantages(scored: Scored, theirs: Sequence[float], group_size: int, grpo: Grpo) -> float:
    """Largest difference between TRL's advantages and ours.

    Raises AdvantageMismatch beyond TOLERANCE and what float32 can lose: a few units in the last place of the largest
    sum of a reward's terms, divided by what the advantage is divided by.
    """
    differences = [abs(a - b) for a, b in zip(scored.advantages, theirs, strict=True)]
    for i, (difference, lost) in enumerate(zip(differences, _lost(scored, group_size, grpo), strict=True)):
        allowed = TOLERANCE + lost
        if not difference <= allowed:  # so written, NaN is beyond
            raise AdvantageMismatch(
                f"completion {i}: TRL's advantage is {theirs[i]!r}, ours {scored.advantages[i]!r} (reward "
                f"{scored.rewards[i]!r}, version {scored.version}); a difference of {allowed:.2g} would be rounding"
            )
    return max(differences)


def _lost(scored: Scored, group_size: int, grpo: Grpo) -> list[float]:
    """What float32 may lose of each advantage; see `runner.grpo.advantages` for the divisors."""
    if grpo.multi_objective_aggregation == "normalize_then_sum":
        sums = normalized_sums(scored.values, scored.weights, group_size)
        columns = [[row[f] for row in scored.values] for f in range(len(scored.weights))]
        lost = [
            [abs(weight) * _largest(column) / divisor for divisor in _divisors(column, group_size)]
            for weight, column in zip(scored.weights, columns, strict=True)
        ]
        whole = _divisors(sums, len(sums))
        return [FLOAT32_LOSS * sum(row) / divisor for *row, divisor in zip(*lost, whole, strict=True)]
    largest = FLOAT32_LOSS * max(_terms(scored.weights, row) for row in scored.values)
    if grpo.scale_rewards == "none":
        return [largest] * len(scored.rewards)
    size = group_size if grpo.scale_rewards == "group" else len(scored.rewards)
    return [largest / divisor for divisor in _divisors(scored.rewards, size)]


def _largest(column: Sequence[float | None]) -> float:
    return max((abs(value) for value in column if value is not None), default=0.0)


def _terms(weights: Sequence[float], row: Sequence[float | None]) -> float:
    return sum(abs(weight * value) for weight, value in zip(weights, row, strict=True) if value is not None)


def _divisors(values: Sequence[float | None], size: int) -> list[float]:
    """Spread of each value's part of `size`, with ε."""
    spreads = [std(values[start : start + size]) for start in range(0, len(values), size)]
    return [EPSILON + (0.0 if math.isnan(spread) else spread) for spread in spreads for _ in range(size)]


def _lift(folder: Path) -> None:
    """Moves the contents one level up."""
    for path in folder.iterdir():
        path.rename(folder.parent / path.name)
    folder.rmdir()


def _batched(completions: Sequence[Completion], size: int) -> Iterator[tuple[Completion, ...]]:
    for start in range(0, len(completions), size):
        yield tuple(completions[start : start + size])
