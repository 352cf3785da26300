"""SQLite: the queue, and everything that happened. Every write is a function of this room."""

from __future__ import annotations

import sys
from importlib import import_module


def _load_sqlite_utils() -> None:
    """sqlite_utils imports pandas and numpy where there are any, for features that are not used here: a third of a
    second and 70 MB for every call of the command line. Loaded here without them, before this room asks for it."""
    absent = [name for name in ("pandas", "numpy") if name not in sys.modules]
    sys.modules.update(dict.fromkeys(absent))  # pyright: ignore  # None: an import raises ImportError
    try:
        import_module("sqlite_utils.db")
    finally:
        for name in absent:
            del sys.modules[name]


_load_sqlite_utils()
