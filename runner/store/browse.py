"""Pages of completions, prompts and reward logs, whatever the size of the run.

A page costs what it shows. Where an index gives the order, it is followed. What no index answers (a text, a score
between two bounds) is looked for in windows of candidates, for a limited time: a page may then come back short, or
empty, with a cursor to go on from. Measured on a million completions of 450 bytes: all of them are searched for a text
in about a second, where a trigram index would take minutes to build and as much room again.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, Generic, Literal, TypeVar

from runner.journal.events import Split
from runner.store.ingest import rollout_ids
from runner.store.queries import Where, with_scores
from runner.store.rows import CompletionRow, PromptRow, RewardLogRow, columns
from runner.store.store import Store

Row = TypeVar("Row")
Key = tuple[Any, ...]
Order = Literal["step", "best", "worst", "errors"]

WINDOW = 20_000
"""Candidates looked at between two looks at the clock."""
SECONDS = 0.4
"""Time for one page, after which it comes back with what there is."""
TEXT_CHARS = 1 << 20
"""Prompts and completions are given up to here."""
PAGE_CHARS = 8 << 20
"""A page ends early when its texts come to this; it has at least one row."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Page(Generic[Row]):
    rows: list[Row]
    next: Key | None
    """Where the next page begins; None at the end."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """Which completions; None leaves a condition out."""

    split: Split = "train"
    step: int | None = None
    group_id: int | None = None
    example_id: int | None = None
    reward: str | None = None
    """The function whose score `least` and `most` are about; None: the total."""
    least: float | None = None
    most: float | None = None
    text: str | None = None
    """In the completion. Case counts when it has a capital letter."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Walk:
    """Rows in the order of a key that an index has, and which of them are wanted."""

    source: str
    id: str = "r.id"
    base: Where
    """What the index answers."""
    filters: Where
    """What has to be looked at row by row."""
    key: tuple[str, ...]
    descending: bool = False
    begin: Key | None = None
    """Rows behind this key; None: from the first on."""
    end: Key | None = None
    """To this key, it included. In `base` it would compete with the cursor: SQLite uses one bound of a range."""

    def find(self, store: Store, after: Key | None, limit: int) -> tuple[list[Key], Key | None]:
        """Ids with keys of wanted rows behind `after`, and where to go on when the time was up first."""
        deadline = time.monotonic() + SECONDS
        found: list[Key] = []
        while True:
            edge = None if self.filters.empty else self._edge(store, after)
            found += self._hits(store, after, edge, limit - len(found))
            if edge is None or len(found) >= limit:
                return found, None
            if time.monotonic() > deadline:
                return found, edge
            after = edge

    def _edge(self, store: Store, after: Key | None) -> Key | None:
        """Key of the last candidate of the next window; None when fewer are left."""
        where, params = self._behind(after, None)
        sql = f"SELECT {', '.join(self.key)} FROM {self.source} WHERE {where} {self._by} LIMIT 1 OFFSET {WINDOW - 1}"
        row: Key | None = store.db.conn.execute(sql, params).fetchone()
        return row

    def _hits(self, store: Store, after: Key | None, edge: Key | None, limit: int) -> list[Key]:
        where, params = self._behind(after, edge)
        sql = f"SELECT {self.id}, {', '.join(self.key)} FROM {self.source} WHERE {where}"
        if not self.filters.empty:
            sql = f"{sql} AND {self.filters}"
            params += self.filters.params
        return store.db.conn.execute(f"{sql} {self._by} LIMIT ?", [*params, limit]).fetchall()

    def _behind(self, after: Key | None, edge: Key | None) -> tuple[str, list[object]]:
        forward, back = ("<", ">=") if self.descending else (">", "<=")
        key, marks = f"({', '.join(self.key)})", f"({', '.join('?' * len(self.key))})"
        conditions, params = [str(self.base)], list(self.base.params)
        for bound, sign in ((after or self.begin, forward), (edge or self.end, back)):
            if bound is not None:
                conditions.append(f"{key} {sign} {marks}")
                params += bound
        return " AND ".join(conditions), params

    @property
    def _by(self) -> str:
        return "ORDER BY " + ", ".join(f"{part} DESC" if self.descending else part for part in self.key)


def completions(
    store: Store, run_id: str, wanted: Wanted, *, order: Order = "step", after: Key | None = None, limit: int = 50
) -> Page[CompletionRow]:
    """Completions of one split with their scores. `best` and `worst` go by the total reward and leave out those without
    one; `errors` has those that a reward failed on, latest first. `after` is the `next` of the page before."""
    walk = _failed(store, run_id, wanted) if order == "errors" else _ordered(run_id, wanted, order)
    return _page(store, walk, after, limit)


