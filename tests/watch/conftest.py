from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.watch.kit import WatchProcess


@pytest.fixture(autouse=True)
def _no_watch_outlives_its_test() -> Iterator[None]:
    yield
    for watch in WatchProcess.started:
        if watch.process.poll() is None:
            watch.process.kill()
        watch.wait()
    WatchProcess.started.clear()
