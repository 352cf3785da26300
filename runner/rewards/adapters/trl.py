# pyright: basic
"""Calls reward functions as TRL's `GRPOTrainer._calculate_rewards` does (1.16): lists, by keyword.

A function gets `prompts`, `completions`, `completion_ids`, every dataset column but `prompt`, `completion` and
`completion_ids` as a list, `trainer_state`, `log_extra` and `log_metric`. Chat prompts come as lists of messages, their
completions as `[{"role": "assistant", "content": …}]`. It returns a list of numbers; None, and NaN, mean "does not
apply". The lists hold one completion (`one_by_one`), or a whole group (`whole_groups`).
"""

import math
import random
import sys
import zlib

NOT_COLUMNS = ("prompt", "completion", "completion_ids")


class TrainerState:
    """The part of transformers' `TrainerState` that a reward can be told."""

    def __init__(self, ctx):
        self.global_step = ctx.step - (ctx.split == "train")
        """Finished steps, as TRL counts them while it scores."""
        progress = getattr(ctx, "progress", None)
        if progress:
            self.max_steps = round(ctx.step / progress)

    def __getattr__(self, name):
        there = ", ".join(sorted(vars(self)))
        raise AttributeError(f"trainer_state.{name} is not known to a reward here; there are: {there}")


class Tokens:
    """A completion whose tokens were counted and not kept: only its length is known."""

    def __init__(self, length):
        self._length = length

    def __len__(self):
        return self._length

    def _unknown(self, *arguments):
        raise TypeError("the token ids of this completion are not recorded; only their number is, as len()")

    __iter__ = __getitem__ = __contains__ = __reversed__ = _unknown


def one_by_one(function):
    """The TRL function as a reward of one completion."""

    def reward(prompt, completion, example, ctx):
        extras = []
        result = _call(function, prompt, [completion], [ctx.tokens], example, ctx, extras)
        return _then(result, lambda values: _score(_checked(values, 1)[0], 0, extras))

    return reward


def whole_groups(function):
    """The TRL function as a reward that is called once for each group; every completion shares its fate."""
    last: dict = {"group": None, "fate": None}

    def reward(prompt, completion, example, ctx):
        if ctx.group is not last["group"]:
            last.update(group=ctx.group, fate=_fate_of(function, prompt, example, ctx))
        fate = last["fate"]

        def mine(values):
            if isinstance(values, BaseException):
                raise values
            return _score(values[0][ctx.group["index"]], ctx.group["index"], values[1])

        return _then(fate, mine)

    return reward


def _fate_of(function, prompt, example, ctx):
    """The group's values and extra columns, or what the call raised."""
    members = ctx.group["completions"]
    _seed(f"{ctx.step}/{ctx.split}/{ctx.group['number']}")
    extras = []
    try:
        texts, tokens = [text for text, _ in members], [ids for _, ids in members]
        result = _call(function, prompt, texts, tokens, example, ctx, extras)
    except Exception as error:
        return error
    if hasattr(type(result), "__await__"):
        return _Shared(result, lambda values: (_checked(values, len(members)), extras))
    try:
        return _checked(result, len(members)), extras
    except ValueError as error:
        return error


class _Shared:
    """A coroutine's result for many: awaited once."""

    def __init__(self, coroutine, finish):
        self._coroutine, self._finish, self._result = coroutine, finish, None

    def __await__(self):
        if self._result is None:
            try:
                self._result = self._finish((yield from self._coroutine.__await__()))
            except Exception as error:
                self._result = error
        return self._result


def _seed(key):
    """The same numbers for the same group, whichever of its completions comes first."""
    random.seed(key)
    numpy = sys.modules.get("numpy")
    if numpy is not None and hasattr(numpy, "random"):
        numpy.random.seed(zlib.crc32(key.encode()))


def _call(function, prompt, texts, tokens, example, ctx, extras):
    n = len(texts)
    chat = ctx.messages is not None
    columns = {name: [value] * n for name, value in example.items() if name not in NOT_COLUMNS}
    return function(
        prompts=[ctx.messages if chat else prompt for _ in texts],
        completions=[[{"role": "assistant", "content": text}] for text in texts] if chat else list(texts),
        completion_ids=[_ids(given) for given in tokens],
        **columns,
        trainer_state=TrainerState(ctx),
        log_extra=lambda column, values: extras.append((column, list(values))),
        log_metric=getattr(ctx, "log_metric", lambda name, value: None),
    )


def _ids(given):
    """`given`: the ids, their number, or None where nothing is known."""
    return list(given) if isinstance(given, list) else Tokens(given or 0)


def _then(result, finish):
    """`finish(result)`, now or when the awaitable is done."""
    if not hasattr(type(result), "__await__"):
        return finish(result)

    async def wait():
        return finish(await result)

    return wait()


def _checked(values, n):
    values = list(values)
    if len(values) != n:
        raise ValueError(f"returned {len(values)} rewards for {n} completions")
    return values


def _score(value, index, extras):
    """The value, None for NaN; extra columns, as `log_extra` gave them, are the reason."""
    if type(value).__name__ == "str":
        raise TypeError(f"returned {value!r} in its list; TRL takes numbers and None")
    if value is not None and math.isnan(value):
        value = None
    said = "; ".join(f"{column}: {values[index]}" for column, values in extras if index < len(values))
    return {"score": value, "reason": said} if said else value
