"""The calls of one `score()`: which wait, which run where, and the scores as they come in. No processes here."""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, replace

from runner.rewards.bundle import Function
from runner.rewards.contract import GroupCall, Outcome, Score
from runner.rewards.frames import Answer, clean, encode
from runner.rewards.gate import Gates, clipped

MESSAGE_SECONDS = 0.02
"""Expected work in one message: long enough to hide the round trip, short enough to keep workers evenly busy."""
MESSAGE_CALLS = 64
MESSAGE_BYTES = 256 << 10


@dataclass(slots=True)
class Call:
    """One reward function on one completion."""

    number: int
    """Position in the batch: completion number × functions + function. Worker and host name the call by it."""
    group: int
    index: int
    """Of the completion in its group."""
    function: int
    deaths: int = 0
    """Workers that died while it was running."""


class Batch:
    """The calls of some groups on every function, and their scores. [n completions × F functions]"""

    def __init__(
        self, groups: Sequence[GroupCall], functions: Sequence[Function], *, step: int, split: str, give_up: int
    ) -> None:
        self._groups = groups
        self._functions = functions
        self._place = {"step": step, "split": split}
        self._examples = [json.dumps(dict(group.example), ensure_ascii=False, default=str) for group in groups]
        self._messages = [json.dumps(group.messages and [*group.messages], ensure_ascii=False) for group in groups]
        self._give_up = give_up
        self._hangs = [0] * len(functions)
        places = [(group, index) for group, call in enumerate(groups) for index in range(len(call.completions))]
        self._scores: list[Score | None] = [None] * (len(places) * len(functions))
        self._open = len(self._scores)
        self._gates = Gates(functions)
        calls = [
            Call(row * len(functions) + function, group, index, function)
            for row, (group, index) in enumerate(places)
            for function in range(len(functions))
        ]
        calls.sort(key=lambda call: (call.group, self._whole(call) and call.function + 1))
        self.waiting = deque(call for call in calls if not self._gates.holds_back(call.function))
        self._held = {call.number: call for call in calls if self._gates.holds_back(call.function)}
        """Calls that wait for other functions' scores of their completion."""
        self.alone: deque[Call] = deque()
        """Calls whose worker died: each is tried once more in a fresh worker with nothing before it."""

    @property
    def is_done(self) -> bool:
        return self._open == 0

    def scores(self) -> list[list[Score]]:
        """[n][F], once the batch is done."""
        scores = [score for score in self._scores if score is not None]
        width = len(self._functions)
        return [scores[start : start + width] for start in range(0, len(scores), width)]

    def take(self, pace: Sequence[float], *, prefetch: bool) -> list[Call]:
        """The next message's calls: of one group, at least one if any waits. `pace`: seconds a call, by function.

        With `prefetch`, for a worker that is still at work: none if the next call is slow and may find an idle worker.
        """
        taken: list[Call] = []
        if self.waiting and self._whole(self.waiting[0]):
            return self._take_whole_group()
        if prefetch and self.waiting and pace[self.waiting[0].function] > MESSAGE_SECONDS:
            return taken
        seconds, size = 0.0, 0
        while self.waiting and len(taken) < MESSAGE_CALLS:
            call = self.waiting[0]
            seconds += pace[call.function]
            size += len(self._groups[call.group].completions[call.index])
            full = seconds > MESSAGE_SECONDS or size > MESSAGE_BYTES or (taken and call.group != taken[0].group)
            if taken and (full or self._whole(call)):
                break
            taken.append(self.waiting.popleft())
        return taken

    def _whole(self, call: Call) -> bool:
        """Whether its function is called once for the whole group."""
        return self._functions[call.function].batch == "group"

    def _take_whole_group(self) -> list[Call]:
        """The group's waiting calls of one function: a message of their own, however long it takes."""
        first = self.waiting[0]
        taken: list[Call] = []
        while self.waiting and (self.waiting[0].group, self.waiting[0].function) == (first.group, first.function):
            taken.append(self.waiting.popleft())
        return taken

    def put_back(self, calls: Sequence[Call]) -> None:
        """Calls that a worker was given and didn't start."""
        self.waiting.extendleft(reversed(calls))
        for function, hangs in enumerate(self._hangs):
            if hangs >= self._give_up:
                self._drop(function)

    def message(self, calls: Sequence[Call]) -> bytes:
        """The request frame for calls of one group."""
        group = self._groups[calls[0].group]
        indices = list(dict.fromkeys(call.index for call in calls))
        finish = group.finish or (None,) * len(group.completions)
        request: dict[str, object] = {
            **self._place,
            "group": calls[0].group,
            "prompt": group.prompt,
            "example": self._examples[calls[0].group],
            "messages": self._messages[calls[0].group],
            "completions": [[index, group.completions[index], finish[index]] for index in indices],
            "calls": [[call.number, call.function, indices.index(call.index)] for call in calls],
        }
        if any(self._functions[call.function].style == "trl" for call in calls):
            tokens = group.tokens or (None,) * len(group.completions)
            request["tokens"] = [tokens[index] for index in indices]
            if self._whole(calls[0]):
                members = [[text, ids] for text, ids in zip(group.completions, tokens, strict=True)]
                request["whole"] = {"number": calls[0].group, "completions": members}
        return encode(request)

    def record(self, call: Call, said: Answer) -> None:
        """The score of a call that a worker answered."""
        score = Score(
            name=self._functions[call.function].name,
            value=said.value,
            outcome=Outcome(said.outcome),
            reason=said.reason and clean(said.reason),
            error=said.error and clean(said.error),
            output=said.output and clean(said.output),
            seconds=said.seconds,
        )
        self._set(call, clipped(score, self._functions[call.function].clip))

    def fail(self, call: Call, outcome: Outcome, error: str, output: str | None = None, seconds: float = 0.0) -> None:
        """The score of a call that no worker can answer any more."""
        self._set(call, self._failed(call, outcome, error, output, seconds))
        if self._whole(call):
            self._fail_rest_of_group(call, outcome, error)

    def _failed(
        self, call: Call, outcome: Outcome, error: str, output: str | None = None, seconds: float = 0.0
    ) -> Score:
        return Score(
            name=self._functions[call.function].name,
            value=None,
            outcome=outcome,
            error=clean(error),
            output=output and clean(output),
            seconds=seconds,
        )

    def _fail_rest_of_group(self, call: Call, outcome: Outcome, error: str) -> None:
        """A call for a whole group is not tried again for each of its completions."""
        place = (call.group, call.function)
        rest = [other for other in (*self.waiting, *self.alone) if (other.group, other.function) == place]
        self.waiting = deque(other for other in self.waiting if other not in rest)
        self.alone = deque(other for other in self.alone if other not in rest)
        for other in rest:
            self._set(other, self._failed(other, outcome, error))

    def fail_waiting(self, error: str) -> None:
        """Records what waits as our own failure: there is no way to run it."""
        calls = [*self.waiting, *self.alone]
        self.waiting.clear()
        self.alone.clear()
        for call in calls:
            self.fail(call, Outcome.INFRASTRUCTURE, error)

    def _set(self, call: Call, score: Score) -> None:
        """The one score of the call. `on_error: zero` gives an error its 0.0 here."""
        if score.outcome.is_error and self._functions[call.function].on_error == "zero":
            score = replace(score, value=0.0)
        assert self._scores[call.number] is None, "one score per call"
        self._scores[call.number] = score
        self._open -= 1
        self._count_hangs(call.function, score.outcome)
        self._decide_gates(call)

    def _decide_gates(self, call: Call) -> None:
        """Lets go, or answers, the calls on the same completion that waited for this score."""
        start = call.number - call.function
        row = self._scores[start : start + len(self._functions)]
        for function in self._gates.after(call.function):
            held = self._held.get(start + function)
            verdict = self._gates.verdict(function, row) if held else None
            if held is None or verdict is None:
                continue
            del self._held[held.number]
            if verdict is not True:
                self._set(held, verdict)
            elif self._hangs[function] >= self._give_up:
                self.fail(held, Outcome.TIMEOUT, self._not_started())
            else:
                self.waiting.append(held)

    def _count_hangs(self, function: int, outcome: Outcome) -> None:
        if outcome is not Outcome.TIMEOUT:
            self._hangs[function] = 0
            return
        self._hangs[function] += 1
        if self._hangs[function] == self._give_up:
            self._drop(function)

    def _drop(self, function: int) -> None:
        """Doesn't start what waits of a function that hangs every time, or 1000 hangs would cost 1000 deadlines."""
        dropped = [call for call in self.waiting if call.function == function]
        self.waiting = deque(call for call in self.waiting if call.function != function)
        for call in dropped:
            self.fail(call, Outcome.TIMEOUT, self._not_started())

    def _not_started(self) -> str:
        return f"not started: {self._give_up} calls in a row timed out"
