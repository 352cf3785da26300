from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from runner.monitor.server import Monitor
from tests.monitor.kit import TOKEN, record, settings


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home with one recorded run, `countdown-1`."""
    path = tmp_path_factory.mktemp("home")
    record(path)
    return path


@pytest.fixture(scope="module")
def monitor(home: Path) -> Iterator[Monitor]:
    """Without a token: for what the pages show."""
    with Monitor(settings(home)) as running:
        yield running


@pytest.fixture(scope="module")
def locked(home: Path) -> Iterator[Monitor]:
    """With a token: for who may see it."""
    with Monitor(settings(home, TOKEN)) as running:
        yield running
