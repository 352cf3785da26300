"""The command line: one thin module for each verb, imported when it is called."""

from __future__ import annotations

import gc
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from runner.ci.warm import Warm


def main() -> None:
    """Entry point of `runner`."""
    try:
        with ExitStack() as stack:
            warm = stack.enter_context(_warm(sys.argv[2:])) if sys.argv[1:2] == ["emulate"] else None
            from runner.cli.app import build

            build()(prog_name="runner", obj=warm)
    finally:
        # Else the interpreter's end looks through all that was imported: a tenth of a second. So nothing is closed by
        # the collector there: who opens a database or a file closes it.
        gc.freeze()


def _warm(arguments: Sequence[str]) -> Warm:
    """The process that `emulate` starts its trainers from, before anything else: it has the most to import."""
    from runner.ci.warm import Warm, may_train_lm

    return Warm.start(for_lm=may_train_lm(arguments))
