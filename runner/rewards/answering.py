"""One reward call: what the function is given, what it may say, and what its answer means. Standard library only."""

from __future__ import annotations

import importlib.util
import json
import marshal
import reprlib
import sys
import zlib
from collections.abc import Callable, Sequence
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any, NamedTuple, Protocol, cast

from .texts import clip, describe

METRICS = 32
"""Metrics that one call may log."""


class Answer(NamedTuple):
    """What came of a call."""

    outcome: str
    """`ok`, `none`, `non_numeric`, `non_finite`, `exception`; `retry`: an exception that a second try may not meet."""
    value: float | None = None
    reason: str | None = None
    error: str | None = None


class Retry(Exception):
    """Raised by a reward for a failure that passes: the call is made again if the job's `retries:` allow it."""


class Loaded(Protocol):
    """The imported rewards of a version, as the zygote hands them over. Lists are by function."""

    folder: str
    """With a slash at its end."""
    names: list[str]
    functions: list[Callable[..., Any]]
    takes_ctx: list[bool]
    timeouts: list[float]
    setups: list[Callable[[], object]]


class Ctx:
    """What a reward gets as `ctx` if it takes one."""

    __slots__ = (
        "_metrics", "_used", "finish", "group", "messages", "n_tokens", "progress", "seed", "split", "step", "tokens",
    )  # fmt: skip

    Retry = Retry

    def __init__(self, request: dict[str, Any], position: int, seed: int) -> None:
        completion = request["completions"][position]
        self.step: int = request["step"]
        """The optimizer step whose batch this is."""
        self.progress: float = request["progress"]
        """How far the training is: 0 at its start, 1 at its last step."""
        self.split: str = request["split"]
        """`train` or `eval`."""
        self.messages: list[dict[str, str]] | None = fresh(request["messages"])
        """The prompt's chat turns, or None where it is plain text."""
        self.finish: str | None = completion[2]
        """`eos`, or `length` where the completion was cut; None if unknown."""
        self.n_tokens: int | None = completion[3]
        """Tokens of the completion; None if unknown."""
        self.seed = seed
        """The same for the same call, whichever worker makes it. `random` and numpy are seeded with it already."""
        self.tokens: list[int] | int | None = request["tokens"][position] if "tokens" in request else None
        """The completion's token ids, or their number, for functions of TRL's style."""
        self.group: dict[str, Any] | None = request.get("whole")
        """For `batch: group`: `number` and `index`, and all `completions` as [text, tokens]; one object for all calls
        of a message."""
        if self.group is not None:
            self.group["index"] = completion[0]
        self._metrics: dict[str, float] = {}
        self._used = 0

    def log_metric(self, name: str, value: float) -> None:
        """Recorded as the metric `rewards/<function>/<name>`: the mean of a step's calls. At most 32 in one call."""
        if len(self._metrics) < METRICS or name in self._metrics:
            self._metrics[str(name)[:64]] = float(value)

    def use_tokens(self, n: int) -> None:
        """Counts tokens that a service charged for, against the job's `rate_limit` and `budget`."""
        self._used += int(n)

    def extras(self) -> tuple[dict[str, float], int]:
        """What was logged and used; nothing where the call broke it."""
        try:
            finite = {name: value for name, value in self._metrics.items() if value - value == 0}
            return finite, max(self._used, 0)
        except BaseException:
            return {}, 0


class Prepared(NamedTuple):
    """A call, ready to be made."""

    function: Callable[..., Any]
    arguments: tuple[Any, ...]
    keywords: dict[str, Any]
    ctx: Ctx | None

    def extras(self) -> tuple[dict[str, float], int]:
        """What the call logged and used."""
        return self.ctx.extras() if self.ctx is not None else ({}, 0)


def prepare(loaded: Loaded, request: dict[str, Any], index: int, position: int, seed: str) -> Prepared:
    """A call of the function `index` on one of the request's completions; seeds the generators for it."""
    completion = request["completions"][position]
    place = f"{seed}/{request['step']}/{request['split']}/{request['group']}/{completion[0]}/{loaded.names[index]}"
    seed_generators(place)
    ctx = Ctx(request, position, number_of(place)) if loaded.takes_ctx[index] else None
    arguments = (request["prompt"], completion[1], marshal.loads(request["example"]))
    return Prepared(loaded.functions[index], arguments, {} if ctx is None else {"ctx": ctx}, ctx)