def search(store: Store, run_id: str, text: str, *, after: Key | None = None, limit: int = 50) -> Page[CompletionRow]:
    """Completions of both splits with this text in them, latest first."""
    filters = Where()
    _contains(filters, "r.completion", text)
    begin, end = _all_of(store, run_id)
    walk = _Walk(
        source="rollouts r", base=Where(), filters=filters, key=("r.id",), descending=True, begin=begin, end=end
    )
    return _page(store, walk, after, limit)


def _all_of(store: Store, run_id: str) -> tuple[Key, Key]:
    """The ids of a run's rollouts, latest first."""
    low, high = rollout_ids(store.run(run_id).number)
    return (high,), (low + 1,)


def _ordered(run_id: str, wanted: Wanted, order: Order) -> _Walk:
    base, filters = Where(), Where()
    base.add("r.run_id = ?", run_id)
    base.add("r.split = ?", wanted.split)
    _place(base, wanted)
    _contains(filters, "r.completion", wanted.text)
    if wanted.reward or order == "step":
        _bounds(filters, wanted)
    if order == "step":
        # The sign keeps SQLite from following the order of steps where the prompt's few rollouts are found faster.
        first = "+r.step" if wanted.step is None and wanted.example_id is not None else "r.step"
        return _Walk(source="rollouts r", base=base, filters=filters, key=(first, "r.group_id", "r.idx"))
    few = wanted.step is not None or wanted.example_id is not None
    begin, end = _between(None if wanted.reward else wanted.least, None if wanted.reward else wanted.most)
    best = order == "best"
    return _Walk(
        source="rollouts r",
        base=base,
        filters=filters,
        key=("+r.reward" if few else "r.reward", "r.id"),
        descending=best,
        begin=end if best else begin,
        end=begin if best else end,
    )


def _between(least: float | None, most: float | None) -> tuple[Key, Key]:
    """Keys before and behind all rollouts with a reward between the two."""
    low, high = (-sys.float_info.max if least is None else least), (sys.float_info.max if most is None else most)
    return (low, 0), (high, 1 << 62)


def _failed(store: Store, run_id: str, wanted: Wanted) -> _Walk:
    base, filters = Where(), Where()
    base.add(_FAILED)
    filters.add(f"s.name = (SELECT min(s.name) FROM scores s WHERE s.rollout_id = r.id AND {_FAILED})")
    filters.add("r.split = ?", wanted.split)
    _place(filters, wanted)
    _bounds(filters, wanted)
    _contains(filters, "r.completion", wanted.text)
    begin, end = _all_of(store, run_id)
    source = "scores s CROSS JOIN rollouts r ON r.id = s.rollout_id"
    return _Walk(
        source=source, base=base, filters=filters, key=("s.rollout_id",), descending=True, begin=begin, end=end
    )


def _place(where: Where, wanted: Wanted) -> None:
    where.add("r.step = ?", wanted.step)
    where.add("r.group_id = ?", wanted.group_id)
    where.add("r.example_id = ?", wanted.example_id)


def _bounds(where: Where, wanted: Wanted) -> None:
    for sign, bound in ((">=", wanted.least), ("<=", wanted.most)):
        if wanted.reward is None:
            where.add(f"r.reward {sign} ?", bound)
        else:
            score = f"SELECT value FROM scores s WHERE s.rollout_id = r.id AND s.name = ?) {sign} ?"
            where.add(f"({score}", wanted.reward, bound)


def _contains(where: Where, column: str, text: str | None) -> None:
    """SQLite's `lower` ends at a NUL, and so does LIKE; behind one the text is found as it is written."""
    if text and text == text.lower():
        where.add(f"(instr(lower({column}), ?) > 0 OR instr({column}, ?) > 0)", text, text)
    elif text:
        where.add(f"instr({column}, ?) > 0", text)


def _page(store: Store, walk: _Walk, after: Key | None, limit: int) -> Page[CompletionRow]:
    found, edge = walk.find(store, after, limit + 1)
    rows, _ = _fill(_rollouts(store, [key[0] for key in found[:limit]]), limit, _size)
    return Page(rows=with_scores(store, rows), next=_next(found, len(rows), edge))


def _next(found: Sequence[Key], shown: int, edge: Key | None) -> Key | None:
    """Behind the last one shown when there are more, else where the time was up."""
    return found[shown - 1][1:] if len(found) > shown else edge


def _rollouts(store: Store, ids: Sequence[int]) -> Iterator[CompletionRow]:
    """In the order of the ids. One by one: a page of very long ones is cut before all of them are in memory."""
    names = [field.name for field in fields(CompletionRow) if field.name != "scores"]
    sql = (
        f"SELECT {', '.join('e.prompt' if name == 'prompt' else f'r.{name}' for name in names)} "
        "FROM json_each(?) j JOIN rollouts r ON r.id = j.value "
        "LEFT JOIN examples e ON e.run_id = r.run_id AND e.id = r.example_id ORDER BY j.key"
    )
    for values in store.db.conn.execute(sql, [f"[{','.join(map(str, ids))}]"]):
        row = CompletionRow(**dict(zip(names, values, strict=True)))
        yield replace(row, prompt=_cut(row.prompt), completion=_cut(row.completion))


