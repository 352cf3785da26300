"""The folder against a model of a few lines: whatever people do to their files, in whatever order."""

from __future__ import annotations

import shutil
import tempfile
from dataclasses import dataclass
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
JUMPS = st.sampled_from([-86_400.0, -5.0, 5.0, 86_400.0])
BAD = "model: [\n"


@dataclass
class Run:
    id: str
    seed: int
    state: str = "queued"
    began: bool = False


class Model:
    """What a person expects: for each job its file, and of every name its runs, oldest first."""

    def __init__(self) -> None:
        self.files: dict[str, int | None] = {}
        """Seed in the file; None for one that can't be read."""
        self.seen: dict[str, int] = {}
        """Seed of the last good version of a file that the watch knows."""
        self.aliases: dict[str, list[str]] = {}
        """Job → names it had before its file was renamed."""
        self.runs: dict[str, list[Run]] = {}

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
                self.aliases.pop(name, None)
        self._start_lost_again()

    def rename(self, old: str, new: str) -> None:
        self.files[new] = self.files.pop(old)
        self.aliases[new] = [old, *self.aliases.pop(old, [])]
        del self.seen[old]

    def open(self, state: str) -> list[Run]:
        return [run for runs in self.runs.values() for run in runs if run.state == state]

    def vanish(self, run: Run) -> None:
        run.state = "held"
        self._start_lost_again()

    def _see(self, name: str, seed: int) -> None:
        before = self.seen.get(name)
        self.seen[name] = seed
        pending = self._pending(name)
        if seed in self._counting(name):
            if pending and before is not None and before != seed and pending.seed == before:
                pending.state = "superseded"
            return
        for alias in (name, *self._former(name)):
            if waiting := self._pending(alias):
                waiting.state = "superseded"
        runs = self.runs.setdefault(name, [])
        runs.append(Run(f"{name}-{len(runs) + 1}", seed))

    def _counting(self, name: str) -> set[int]:
        """Seeds that have their run: one that never began because its place was taken has none."""
        own = [run for run in self.runs.get(name, []) if run.began or run.state in ("queued", "failed", "succeeded")]
        older = [run for alias in self.aliases.get(name, []) for run in self.runs.get(alias, []) if run.began]
        return {run.seed for run in (*own, *older)}

    def _former(self, name: str) -> list[str]:
        return [alias for alias in self.aliases.get(name, []) if alias not in self.seen]

    def _pending(self, name: str) -> Run | None:
        return next((run for run in self.runs.get(name, []) if run.state == "queued"), None)

    def _end_open(self, name: str) -> None:
        for known in (name, *self._former(name)):
            for run in self.runs.get(known, []):
                if run.state in ("queued", "running"):
                    run.state = "cancelled"

    def _start_lost_again(self) -> None:
        """A run whose processes are gone waits again, unless it has no job any more, or a newer run has followed it."""
        for name in [*self.seen, *(alias for names in self.aliases.values() for alias in names)]:
            last = self.runs[name][-1] if self.runs.get(name) else None
            if last is not None and last.state == "held":
                last.state = "queued"


