"""The calls of one `score()`: which wait, which run where, and the scores as they come in. No processes here."""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

import msgspec
from msgspec.structs import replace

from runner.rewards.bundle import Function
from runner.rewards.cache import Cache
from runner.rewards.contract import GroupCall, Outcome, Score
from runner.rewards.frames import Answer, clean, encode, json_text
from runner.rewards.gate import Gates, clipped
from runner.rewards.meter import Meter
from runner.rewards.teams import Mode, Team

MESSAGE_SECONDS = 0.02
"""Expected work in one message: long enough to hide the round trip, short enough to keep workers evenly busy."""
MESSAGE_CALLS = 64
MESSAGE_BYTES = 256 << 10

OUTCOMES = {outcome.value: outcome for outcome in Outcome} | {"retry": Outcome.EXCEPTION}


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
    retries: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where in the run a batch is."""

    step: int
    split: str
    progress: float
    """0 at the start of the training, 1 at its last step."""


class Batch:
    """The calls of some groups on every function, and their scores. [n completions × F functions]"""

    def __init__(
        self,
        groups: Sequence[GroupCall],
        functions: Sequence[Function],
        teams: Sequence[Team],
        meters: Sequence[Meter],
        cache: Cache,
        *,
        place: Place,
        patience: int,
    ) -> None:
        """`patience`: time-outs in a row, for each call of a function that may run at once, after which it is given
        up."""
        self._groups, self._functions, self._meters, self._cache = groups, functions, meters, cache
        self._place = {"step": place.step, "split": place.split, "progress": place.progress}
        self._examples: dict[int, str] = {}
        """As JSON, by group, once a message or a cache wants it."""
        self._team_of = {function: team for team in teams for function in team.functions}
        self._give_up = [patience * self._team_of[i].width for i in range(len(functions))]
        self._hangs = [0] * len(functions)
        places = [(group, index) for group, call in enumerate(groups) for index in range(len(call.completions))]
        self._scores: list[Score | None] = [None] * (len(places) * len(functions))
        self._open = len(self._scores)
        self.waiting: dict[Team, deque[Call]] = {team: deque() for team in teams}
        self.alone: deque[Call] = deque()
        """Calls whose worker died: each is tried once more in a fresh worker with nothing before it."""
        self._later: list[tuple[float, int, Call]] = []
        """Calls to be tried again, by the time when."""
        self._gates = Gates(functions)
        calls = [
            Call(row * len(functions) + function, group, index, function)
            for row, (group, index) in enumerate(places)
            for function in range(len(functions))
        ]
        if any(function.batch == "group" for function in functions):
            calls.sort(key=lambda call: (call.group, self.is_whole(call) and call.function + 1))
        self._held: dict[int, Call] = {}
        """Calls that wait for other functions' scores of their completion."""
        for call in calls:
            if self._gates.holds_back(call.function):
                self._held[call.number] = call
            else:
                self._add(call)

    def _add(self, call: Call) -> None:
        function = self._functions[call.function]
        if function.cache and (found := self._cache.get(self._key(call), function.name)):
            self._set(call, found)
        else:
            self.waiting[self._team_of[call.function]].append(call)

    @property
    def is_done(self) -> bool:
        return self._open == 0

    def scores(self) -> list[list[Score]]:
        """[n][F], once the batch is done."""
        scores = [score for score in self._scores if score is not None]
        width = len(self._functions)
        return [scores[start : start + width] for start in range(0, len(scores), width)]

    def team(self, call: Call) -> Team:
        return self._team_of[call.function]

    def next_start(self, now: float) -> float:
        """Seconds until a call that has to wait for its time may start."""
        rates = [
            max(self._meters[i].delay(now) for i in team.functions) for team, calls in self.waiting.items() if calls
        ]
        return min([*(rate for rate in rates if rate > 0), *(at - now for at, _, _ in self._later[:1])], default=60.0)

    def wake(self, now: float) -> None:
        """Puts calls whose time for another try has come in their queue."""
        while self._later and self._later[0][0] <= now:
            _, _, call = heapq.heappop(self._later)
            self.waiting[self.team(call)].append(call)

    def take(self, team: Team, pace: Sequence[float], now: float, *, prefetch: bool) -> list[Call]:
        """The next message's calls: of one group, at least one if any may start. `pace`: seconds a call, by function.

        With `prefetch`, for a worker that is still at work: none if the next call is slow and may find an idle worker.
        """
        waiting, taken = self.waiting[team], list[Call]()
        if prefetch and waiting and not team.one_by_one and pace[waiting[0].function] > MESSAGE_SECONDS:
            return taken
        if waiting and self.is_whole(waiting[0]):
            return self._take_whole_group(waiting, now)
        seconds, size = 0.0, 0
        most = 1 if team.one_by_one else MESSAGE_CALLS
        while len(taken) < most and self._may_start(waiting, now):
            call = waiting[0]
            seconds += pace[call.function]
            size += len(self._groups[call.group].completions[call.index])
            full = seconds > MESSAGE_SECONDS or size > MESSAGE_BYTES or (taken and call.group != taken[0].group)
            if taken and (full or self.is_whole(call)):
                break
            self._meters[call.function].start(now)
            taken.append(waiting.popleft())
        return taken

    def _may_start(self, waiting: deque[Call], now: float) -> bool:
        """Whether rate and budget let the first call start. A budget that is used up settles what waits for it."""
        if not waiting:
            return False  # a settled call may have settled others
        function = waiting[0].function
        if not self._meters[function].is_limited:
            return True
        if spent := self._meters[function].used_up():
            self._drop(function, Outcome.BUDGET, f"not called: {spent}")
            return self._may_start(waiting, now)
        return self._meters[function].delay(now) == 0

    def is_whole(self, call: Call) -> bool:
        """Whether its function is called once for the whole group."""
        return self._functions[call.function].batch == "group"

    def _take_whole_group(self, waiting: deque[Call], now: float) -> list[Call]:
        """The group's waiting calls of one function: a message of their own, however long it takes."""
        first, taken = waiting[0], list[Call]()
        while waiting and (waiting[0].group, waiting[0].function) == (first.group, first.function):
            self._meters[first.function].start(now)
            taken.append(waiting.popleft())
        return taken

    def put_back(self, calls: Sequence[Call]) -> None:
        """Calls that a worker was given and didn't start."""
        for call in reversed(calls):
            self.waiting[self.team(call)].appendleft(call)
            self._meters[call.function].calls -= 1
        for function, hangs in enumerate(self._hangs):
            if hangs >= self._give_up[function]:
                self._give_up_on(function)

    def message(self, calls: Sequence[Call], mode: Mode) -> bytes:
        """The request frame for calls of one group."""
        group = self._groups[calls[0].group]
        positions: dict[int, int] = {}
        for call in calls:
            positions.setdefault(call.index, len(positions))
        nothing = (None,) * len(group.completions)
        finish, tokens = group.finish or nothing, group.tokens or nothing
        request: dict[str, object] = {
            **self._place,
            "mode": mode,
            "group": calls[0].group,
            "prompt": group.prompt,
            "example": msgspec.Raw(self._example(calls[0].group).encode("utf-8", "surrogatepass")),
            "messages": group.messages and [dict(message) for message in group.messages],
            "completions": [[i, group.completions[i], finish[i], _length(tokens[i])] for i in positions],
            "calls": [[call.number, call.function, positions[call.index]] for call in calls],
        }
        if any(self._functions[function].style == "trl" for function in {call.function for call in calls}):
            request["tokens"] = [tokens[index] for index in positions]
            if self.is_whole(calls[0]):
                members = [[text, ids] for text, ids in zip(group.completions, tokens, strict=True)]
                request["whole"] = {"number": calls[0].group, "completions": members}
        return encode(request)

    def _example(self, group: int) -> str:
        if group not in self._examples:
            self._examples[group] = json_text(dict(self._groups[group].example))
        return self._examples[group]

    def record(self, call: Call, said: Answer, now: float) -> None:
        """The score of a call that a worker answered; or another try, where that may help."""
        function = self._functions[call.function]
        if said.tokens:
            self._meters[call.function].use(said.tokens)
        if said.outcome == "retry" and call.retries < function.retries:
            heapq.heappush(self._later, (now + function.backoff * 2**call.retries, call.number, call))
            call.retries += 1
            return
        tried = f"\nafter {call.retries} retries" if said.outcome == "retry" and call.retries else ""
        score = Score(
            name=function.name,
            value=said.value,
            outcome=OUTCOMES[said.outcome],
            reason=said.reason and clean(said.reason),
            error=said.error and clean(said.error + tried),
            output=said.output and clean(said.output),
            seconds=said.seconds,
            metrics=said.metrics,
        )
        score = clipped(score, function.clip)
        if function.cache:
            self._cache.keep(self._key(call), score)
            score = replace(score, metrics={**said.metrics, "cached": 0.0})
        self._set(call, score)

    def fail(self, call: Call, outcome: Outcome, error: str, output: str | None = None, seconds: float = 0.0) -> None:
        """The score of a call that no worker can answer any more."""
        self._set(call, self._failed(call, outcome, error, output, seconds))
        if self.is_whole(call):
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
        waiting, place = self.waiting[self.team(call)], (call.group, call.function)
        rest = [other for other in (*waiting, *self.alone) if (other.group, other.function) == place]
        for queue in (waiting, self.alone):
            kept = [other for other in queue if other not in rest]
            queue.clear()
            queue.extend(kept)
        for other in rest:
            self._set(other, self._failed(other, outcome, error))

    def fail_waiting(self, error: str) -> None:
        """Records what waits as our own failure: there is no way to run it."""
        queues = [*self.waiting.values(), self.alone]
        while calls := [call for queue in queues for call in queue]:  # a failure may let go a call that waited for it
            for queue in queues:
                queue.clear()
            for call in calls:
                self.fail(call, Outcome.INFRASTRUCTURE, error)

    def _key(self, call: Call) -> str:
        name = self._functions[call.function].name
        return self._cache.key(name, self._groups[call.group], self._example(call.group), call.index)

    def _set(self, call: Call, score: Score) -> None:
        """The one score of the call. `on_error: zero` gives an error its 0.0 here."""
        if self._functions[call.function].on_error == "zero" and score.outcome.is_error:
            score = replace(score, value=0.0)
        assert self._scores[call.number] is None, "one score per call"
        self._scores[call.number] = score
        self._open -= 1
        self._count_hangs(call.function, score.outcome)
        self._decide_gates(call)

    def _decide_gates(self, call: Call) -> None:
        """Lets go, or answers, the calls on the same completion that waited for this score."""
        if not self._held:
            return
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
            elif self._hangs[function] >= self._give_up[function]:
                self.fail(held, Outcome.TIMEOUT, self._not_started(function))
            else:
                self._add(held)

    def _count_hangs(self, function: int, outcome: Outcome) -> None:
        if outcome is not Outcome.TIMEOUT:
            self._hangs[function] = 0
            return
        self._hangs[function] += 1
        if self._hangs[function] == self._give_up[function]:
            self._give_up_on(function)

    def _give_up_on(self, function: int) -> None:
        """Doesn't start what waits of a function that hangs every time, or 1000 hangs would cost 1000 deadlines."""
        self._drop(function, Outcome.TIMEOUT, self._not_started(function))

    def _not_started(self, function: int) -> str:
        return f"not started: {self._give_up[function]} calls in a row timed out"

    def _drop(self, function: int, outcome: Outcome, error: str) -> None:
        waiting = self.waiting[self._team_of[function]]
        dropped = [call for call in waiting if call.function == function]
        kept = [call for call in waiting if call.function != function]
        waiting.clear()
        waiting.extend(kept)
        for call in dropped:
            self.fail(call, outcome, error)


def _length(tokens: Sequence[int] | int | None) -> int | None:
    return tokens if tokens is None or isinstance(tokens, int) else len(tokens)
