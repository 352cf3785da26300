"""What can go wrong in the store, for people."""

from __future__ import annotations

from typing import Literal


class StoreError(Exception):
    """A read or write of the store can't be done; the message says why and what to do."""


class DatabaseUnfit(StoreError):
    """The database can't be used as it is."""

    def __init__(self, code: Literal["missing", "older", "newer", "foreign", "damaged"], message: str) -> None:
        super().__init__(message)
        self.code = code


class UnknownRun(StoreError):
    """No run, or more than one, by that name."""


class IllegalTransition(StoreError):
    """The run's state does not allow this change. Final states never change."""


class SlotTaken(StoreError):
    """A job has one pending run for each backend, and another run is pending."""


class JournalError(StoreError):
    """A complete line of a journal can't be read or contradicts the rows; ingest of that run stops before it."""


class StoreUnavailable(StoreError):
    """The disk is full, or another writer holds the database for too long. Nothing was written; try again later."""


class DamagedDatabase(DatabaseUnfit):
    """The file is no sound SQLite database. `runner db rebuild` restores it from the run folders."""

    def __init__(self, message: str) -> None:
        super().__init__("damaged", message)
