"""What trains: the protocol and the table of two, found by a string and imported only when used."""

from __future__ import annotations

from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import Protocol

from runner.grpo.outlook import Outlook
from runner.grpo.run import Run
from runner.grpo.types import Completion, Example
from runner.journal.events import Difference
from runner.spec.errors import Finding
from runner.spec.model import JobSpec

BACKENDS = {
    "trl": "runner.backends.trl.backend:TRLBackend",
    "emulator": "emulator.backend:EmulatorBackend",
}


class Backend(Protocol):
    """Generates and updates. Knows nothing of YAML, SQLite, the queue, or how rewards are run."""

    def check(self, job: JobSpec, train: Sequence[Example] = (), held_out: Sequence[Example] = ()) -> list[Finding]:
        """What would stop this job on this machine, without loading weights. Empty when it can run.

        Paths in `job` are absolute (`runner.grpo.inputs.absolute_paths`); the examples are its data.
        """
        ...

    def differences(
        self, job: JobSpec, train: Sequence[Example] = (), held_out: Sequence[Example] = ()
    ) -> list[Difference]:
        """What the job asks for and this backend does not honour."""
        ...

    def outlook(self, job: JobSpec, train: Sequence[Example] = ()) -> Outlook:
        """What `check` can't know without the model's configuration and tokenizer: whether they are there and fit the
        prompts, and what memory it takes. No weights are loaded; only for a job that `check` has nothing against.
        """
        ...

    def train(self, job: JobSpec, run: Run) -> None:
        """Runs from `run.resume_from` to `run.finish`. Raises `Stopped` never: it returns when told to stop."""
        ...

    def generate(self, job: JobSpec, at: Path | None, examples: Sequence[Example], n: int) -> list[list[Completion]]:
        """n completions for each example, from the checkpoint folder `at` or from the base model, drawn as the job
        trains and from its seed. `grpo.temperature` may be 0 here: greedy.

        Raises JobError for a prompt it has nothing for.
        """
        ...

    def model_folder(self, job: JobSpec) -> Path | None:
        """Where the model that the job begins with lies on this machine; None where it has no weights or isn't here."""
        ...


def load_backend(name: str) -> Backend:
    """The backend of that name. Imports torch and the like, as far as the backend needs them."""
    module, _, attribute = BACKENDS[name].partition(":")
    backend: Backend = getattr(import_module(module), attribute)()
    return backend
