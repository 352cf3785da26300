"""The pytest plugin: the fixture `reward`, and with `--runner-jobs` every job.yaml as tests.

pytest loads it in every project of the environment, so nothing but pytest and this file is imported until it is used.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

# pyright: reportUnknownMemberType=false
# (pytest's nodes are only partly typed)

if TYPE_CHECKING:
    from runner.testing import Checked, Function, RewardUnderTest

JOB_FILES = ("job.yaml", "job.yml", "job.json")


def pytest_addoption(parser: pytest.Parser) -> None:
    help_ = "collect every job.yaml: it is valid with its data, and its rewards load"
    parser.getgroup("runner").addoption("--runner-jobs", action="store_true", help=help_)


def pytest_collect_file(file_path: Path, parent: pytest.Collector) -> pytest.Collector | None:
    if file_path.name in JOB_FILES and parent.config.getoption("runner_jobs"):
        return JobFile.from_parent(parent, path=file_path)
    return None


class JobFile(pytest.File):
    """A job: two tests."""

    def collect(self) -> Iterator[pytest.Item]:
        yield JobItem.from_parent(self, name="is valid", test=_is_valid)
        yield JobItem.from_parent(self, name="rewards load", test=_rewards_load)


class JobItem(pytest.Item):
    """One test of a job."""

    def __init__(self, *, test: Callable[[Path], None], **keywords: Any) -> None:
        super().__init__(**keywords)
        self._test = test

    def runtest(self) -> None:
        self._test(self.path)

    def repr_failure(self, excinfo: pytest.ExceptionInfo[BaseException], style: Any = None) -> Any:
        """What is wrong with the job, as `runner validate` says it."""
        from runner.spec.errors import JobError, render

        if isinstance(excinfo.value, JobError):
            return render(excinfo.value.findings)
        return super().repr_failure(excinfo, style)

    def reportinfo(self) -> tuple[Path, int | None, str]:
        return self.path, None, f"{self.path.parent.name}: {self.name}"


def _is_valid(path: Path) -> None:
    from runner.queue.jobs import validate

    validate(path)


def _rewards_load(path: Path) -> None:
    import tempfile

    from runner.rewards import bundle
    from runner.rewards.host import RewardHost
    from runner.rewards.sandbox import settings_of
    from runner.spec.load import load

    loaded = load(path)
    with tempfile.TemporaryDirectory(prefix="rewards-") as folder:
        built = bundle.locked(bundle.build(loaded.job.rewards, loaded.folder, loaded.job.packages))
        version = bundle.write(built, Path(folder))
        settings = settings_of(loaded.job, loaded.folder)
        RewardHost(version, seed=loaded.job.seed, workers=1, steps=loaded.job.grpo.steps, settings=settings).close()


class RewardFixture:
    """`reward("rewards.py:score")` gives the function to call, in isolated workers; `reward.check(…)` checks it.

    Paths are relative to the test's file.
    """

    def __init__(self, folder: Path, stack: ExitStack) -> None:
        self._folder, self._stack = folder, stack

    def __call__(self, function: Function, **options: Any) -> RewardUnderTest:
        """See `runner.testing.RewardUnderTest`."""
        from runner.testing import RewardUnderTest

        return self._stack.enter_context(RewardUnderTest(function, folder=self._folder, **options))

    def check(self, function: Function, cases: Any = (), **options: Any) -> list[Checked]:
        """See `runner.testing.check_reward`."""
        from runner.testing import check_reward

        return check_reward(function, cases, folder=self._folder, **options)


@pytest.fixture
def reward(request: pytest.FixtureRequest) -> Iterator[RewardFixture]:
    """Reward functions under test, called as training calls them."""
    with ExitStack() as stack:
        yield RewardFixture(request.path.parent, stack)
