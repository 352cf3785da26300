"""Several jobs side by side from one warm process."""

from __future__ import annotations

import os
import selectors
from collections import deque
from collections.abc import Callable, Iterator, Sequence

from runner.api import RunHandle
from runner.ci.halt import Halt
from runner.ci.task import Task
from runner.ci.warm import Child

LOOK_SECONDS = 0.2
"""How often a stop or a used-up budget is looked for."""


class Pool:
    """Takes tasks through, so many at a time. Iterating gives each when it is over.

    `follow` stays with a run to its end, where one at a time is to be looked at.
    """

    def __init__(
        self, tasks: Sequence[Task], at_once: int, halt: Halt, follow: Callable[[RunHandle], None] | None = None
    ) -> None:
        self._waiting = deque(tasks)
        self._at_once = at_once
        self._halt = halt
        self._follow = follow
        self._selector = selectors.DefaultSelector()
        self._active: list[Task] = []
        self._stops = 0

    def __iter__(self) -> Iterator[Task]:
        with self._selector, self._halt.installed():
            while self._waiting or self._active:
                yield from self._fill()
                yield from self._hear()
                self._look()

    def _fill(self) -> Iterator[Task]:
        while self._waiting and len(self._active) < self._at_once:
            self._look()
            task = self._waiting.popleft()
            self._active.append(task)
            yield from self._go_on(task)

    def _go_on(self, task: Task) -> Iterator[Task]:
        child = task.next()
        while child is not None and task.handle is not None and self._follow is not None:
            self._follow(task.handle)
            self._look()
            child = task.next()
        if child is None:
            self._active.remove(task)
            yield task
        else:
            self._selector.register(child.life, selectors.EVENT_READ, (task, child))

    def _look(self) -> None:
        """Passes on every stop that was asked for: the first one also to what waits, so that it is never started."""
        self._halt.take()
        while self._stops < self._halt.count:
            self._stops += 1
            for task in (*self._active, *self._waiting):
                task.halt(*self._halt.reason)

    def _hear(self) -> Iterator[Task]:
        for key, _ in self._selector.select(LOOK_SECONDS if self._active else 0):
            task, child = _of(key)
            self._selector.unregister(child.life)
            if child.poll() is None:  # it has only said something
                self._selector.register(child.life, selectors.EVENT_READ, key.data)
            else:
                yield from self._go_on(task)


def _of(key: selectors.SelectorKey) -> tuple[Task, Child]:
    return key.data


def cores() -> int:
    """Cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
