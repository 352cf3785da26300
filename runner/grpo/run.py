"""One run as its backend sees it: the only door between training and everything else.

The backend asks for examples, hands over completions, reports metrics, and does what `Next` says. Scores, advantages,
the journal, checkpoints, budgets, goals and stops are decided here, once, for every backend.

Rewinding: a run that resumes from step k keeps training rows up to k and evaluation rows before k; `begin` asks for the
evaluation of step k again where one is due, so it does not matter on which side of the checkpoint the process died.
"""

from __future__ import annotations

import math
import shutil
import time
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

from runner.data.examples import Example
from runner.grpo import checkpoint as checkpoints
from runner.grpo import guards
from runner.grpo.advantages import Values, advantages, normalized_advantages, weighted_rewards
from runner.grpo.metrics import batch_metrics
from runner.grpo.order import batch_of, draw_seeds, indices
from runner.grpo.types import Completion, Group, Next, Reason, Scored, Split
from runner.journal import events
from runner.journal.log import Journal
from runner.rewards.contract import GroupCall, Score
from runner.spec.model import JobSpec, Limits


class Function(Protocol):
    """What a run needs to know of a reward function."""

    @property
    def name(self) -> str: ...
    @property
    def weight(self) -> float: ...
    @property
    def on_error(self) -> str: ...


class Scorer(Protocol):
    """One reward version, live. `runner.rewards.host.RewardHost` is the one there is."""

    @property
    def version(self) -> str: ...
    @property
    def functions(self) -> Sequence[Function]: ...
    def score(self, groups: Sequence[GroupCall], *, step: int, split: str) -> list[list[Score]]: ...


class Switch(Protocol):
    """What may put another reward version live between two batches. `runner.grpo.reload.Reload` is the one there is."""

    def turn(self, step: int) -> Scorer: ...
    def keep(self, calls: Sequence[GroupCall], scores: Sequence[Sequence[Score]]) -> None: ...
    def roll_back(self, error: str) -> bool: ...


