"""Which example comes when: a pure function of the seed and the position, so that a resume needs no state."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Sequence
from functools import lru_cache


@lru_cache(maxsize=4)
def permutation(seed: int, epoch: int, n: int) -> tuple[int, ...]:
    """Order of n examples in one pass over the data."""
    order = list(range(n))
    random.Random(f"order/{seed}/{epoch}").shuffle(order)
    return tuple(order)


def indices(seed: int, start: int, count: int, n: int) -> list[int]:
    """Indices of the examples at positions start … start + count − 1 of the endless stream of passes."""
    return [permutation(seed, position // n, n)[position % n] for position in range(start, start + count)]


def batch_of(step: int, steps_per_batch: int) -> int:
    """Number of the generation batch (from 0) that the 1-based step trains on."""
    return (step - 1) // steps_per_batch


LARGEST_MICRO_BATCH = 8
"""Completions in one forward pass where the job does not say: TRL's own default."""


def micro_batch(completions: int, at_most: int | None) -> int:
    """Completions in one forward pass: the greatest number up to `at_most` that divides the `completions` of a step."""
    limit = min(completions, at_most or LARGEST_MICRO_BATCH)
    return max(divisor for divisor in range(1, limit + 1) if completions % divisor == 0)


def rows_of(seed: int, step: int, rows: int, generate_every: int, num_iterations: int) -> list[int]:
    """Rows of its generation batch that the 1-based step trains on, in the order of its forward passes.

    As in TRL, the batch is shuffled once, cut into `generate_every` equal parts, and gone through `num_iterations`
    times.
    """
    batch = batch_of(step, generate_every * num_iterations)
    order = list(range(rows))
    random.Random(f"rows/{seed}/{batch}").shuffle(order)
    size, part = rows // generate_every, (step - 1) % generate_every
    return order[part * size : (part + 1) * size]


def draw_seeds(seed: int, split: str, step: int, example_ids: Sequence[int], n: int) -> list[list[int]]:
    """A 64-bit seed for every completion of a batch: [group][generation]. No generator state is ever kept."""
    return [
        [_seed(f"draw/{seed}/{split}/{step}/{group}/{example}/{i}") for i in range(n)]
        for group, example in enumerate(example_ids)
    ]


def _seed(text: str) -> int:
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little")
