"""Which job files a person means."""

from __future__ import annotations

from pathlib import Path

from runner.queue.home import Home, find_home
from runner.queue.jobs import find_job
from runner.spec.errors import Finding, JobError

ENDINGS = (".yaml", ".yml", ".json")


def home_of(home: Path | None) -> Home:
    """The home that `--home` names, or the one of the working directory."""
    return Home(home.resolve()) if home else find_home()


def is_job(path: Path) -> bool:
    """Whether it is a job file, or a folder with one."""
    return path.is_file() or any((path / f"job{ending}").is_file() for ending in ENDINGS)


def jobs_in(name: str, home: Path | None = None) -> list[Path]:
    """The job of that name or path, or every job in that folder of jobs. Raises JobError when there is none."""
    folder = Path(name)
    if folder.is_dir() and not is_job(folder):
        return _inside(folder)
    return [find_job(name, home_of(home))]


def jobs_of_home(home: Path | None) -> list[Path]:
    """Every job in the home's `jobs/`. Raises JobError when there is none."""
    return _inside(home_of(home).jobs)


def _inside(folder: Path) -> list[Path]:
    """`<name>/job.yaml` and `<name>.yaml`, in the order of names."""
    files = [path for ending in ENDINGS for path in (*folder.glob(f"*{ending}"), *folder.glob(f"*/job{ending}"))]
    found = sorted(path for path in files if path.is_file() and not path.name.startswith("."))
    if not found:
        message = f"{folder} holds no jobs: no <name>/job.yaml and no <name>.yaml"
        raise JobError([Finding(code="no-job", message=message, hint="`runner init` writes one", file=str(folder))])
    return found
