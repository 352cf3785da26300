"""Our rewards, advantages and reward metrics against TRL's own code, on random scores with None in every place."""

from __future__ import annotations

import random
from collections.abc import Iterator
from math import isnan
from pathlib import Path
from typing import Any

import pytest

from runner.grpo.advantages import ScaleRewards, advantages, normalized_advantages, weighted_rewards
from runner.grpo.metrics import batch_metrics
from runner.grpo.types import Completion, Example, Group, Outcome, Score, Scored
from runner.spec.model import Grpo

torch = pytest.importorskip("torch")
trl = pytest.importorskip("trl")
pytestmark = [pytest.mark.trl, pytest.mark.filterwarnings("ignore:`(is_)?gradient_checkpointing`:FutureWarning")]

Values = list[list[float | None]]
SCALES: list[ScaleRewards] = ["group", "batch", "none"]
MODES = [
    *(pytest.param(Grpo(scale_rewards=scale), id=scale) for scale in SCALES),
    pytest.param(Grpo(multi_objective_aggregation="normalize_then_sum"), id="gdpo"),
]


@pytest.fixture(scope="module")
def trainer(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A real GRPOTrainer whose generation and rewards are replaced by what a test sets: TRL has no function for the
    advantages alone.
    """
    from datasets import Dataset

    config = trl.GRPOConfig(
        output_dir=str(tmp_path_factory.mktemp("trl")),
        use_cpu=True,
        bf16=False,
        num_generations=2,
        per_device_train_batch_size=2,
        report_to="none",
        multi_objective_aggregation="sum_then_normalize",
    )
    trainer = trl.GRPOTrainer(
        model=str(tiny_model),
        reward_funcs=[lambda **_: []],
        args=config,
        train_dataset=Dataset.from_dict({"prompt": ["a", "a"]}),
    )
    trainer.model.train()
    return trainer


def theirs(
    trainer: Any, values: Values, weights: list[float], group_size: int, grpo: Grpo
) -> tuple[list[float], dict[str, float]]:
    """TRL's advantages and its logged figures."""
    n = len(values)
    trainer._generate = lambda prompts: ([[5]] * n, [[6, 1]] * n, None, ["x"] * n, None, {}, None, [])
    rows = [[float("nan") if value is None else value for value in row] for row in values]
    trainer._calculate_rewards = lambda *_: torch.tensor(rows, dtype=torch.float32)
    trainer.num_generations = group_size
    trainer.scale_rewards = grpo.scale_rewards
    trainer.multi_objective_aggregation = grpo.multi_objective_aggregation
    trainer.reward_weights = torch.tensor(weights, dtype=torch.float32)
    trainer.reward_funcs = [None] * len(weights)
    trainer.reward_func_names = names(weights)
    trainer._metrics["train"].clear()
    result = trainer._generate_and_score_completions([{"prompt": "a"}] * n)["advantages"].tolist()
    return result, {name: values[-1] for name, values in trainer._metrics["train"].items()}


@pytest.mark.parametrize("grpo", MODES)
def test_advantages_equal_trls(trainer: Any, grpo: Grpo) -> None:
    worst = 0.0
    for values, weights, group_size in cases(200):
        expected, _ = theirs(trainer, values, weights, group_size, grpo)
        worst = max(
            worst, *(abs(a - b) for a, b in zip(expected, ours(values, weights, group_size, grpo), strict=True))
        )
    assert worst <= 1e-6


def ours(values: Values, weights: list[float], group_size: int, grpo: Grpo) -> list[float]:
    if grpo.multi_objective_aggregation == "normalize_then_sum":
        return normalized_advantages(values, weights, group_size)
    return advantages(weighted_rewards(values, weights), group_size, grpo.scale_rewards)


@pytest.mark.parametrize("grpo", MODES)
def test_reward_metrics_equal_trls(trainer: Any, grpo: Grpo) -> None:
    compared = 0
    for values, weights, group_size in cases(60):
        _, expected = theirs(trainer, values, weights, group_size, grpo)
        actual = batch_metrics(*as_batch(values, weights, group_size), grpo)
        for name in expected.keys() & actual.keys():
            if name.startswith(("reward", "frac_")):
                assert actual[name] == pytest.approx(expected[name], abs=1e-6), (name, values)
                compared += 1
        assert {name for name in expected if name.startswith("reward") and not isnan(expected[name])} <= set(actual)
    assert compared > 300


def cases(count: int) -> Iterator[tuple[Values, list[float], int]]:
    """Scores in eighths, exact in float32, so that groups without spread have none in either arithmetic."""
    draw = random.Random(2024)
    for _ in range(count):
        functions, group_size, groups = draw.randint(1, 3), draw.randint(2, 6), draw.randint(1, 4)
        missing = draw.choice([0.0, 0.3, 0.7, 0.95])
        values = [
            [None if draw.random() < missing else draw.randint(0, 8) / 8 for _ in range(functions)]
            for _ in range(groups * group_size)
        ]
        yield values, [draw.choice([1.0, 0.5, -0.25]) for _ in range(functions)], group_size


def names(weights: list[float]) -> list[str]:
    return [f"f{i}" for i in range(len(weights))]


def as_batch(values: Values, weights: list[float], group_size: int) -> tuple[list[Group], list[Scored]]:
    completion = Completion(text="x", n_tokens=2, finish="eos")
    example = Example(id=0, prompt="a", columns={})
    group = Group(example=example, prompt="a", completions=(completion,) * group_size)
    rewards = weighted_rewards(values, weights)
    scored = Scored(
        version="v1",
        names=tuple(names(weights)),
        weights=tuple(weights),
        values=values,
        rewards=rewards,
        advantages=advantages(rewards, group_size, "group"),
        scores=[
            [
                Score(name=name, value=value, outcome=Outcome.NONE if value is None else Outcome.OK)
                for name, value in zip(names(weights), row, strict=True)
            ]
            for row in values
        ],
    )
    return [group] * (len(values) // group_size), [scored]
