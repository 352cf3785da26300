"""Several processes that share out a step come to what one comes to."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch")

import torch

from emulator.lm.policy import LmPolicy
from emulator.lm.ranks import RankLost
from emulator.policy import Sampling
from runner import api
from runner.spec.model import Grpo, Lora
from tests.emulator.lm_builders import ADVANTAGES, WEIGHTS, draw, examples
from tests.queue.test_runs import alive, tree, until

pytestmark = pytest.mark.lm

COUNTDOWN = Path("jobs/examples/countdown")
SMALL = ["emulator.steps=4", "emulator.prompts_per_step=3", "evaluation.limit=4", "emulator.expect=[]"]


def trained(threads: int, lora: Lora | None, **grpo: Any) -> tuple[LmPolicy, list[list[int]], list[dict[str, float]]]:
    policy = LmPolicy(WEIGHTS, Grpo(learning_rate=1e-3, **grpo), lora=lora, threads=threads)
    metrics: list[dict[str, float]] = []
    for step in (1, 2):
        drawn = draw(policy)
        metrics.append(dict(policy.update(drawn, ADVANTAGES, step)))
    return policy, drawn.tokens, metrics


@pytest.mark.parametrize(
    ("grpo", "lora"),
    [
        ({}, None),
        ({"loss_type": "bnpo", "micro_batch": 4}, None),
        ({"beta": 0.1, "num_iterations": 2}, None),
        ({"mask_truncated_completions": True}, Lora(rank=4)),
    ],
    ids=["plain", "bnpo", "reference", "lora"],
)
def test_two_ranks_come_to_what_one_comes_to_but_for_rounding(grpo: dict[str, Any], lora: Lora | None) -> None:
    (one, tokens_of_one, metrics_of_one), (two, tokens, metrics) = (trained(n, lora, **grpo) for n in (1, 2))
    assert tokens == tokens_of_one
    for name, value in two.model.state_dict().items():
        torch.testing.assert_close(value, one.model.state_dict()[name], atol=1e-5, rtol=1e-4)
    for mine, theirs in zip(metrics, metrics_of_one, strict=True):
        assert mine == pytest.approx(theirs, rel=1e-3, abs=1e-5)


@pytest.mark.parametrize("lora", [None, Lora(rank=4)], ids=["full", "lora"])
def test_ranks_that_get_nothing_to_do_change_nothing(lora: Lora | None) -> None:
    """Two completions of one prompt for five ranks: rank 0 is one of the idle."""
    norms: list[float] = []
    for threads in (1, 5):
        policy = LmPolicy(WEIGHTS, Grpo(), lora=lora, threads=threads)
        drawn = policy.sample(examples(1), Sampling(max_completion_length=12), [[1, 2]])
        norms.append(policy.update(drawn, [1.0, 0.5], 1)["grad_norm"])
        policy.close()
    assert norms[1] == pytest.approx(norms[0], rel=1e-4) and norms[0] > 0.1


def test_what_goes_wrong_in_a_rank_is_raised_where_one_would_raise_it() -> None:
    policy = LmPolicy(WEIGHTS, Grpo(), threads=2)
    drawn = draw(policy)
    drawn.tokens[-1] = [10**6]  # no token of the vocabulary; the last completion is rank 1's
    with pytest.raises(IndexError):
        policy.update(drawn, ADVANTAGES, 1)
    policy.close()


def test_a_rank_that_was_killed_ends_the_step_with_what_it_was_for() -> None:
    policy = LmPolicy(WEIGHTS, Grpo(), threads=2)
    children = Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()
    os.kill(int(children[-1]), signal.SIGKILL)
    with pytest.raises(RankLost, match=r"emulator\.threads"):
        draw(policy)


def test_a_run_of_two_ranks_that_was_killed_goes_on_to_the_same_digest(tmp_path: Path) -> None:
    def run(*more: str) -> api.RunHandle:
        return api.emulate(COUNTDOWN, home=tmp_path, overrides=[*SMALL, "emulator.threads=2", *more])

    straight = run()
    cut = run("emulator.faults=[{kind: kill, at_step: 3}]", "emulator.checkpoint_every=1")
    assert (straight.state, cut.state, cut.row.reason) == ("succeeded", "held", "lost")
    assert cut.resume().row.digest == straight.row.digest is not None


def test_a_run_whose_rank_was_killed_is_held_and_leaves_no_process(tmp_path: Path) -> None:
    long = [*SMALL, "emulator.threads=2", "emulator.steps=5000"]
    run = api.emulate(COUNTDOWN, home=tmp_path, overrides=long, wait=False)
    until(lambda: run.metrics("reward"))
    assert run.supervisor is not None
    supervisor, trainer, *family = tree(run.supervisor.pid)
    rank = next(pid for pid in family if command(pid) == command(trainer))
    assert len(list(Path(f"/proc/{rank}/fd").iterdir())) == 4, "its three streams and its connection"
    os.kill(rank, signal.SIGKILL)
    assert (run.wait().state, run.row.reason) == ("held", "lost")
    assert "emulator.threads" in run.detail
    until(lambda: not any(alive(pid) for pid in (supervisor, trainer, *family)))


def command(pid: int) -> bytes:
    return Path(f"/proc/{pid}/cmdline").read_bytes()
