"""The folder against a model of a few lines: whatever people do to their files, in whatever order."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from runner.journal.states import Reason, State
from tests.small_job import write_job
from tests.watch.kit import Folder

NAMES = st.sampled_from(["a", "a", "a", "a", "b", "c", "d", "e"])
SEEDS = st.integers(0, 1)
FINAL = {"succeeded", "failed", "cancelled"}
BAD = "model: [\n"


class Model:
    """What a person expects: for each job its file and its runs, oldest first, as (seed, state)."""

    def __init__(self) -> None:
        self.files: dict[str, int | None] = {}
        """Seed in the file; None for one that can't be read."""
        self.seen: dict[str, int] = {}
        """Seed of the last good version of a file that the watch knows."""
        self.runs: dict[str, list[list[object]]] = {}

    def settle(self) -> None:
        """All that the watch may do after the files have lain still for a while."""
        for name, seed in self.files.items():
            if seed is not None:
                self._see(name, seed)
        gone = [name for name in self.seen if name not in self.files]
        if len(gone) <= max(3, len(self.seen) // 2):
            for name in gone:
                del self.seen[name]
                self._end_open(name)

    def _see(self, name: str, seed: int) -> None:
        before = self.seen.get(name)
        self.seen[name] = seed
        runs = self.runs.setdefault(name, [])
        counting = [run for run in runs if run[1] not in ("superseded", "deleted")]
        pending = next((run for run in runs if run[1] == "queued"), None)
        if seed in [run[0] for run in counting]:
            if pending and before is not None and before != seed and pending[0] == before:
                pending[1] = "superseded"
            return
        if pending:
            pending[1] = "superseded"
        runs.append([seed, "queued"])

    def _end_open(self, name: str) -> None:
        for run in self.runs.get(name, []):
            if run[1] == "queued":
                run[1] = "deleted"
            elif run[1] == "running":
                run[1] = "cancelled"


class FolderMachine(RuleBasedStateMachine):
    @initialize()
    def begin(self) -> None:
        self.path = Path(tempfile.mkdtemp(prefix="runner-model-"))
        template = write_job(self.path / "template", name="x")
        self.text = template.read_text()
        self.folder = Folder(self.path)
        for name in ("data.jsonl", "completions.jsonl", "rewards.py"):
            shutil.copy(template.parent / name, self.folder.jobs / name)
        self.model = Model()

    def _file(self, name: str) -> Path:
        return self.folder.jobs / f"{name}.yaml"

    @rule(name=NAMES, seed=SEEDS, settle=st.booleans())
    def write(self, name: str, seed: int, settle: bool) -> None:
        self._file(name).write_text(f"{self.text}seed: {seed}\n")
        self.model.files[name] = seed
        if settle:
            self.settle()

    @rule(name=NAMES, seed=SEEDS)
    def write_in_two_parts(self, name: str, seed: int) -> None:
        self.settle()
        whole = f"{self.text}seed: {seed}\n"
        self._file(name).write_text(whole[:40])
        self.folder.look(after=0.1)
        self.folder.look(after=0.4)
        self._file(name).write_text(whole)
        self.model.files[name] = seed

    @rule(name=NAMES, seed=SEEDS)
    def replace(self, name: str, seed: int) -> None:
        part = self.folder.jobs / f".{name}.part"
        part.write_text(f"{self.text}seed: {seed}\n# replaced\n")
        part.replace(self._file(name))
        self.model.files[name] = seed

    @precondition(lambda self: self.model.files)
    @rule(data=st.data())
    def damage(self, data: st.DataObject) -> None:
        name = data.draw(st.sampled_from(sorted(self.model.files)))
        self._file(name).write_text(BAD)
        self.model.files[name] = None

    @precondition(lambda self: self.model.files)
    @rule(data=st.data())
    def touch(self, data: st.DataObject) -> None:
        self._file(data.draw(st.sampled_from(sorted(self.model.files)))).touch()

    @precondition(lambda self: self.model.files)
    @rule(data=st.data())
    def delete(self, data: st.DataObject) -> None:
        """With time before and after: a file that comes as an equal one goes is a renamed one (see test_desk)."""
        name = data.draw(st.sampled_from(sorted(self.model.files)))
        self.settle()
        self._file(name).unlink()
        del self.model.files[name]
        self.settle()

    @rule()
    def settle(self) -> None:
        self.folder.settle(15)
        self.model.settle()
        self.compare()

    @rule(seconds=st.floats(0, 3))
    def look(self, seconds: float) -> None:
        """A look at some moment changes nothing of what will be."""
        self.folder.settle()
        self.model.settle()

    @rule()
    def another_watch(self) -> None:
        self.folder.restart()

    @rule()
    def start(self) -> None:
        """Everything that can."""
        for name, runs in self.model.runs.items():
            pending = [i for i, run in enumerate(runs) if run[1] == "queued"]
            if pending and not any(run[1] == "running" for run in runs):
                self.folder.begin(f"{name}-{pending[0] + 1}")
                runs[pending[0]][1] = "running"

    @rule(well=st.booleans())
    def finish(self, well: bool) -> None:
        """Everything that runs."""
        state, reason = (State.SUCCEEDED, Reason.FINISHED) if well else (State.FAILED, Reason.INTERNAL)
        for name, runs in self.model.runs.items():
            for i, run in enumerate(runs, start=1):
                if run[1] == "running":
                    self.folder.store.transition(f"{name}-{i}", state, reason)
                    run[1] = str(state)

    def compare(self) -> None:
        for name, runs in self.model.runs.items():
            expected = [{"deleted": "cancelled"}.get(str(state), str(state)) for _, state in runs]
            sql = "SELECT state FROM runs WHERE job = ? ORDER BY number"
            found = [state for (state,) in self.folder.store.db.conn.execute(sql, (name,))]
            assert found == expected, (name, found, expected)
        states = self.folder.states()
        for name, seed in self.model.files.items():
            assert states[name] == ("invalid" if seed is None else "valid"), name

    @invariant()
    def at_most_one_waits_and_one_runs(self) -> None:
        if hasattr(self, "folder"):
            open_runs = "SELECT job, state, count(*) AS n FROM runs WHERE state IN ('queued', 'running') GROUP BY 1, 2"
            sql = f"SELECT * FROM ({open_runs}) WHERE n > 1"
            assert self.folder.store.db.conn.execute(sql).fetchall() == []

    def teardown(self) -> None:
        if hasattr(self, "folder"):
            self.folder.store.close()
            shutil.rmtree(self.path)


@pytest.mark.parametrize("examples", [20, pytest.param(500, marks=pytest.mark.soak)])
def test_the_folder_behaves_as_its_model(examples: int) -> None:
    run_state_machine_as_test(
        FolderMachine,
        settings=settings(
            max_examples=examples,
            stateful_step_count=30,
            deadline=None,
            database=None,
            phases=(Phase.generate,) if examples < 100 else (Phase.generate, Phase.shrink),
            suppress_health_check=list(HealthCheck),
            derandomize=examples < 100,
        ),
    )