def received(body: bytes) -> dict[str, Any]:
    """The request in a frame."""
    request = json.loads(body.decode("utf-8", "surrogatepass"))
    request["example"] = marshal.dumps(request["example"])
    return request


def fresh(value: Any) -> Any:
    """A copy of parsed JSON: a call may change what it is given."""
    return marshal.loads(marshal.dumps(value))


def judge(result: Any) -> Answer:
    """What a returned value means: number, None, `{"score": …, "reason": …}`, or an error."""
    if type(result) is float and result - result == 0:  # as nearly always
        return Answer("ok", result)
    if isinstance(result, dict):
        fields = cast("dict[str, Any]", result)
        if "score" not in fields:
            return Answer("non_numeric", error='returned a dict without "score"')
        reason = fields.get("reason")
        return _number(fields["score"])._replace(reason=None if reason is None else clip(str(reason)))
    return _number(result)


def _number(result: Any) -> Answer:
    if result is None:
        return Answer("none")
    if not hasattr(cast(Any, type(result)), "__float__") or getattr(result, "ndim", 0) != 0:
        text = f"returned {_shown(result)}; a reward returns a number, None or {{'score': number}}"
        return Answer("non_numeric", error=clip(text))
    try:
        value = float(result)
    except OverflowError:
        return Answer("non_finite", error="returned a number too large for a float")
    if value - value != 0:  # inf - inf and nan - nan are nan
        return Answer("non_finite", error=f"returned {value}")
    return Answer("ok", value)


def _shown(result: Any) -> str:
    kind = cast(Any, type(result))
    plain = kind in (str, bytes, list, tuple, set, complex)
    return f"{reprlib.repr(result)} ({kind.__name__})" if plain else f"an object of type {kind.__name__}"


def call(prepared: Prepared, folder: str) -> Answer:
    try:
        result = prepared.function(*prepared.arguments, **prepared.keywords)
        if type(result) is not float and hasattr(cast(Any, type(result)), "__await__"):
            result = _finish(result)
        return judge(result)
    except BaseException as error:  # exit(), Ctrl-C and the like are this call's failure, not the worker's
        return raised(error, folder)


def raised(error: BaseException, folder: str) -> Answer:
    passes = isinstance(error, ConnectionError | TimeoutError | Retry)
    return Answer("retry" if passes else "exception", error=describe(error, folder))


def _finish(awaitable: Any) -> Any:
    """Runs a coroutine to its end, on one event loop for the life of the worker."""
    import asyncio  # few rewards need it

    async def wait() -> Any:
        return await awaitable

    global _loop
    if _loop is None or _loop.is_closed():
        _loop = asyncio.new_event_loop()
        asyncio.set_event_loop(_loop)
    return _loop.run_until_complete(wait())


_loop: Any = None


def seed_generators(key: str) -> None:
    """The same numbers for the same call, whichever worker runs it and however often. Seeding takes longer than all
    else that we do for a call, so what nobody has imported is left alone (`SeedOnImport`)."""
    global _key
    _key = key
    if "random" in sys.modules:
        sys.modules["random"].seed(key)
    numpy = sys.modules.get("numpy")
    if numpy is not None and hasattr(numpy, "random"):
        numpy.random.seed(number_of(key))


def number_of(key: str) -> int:
    return zlib.crc32(key.encode())


_key = ""


class SeedOnImport:
    """Seeds `random` for the call in which it is first imported. To be put in front of `sys.meta_path`."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname != "random":
            return None
        sys.meta_path.remove(self)  # it has done its work, and would find itself
        spec = importlib.util.find_spec(fullname)
        loader: Any = spec and spec.loader
        execute = loader.exec_module

        def execute_and_seed(module: Any) -> None:
            execute(module)
            module.seed(_key)

        loader.exec_module = execute_and_seed
        return spec