def _cut(text: Any) -> Any:
    """Not by SQLite, whose `substr` ends at a NUL."""
    return text[:TEXT_CHARS] if text else text


def _size(row: CompletionRow) -> int:
    return len(row.prompt or "") + len(row.completion)


def _fill(rows: Iterable[Row], limit: int, size: Callable[[Row], int]) -> tuple[list[Row], bool]:
    """As many as a page takes, and whether there are more."""
    found: list[Row] = []
    total = 0
    for row in rows:
        total += size(row)
        if found and (len(found) == limit or total > PAGE_CHARS):
            return found, True
        found.append(row)
    return found, False


def completion(store: Store, rollout_id: int) -> CompletionRow | None:
    """One completion with its scores; None when there is none (any more)."""
    rows = with_scores(store, list(_rollouts(store, [rollout_id])))
    return rows[0] if rows else None


def prompts(
    store: Store,
    run_id: str,
    split: Split = "train",
    *,
    text: str | None = None,
    after: Key | None = None,
    limit: int = 50,
) -> Page[PromptRow]:
    """Prompts that have completions, by example id, with what came of each. `text` is in the prompt."""
    where = Where()
    where.add("e.run_id = ?", run_id)
    where.add("e.id > ?", after[0] if after else None)
    _contains(where, "e.prompt", text)
    used = "SELECT 1 FROM rollouts r WHERE r.run_id = e.run_id AND r.split = ? AND r.example_id = e.id"
    sql = f"SELECT e.id, e.prompt, e.columns FROM examples e WHERE {where} AND EXISTS ({used}) ORDER BY e.id LIMIT ?"
    found = store.db.conn.execute(sql, [*where.params, split, limit + 1])
    rows, more = _fill(found, limit, lambda row: len(row[1]) + len(row[2]))
    figures = _figures(store, run_id, split, [row[0] for row in rows])
    made = [PromptRow(row[0], _cut(row[1]), len(row[1]), row[2], *figures[row[0]]) for row in rows]
    return Page(rows=made, next=(rows[-1][0],) if more else None)


def _figures(store: Store, run_id: str, split: Split, ids: Sequence[int]) -> dict[int, tuple[Any, ...]]:
    """Example → number of completions, first and last step, best and mean reward."""
    sql = (
        "SELECT example_id, count(*), min(step), max(step), max(reward), avg(reward) FROM rollouts "
        "WHERE run_id = ? AND split = ? AND example_id IN (SELECT value FROM json_each(?)) GROUP BY example_id"
    )
    rows = store.db.conn.execute(sql, [run_id, split, f"[{','.join(map(str, ids))}]"])
    return {row[0]: tuple(row[1:]) for row in rows}


_FAILED = "s.outcome NOT IN ('ok', 'none')"
_LOGGED = "(s.error IS NOT NULL OR s.output IS NOT NULL)"
_OF_STEP = "SELECT id FROM rollouts WHERE run_id = ? AND split IN ('train', 'eval') AND step = ?"


def reward_logs(
    store: Store,
    run_id: str,
    *,
    name: str | None = None,
    outcome: str | None = None,
    step: int | None = None,
    text: str | None = None,
    after: Key | None = None,
    limit: int = 100,
) -> Page[RewardLogRow]:
    """Reward calls that failed or printed, in the order of the rollouts. `text` is in what they printed or their error;
    the outcome `failed` stands for every failure."""
    low, high = rollout_ids(store.run(run_id).number)
    base, filters = Where(), Where()
    base.add(_FAILED if outcome == "failed" else _LOGGED)
    base.add(f"s.rollout_id IN ({_OF_STEP})", run_id, step)
    filters.add("s.name = ?", name)
    filters.add("s.outcome = ?", None if outcome == "failed" else outcome)
    _contains(filters, "(coalesce(s.error, '') || char(10) || coalesce(s.output, ''))", text)
    key = ("s.rollout_id", "s.name")
    walk = _Walk(source="scores s", id=key[0], base=base, filters=filters, key=key, begin=(low, ""), end=(high, ""))
    found, edge = walk.find(store, after, limit + 1)
    rows = _logs(store, [place[1:] for place in found[:limit]])
    return Page(rows=rows, next=_next(found, len(rows), edge))


def _logs(store: Store, keys: Sequence[Key]) -> list[RewardLogRow]:
    sql = (
        f"SELECT {columns(RewardLogRow)} FROM json_each(?) j JOIN reward_logs l "
        "ON l.rollout_id = j.value ->> 0 AND l.name = j.value ->> 1 ORDER BY j.key"
    )
    return store.fetch(RewardLogRow, sql, [json.dumps(keys)])