class FolderMachine(RuleBasedStateMachine):
    @initialize()
    def begin(self) -> None:
        self.path = Path(tempfile.mkdtemp(prefix="runner-model-"))
        template = write_job(self.path / "template", name="x", retry={"max": 1000, "backoff": "1s"})
        self.text = template.read_text()
        self.folder = Folder(self.path)
        for name in ("data.jsonl", "completions.jsonl", "rewards.py"):
            shutil.copy(template.parent / name, self.folder.jobs / name)
        self.model = Model()
        self.renamed = 0

    def _file(self, name: str) -> Path:
        return self.folder.jobs / f"{name}.yaml"

    def _some_file(self, data: st.DataObject) -> str:
        return data.draw(st.sampled_from(sorted(self.model.files)))

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
        name = self._some_file(data)
        self._file(name).write_text(BAD)
        self.model.files[name] = None

    @precondition(lambda self: self.model.files)
    @rule(data=st.data())
    def touch(self, data: st.DataObject) -> None:
        self._file(self._some_file(data)).touch()

    @precondition(lambda self: self.model.files)
    @rule(data=st.data())
    def delete(self, data: st.DataObject) -> None:
        """With time before and after: a file that comes as an equal one goes is a renamed one."""
        name = self._some_file(data)
        self.settle()
        self._file(name).unlink()
        del self.model.files[name]
        self.settle()

    @precondition(lambda self: any(seed is not None for seed in self.model.files.values()))
    @rule(data=st.data())
    def rename(self, data: st.DataObject) -> None:
        name = data.draw(st.sampled_from(sorted(n for n, seed in self.model.files.items() if seed is not None)))
        self.settle()
        self.renamed += 1
        self._file(name).rename(self._file(f"r{self.renamed}"))
        self.model.rename(name, f"r{self.renamed}")
        self.settle()

    @rule()
    def settle(self) -> None:
        self.folder.settle(15)
        self._obey()
        self.model.settle()
        self.compare()

    def _obey(self) -> None:
        """Runs whose stop was asked for end, and the watch looks after what has ended."""
        for run in self.model.open("running"):
            if self.folder.store.run(run.id).want == "delete":
                self.folder.vanish(run.id)
        self.folder.now += 2
        self.folder.keeper.look()

    @rule(seconds=st.floats(0, 3))
    def look(self, seconds: float) -> None:
        """A look at some moment changes nothing of what will be."""
        self.folder.look(after=seconds)
        self.settle()

    @rule()
    def another_watch(self) -> None:
        self.folder.restart()

    @rule()
    def crash_of_the_watch(self) -> None:
        """It dies between two looks, with files half judged."""
        self.folder.look(after=0.2)
        self.folder.restart()
        self.folder.look(after=0.2)
        self.settle()

    @rule(seconds=JUMPS)
    def clock_jump(self, seconds: float) -> None:
        self.folder.wall_jump += seconds

    @rule()
    def start(self) -> None:
        """Everything that can."""
        for runs in self.model.runs.values():
            if not any(run.state == "running" for run in runs):
                for run in [run for run in runs if run.state == "queued"]:
                    self.folder.begin(run.id)
                    run.state, run.began = "running", True

    @rule(well=st.booleans())
    def finish(self, well: bool) -> None:
        """Everything that runs."""
        state, reason = (State.SUCCEEDED, Reason.FINISHED) if well else (State.FAILED, Reason.INTERNAL)
        for run in self.model.open("running"):
            self.folder.finish(run.id, reason, state)
            run.state = str(state)

    @precondition(lambda self: self.model.open("running"))
    @rule(data=st.data())
    def crash_of_a_run(self, data: st.DataObject) -> None:
        self.settle()
        if running := self.model.open("running"):
            self._vanish([data.draw(st.sampled_from(running))])

    @rule()
    def reboot(self) -> None:
        """Of the machine: everything that ran is gone, the watch too."""
        self.settle()
        self.folder.restart()
        self._vanish(self.model.open("running"))

    def _vanish(self, runs: list[Run]) -> None:
        for run in runs:
            self.folder.vanish(run.id)
            self.model.vanish(run)
        self.settle()

    def compare(self) -> None:
        for name, runs in self.model.runs.items():
            expected = [run.state for run in runs]
            sql = "SELECT state FROM runs WHERE job = ? ORDER BY number"
            found = [state for (state,) in self.folder.store.db.conn.execute(sql, (name,))]
            assert found == expected, (name, found, expected)
        states = self.folder.states()
        for name, seed in self.model.files.items():
            assert states[name] == ("invalid" if seed is None else "valid"), name
        assert set(states) == set(self.model.files)

    @invariant()
    def at_most_one_waits_and_one_runs(self) -> None:
        if hasattr(self, "folder"):
            open_runs = "SELECT job, state, count(*) AS n FROM runs WHERE state IN ('queued', 'running') GROUP BY 1, 2"
            sql = f"SELECT * FROM ({open_runs}) WHERE n > 1"
            assert self.folder.store.db.conn.execute(sql).fetchall() == []

    def teardown(self) -> None:
        if hasattr(self, "folder"):
            self.folder.close()
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