class Run:
    """One attempt of one run. Exists on rank 0 only."""

    def __init__(
        self,
        *,
        job: JobSpec,
        folder: Path,
        train: Sequence[Example],
        held_out: Sequence[Example],
        scorer: Scorer,
        journal: Journal,
        stop_requested: Callable[[], bool],
        emulated: bool,
        switch: Switch | None = None,
        limits: Callable[[], Limits] | None = None,
    ) -> None:
        self.job = job
        self.held_out = tuple(held_out[: job.evaluation.limit])
        """Examples to evaluate on, in order."""
        self.ended: Reason | None = None
        """Set once `Next.stop` has been given."""
        self.folder = folder
        """Of the run."""
        self._folder = folder / "checkpoints"
        self._train = train
        self._scorer = scorer
        self._switch = switch
        self._journal = journal
        self._stop_requested = stop_requested
        self._limits = limits or (lambda: job.limits)
        self._expects = job.emulator.expect if emulated else job.expect
        named = (*self._expects, *(item for item in (job.stop, job.checkpoints.best) if item is not None))
        self._watched = {item.metric for item in named}
        self._breaker = guards.Breaker()
        self._scored: dict[Split, list[tuple[Sequence[Group], Scored]]] = {"train": [], "eval": []}
        self._seen: set[int] = set()
        self._started = time.monotonic()
        found = checkpoints.find(self._folder)
        self.resume_from: Path | None = found[-1].path if found else None
        """Folder of the last complete checkpoint, to load weights and optimizer from; None: start from the model."""
        self._restore(checkpoints.read_state(found[-1].path) if found else {})

    def _restore(self, state: Mapping[str, Any]) -> None:
        self.step: int = state.get("step", 0)
        """The last finished step."""
        self._tokens: int = state.get("tokens", 0)
        self._earlier_seconds: float = state.get("seconds", 0.0)
        history: Mapping[str, list[list[float]]] = state.get("history", {})
        self._history: dict[str, list[tuple[int, float]]] = {
            name: [(int(at), value) for at, value in values if at < self.step or not name.startswith("eval/")]
            for name, values in history.items()
        }
        """Of the metrics that `stop` and `expect` name; of the others only that they are recorded."""

    # What to train on

    @property
    def steps_per_batch(self) -> int:
        """Optimizer steps made from one generation batch."""
        return self.job.grpo.generate_every * self.job.grpo.num_iterations

    def examples(self, step: int) -> Sequence[Example]:
        """The prompts of the generation batch that the 1-based `step` trains on. Pure in (seed, step)."""
        size = self.job.grpo.prompts_per_step * self.job.grpo.generate_every
        start = batch_of(step, self.steps_per_batch) * size
        return [self._train[i] for i in indices(self.job.seed, start, size, len(self._train))]

    def draw_seeds(self, examples: Sequence[Example], n: int, *, step: int, split: Split = "train") -> list[list[int]]:
        """A 64-bit seed for each of n completions of each example; pure in the run's seed and the position."""
        return draw_seeds(self.job.seed, split, step, [example.id for example in examples], n)

    # The way of a step

    def begin(self) -> Next:
        """Call once before the first step: whether to evaluate now, and whether anything is left to do."""
        done = self.step >= self.job.grpo.steps
        return self._next(
            evaluate=self._evaluation_due(self.step, last=done), save=False, stop=Reason.FINISHED if done else None
        )

    def score(self, groups: Sequence[Group], *, step: int, split: Split = "train") -> Scored:
        """Scores a batch, records it, and gives rewards and advantages, group-major.

        Raises `guards.RewardFailure` when a function with `on_error: fail` failed or too many calls did; the batch is
        recorded first. The groups must have equal sizes.
        """
        began = time.monotonic()
        if split == "train":
            self._turn(step)
        calls = [_call(group) for group in groups]
        scores = self._scorer.score(calls, step=step, split=split)
        optimised = [i for i, function in enumerate(self._scorer.functions) if function.weight != 0]
        values = [optimised_values(row, optimised, self._scorer.functions) for row in scores]
        weights = tuple(self._scorer.functions[i].weight for i in optimised)
        rewards = weighted_rewards(values, weights)
        scored = Scored(
            version=self._scorer.version,
            names=tuple(self._scorer.functions[i].name for i in optimised),
            weights=weights,
            values=values,
            rewards=rewards,
            advantages=self._advantages(values, weights, rewards, len(groups[0].completions)),
            scores=scores,
        )
        self._record(groups, scored, step, split)
        self._reward_seconds = time.monotonic() - began
        if split == "train":
            self._tokens += sum(completion.n_tokens for group in groups for completion in group.completions)
            self._check(calls, scored)
        return scored

    def _turn(self, step: int) -> None:
        """A reward version goes live at the first training batch of a step, and never in an evaluation."""
        scorer = self._scorer if self._switch is None else self._switch.turn(step)
        if scorer is not self._scorer:
            self._scorer = scorer
            self._breaker = guards.Breaker()

    def _check(self, calls: Sequence[GroupCall], scored: Scored) -> None:
        """Too many failed calls end the run, or only the reward version where it was put live just now."""
        fail_on = frozenset(function.name for function in self._scorer.functions if function.on_error == "fail")
        try:
            self._breaker.check(scored, fail_on)
        except guards.RewardFailure as failure:
            if self._switch is None or not self._switch.roll_back(str(failure)):
                raise
        else:
            if self._switch is not None:
                self._switch.keep(calls, scored.scores)

    def _advantages(
        self, values: Values, weights: Sequence[float], rewards: Sequence[float | None], group_size: int
    ) -> list[float]:
        if self.job.grpo.multi_objective_aggregation == "normalize_then_sum":
            return normalized_advantages(values, weights, group_size)
        return advantages(rewards, group_size, self.job.grpo.scale_rewards)

    def report(self, step: int, metrics: Mapping[str, float], *, split: Split = "train") -> Next:
        """Records a finished step's metrics (TRL's names; `eval` ones without a prefix) and says what comes next.

        Figures of rewards and lengths are added here from the scored batches.
        """
        batches = self._scored[split]
        figures = dict(metrics)
        if batches:
            groups = [group for groups, _ in batches for group in groups]
            scored = [scored for _, scored in batches]
            figures |= batch_metrics(groups, scored, self.job.grpo)
            figures["time/reward"] = self._reward_seconds
            batches.clear()
        if split == "eval":
            figures = {f"eval/{name}": value for name, value in figures.items()}
        bad = guards.diverged(figures)
        self._keep(step, {name: value for name, value in figures.items() if math.isfinite(value)})
        if split == "eval":
            return self._after_evaluation()
        self.step = step
        return self._after_step(step, bad)

    def _after_step(self, step: int, bad: bool) -> Next:
        if bad:
            return self._next(evaluate=False, save=False, stop=Reason.DIVERGED)
        last = step >= self.job.grpo.steps
        stop = Reason.FINISHED if last else self._early_stop()
        hurried = stop is not None and stop not in (Reason.FINISHED, Reason.GOAL_REACHED)
        return self._next(
            evaluate=not hurried and self._evaluation_due(step, last=stop is not None),
            save=stop is not None or step % self.job.checkpoints.every == 0,
            stop=stop,
        )

    def _after_evaluation(self) -> Next:
        """A goal or a stop may have come up during the evaluation; what was decided before it stands."""
        stop = self.ended or self._early_stop()
        save = self.step > 0 and (stop is not self.ended or self._is_new_best())
        return self._next(evaluate=False, save=save, stop=stop)

    def _is_new_best(self) -> bool:
        """Whether the evaluation just made is the best so far, and its weights are not saved yet."""
        best = self.job.checkpoints.best
        if best is None or (self._folder / checkpoints.folder_name(self.step)).exists():
            return False
        return guards.best_step(best, self._history, range(1, self.step + 1)) == self.step

    def _early_stop(self) -> Reason | None:
        if guards.goal_reached(self.job.stop, self._history):
            return Reason.GOAL_REACHED
        if self._stop_requested():
            return Reason.STOPPED
        return guards.over_budget(self._limits(), self._seconds, self._tokens)

    def _evaluation_due(self, step: int, *, last: bool) -> bool:
        every = self.job.evaluation.every
        return bool(self.held_out) and (step == 0 or last or (every is not None and step % every == 0))

    def _next(self, *, evaluate: bool, save: bool, stop: Reason | None) -> Next:
        self.ended = stop
        return Next(evaluate=evaluate, save=save, stop=stop)

    # What is kept

    @contextmanager
    def checkpoint(self, step: int) -> Generator[Path]:
        """Gives an empty folder to write weights and optimizer into; whole and named when the block ends, or not there.

        The journal is on the disk before the manifest is. Older checkpoints beyond `checkpoints.keep` are removed, but
        for the best.
        """
        target = self._folder / checkpoints.folder_name(step)
        folder = self._folder / f".{target.name}.part"
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        try:
            yield folder
            checkpoints.write_state(folder, self._state(step))
            described = checkpoints.describe(folder, step)
            self._journal.append(
                events.CheckpointSaved(
                    step=step,
                    path=f"checkpoints/{target.name}",
                    bytes=described.bytes,
                    weights=described.weights,
                )
            )
            self._journal.sync()
            checkpoints.seal(folder, described, target)
        finally:
            shutil.rmtree(folder, ignore_errors=True)
        self._prune()

    def _prune(self) -> None:
        found = checkpoints.find(self._folder)
        best = self.job.checkpoints.best
        chosen = guards.best_step(best, self._history, [item.step for item in found]) if best else None
        checkpoints.mark_best(self._folder, chosen)
        for old in checkpoints.surplus(found, self.job.checkpoints.keep):
            if old.step != chosen:
                shutil.rmtree(old.path)
                self._journal.append(events.CheckpointRemoved(step=old.step))

    def _state(self, step: int) -> dict[str, Any]:
        return {"step": step, "tokens": self._tokens, "seconds": self._seconds, "history": self._history}

    def finish(self) -> tuple[Reason, str]:
        """How the attempt ended, for people and programs; `expect:` is judged here."""
        reason = self.ended or Reason.INTERNAL
        if reason in (Reason.FINISHED, Reason.GOAL_REACHED):
            unmet = guards.unmet(self._expects, self._history)
            if unmet:
                return Reason.EXPECT_NOT_MET, "; ".join(unmet)
        return reason, self._ending(reason)

    def _ending(self, reason: Reason) -> str:
        if reason is Reason.INTERNAL:
            return "the backend returned before the run was over"
        return f"step {self.step} of {self.job.grpo.steps}"

    def alert(self, code: str, message: str) -> None:
        """Records something a person should see."""
        self._journal.append(events.Alert(step=self.step, code=code, message=message))

    @property
    def _seconds(self) -> float:
        return self._earlier_seconds + time.monotonic() - self._started

    def _keep(self, step: int, figures: dict[str, float]) -> None:
        for name, value in figures.items():
            series = self._history.setdefault(name, [])
            if name in self._watched:
                series.append((step, value))
        self._journal.append(events.MetricsReported(step=step, metrics=figures))

    def _record(self, groups: Sequence[Group], scored: Scored, step: int, split: Split) -> None:
        new = {group.example.id: group for group in groups if group.example.id not in self._seen}
        if new:
            self._seen |= new.keys()
            self._journal.append(events.ExamplesSeen(examples=[_example_row(group) for group in new.values()]))
        first_group = sum(len(earlier) for earlier, _ in self._scored[split])
        self._scored[split].append((groups, scored))
        self._journal.append(
            events.BatchScored(
                step=step,
                split=split,
                reward_version=scored.version,
                groups=_group_rows(groups, scored, first_group),
            )
        )


def _call(group: Group) -> GroupCall:
    messages = group.example.prompt if isinstance(group.example.prompt, list) else None
    return GroupCall(
        prompt=group.prompt,
        example=group.example.columns,
        completions=[completion.text for completion in group.completions],
        finish=[completion.finish for completion in group.completions],
        messages=messages,  # pyright: ignore[reportArgumentType]
        tokens=[completion.ids or completion.n_tokens for completion in group.completions],
    )


def optimised_values(
    row: Sequence[Score], optimised: Sequence[int], functions: Sequence[Function]
) -> list[float | None]:
    """Values of the optimised functions; all None when one of them failed and the completion leaves its group."""
    left = any(row[i].outcome.is_error and functions[i].on_error != "zero" for i in optimised)
    return [None if left else row[i].value for i in optimised]


def _example_row(group: Group) -> events.ExampleRow:
    return events.ExampleRow(id=group.example.id, prompt=group.prompt, columns=dict(group.example.columns))


def _group_rows(groups: Sequence[Group], scored: Scored, first_group: int) -> list[events.GroupRow]:
    rows: list[events.GroupRow] = []
    start = 0
    for number, group in enumerate(groups, first_group):
        rollouts = [_rollout_row(completion, scored, start + i) for i, completion in enumerate(group.completions)]
        rows.append(events.GroupRow(group_id=number, example_id=group.example.id, rollouts=rollouts))
        start += len(group.completions)
    return rows


def _rollout_row(completion: Completion, scored: Scored, i: int) -> events.RolloutRow:
    return events.RolloutRow(
        completion=completion.text,
        n_tokens=completion.n_tokens,
        finish_reason=completion.finish,
        reward=scored.rewards[i],
        advantage=scored.advantages[i],
        scores=[_score_row(score) for score in scored.scores[i]],
    )


def _score_row(score: Score) -> events.ScoreRow:
    return events.ScoreRow(
        name=score.name,
        value=score.value,
        outcome=score.outcome,
        reason=score.reason,
        error=score.error,
        output=score.output,
        seconds=score.seconds,
    )
