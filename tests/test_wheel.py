"""What is built from a checkout has everything that a user needs: sdist → wheel → an environment without the checkout.

The wheel is made from the sdist, as an index would have it, with the build backend of this environment (no download).
The fresh environment has the wheel of its own, and the libraries of this one through a `.pth` file: a plain path, so
that what is installed here as editable is not found through it.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import sysconfig
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from urllib.request import urlopen

import pytest

from tests.monitor.browser import missing

ROOT = Path(__file__).parents[1]
CLEAN = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}


def run(*command: str | Path, cwd: Path) -> str:
    done = subprocess.run([*map(str, command)], cwd=cwd, env=CLEAN, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def fresh(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The `bin/` of an environment with the wheel."""
    if find_spec("hatchling") is None:
        missing("hatchling: pip install hatchling")
    folder = tmp_path_factory.mktemp("wheel")
    run(sys.executable, "-m", "hatchling", "build", "-t", "sdist", "-d", folder, cwd=ROOT)
    (sdist,) = folder.glob("*.tar.gz")
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet"]
    run(*pip, "wheel", "--no-deps", "--no-index", "--no-build-isolation", "-w", folder, sdist, cwd=folder)
    (wheel,) = folder.glob("*.whl")
    run(sys.executable, "-m", "venv", "--without-pip", "fresh", cwd=folder)
    python = folder / "fresh" / "bin" / "python"
    run(*pip, "--python", python, "install", "--no-deps", "--no-index", wheel, cwd=folder)
    where = run(python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))", cwd=folder).strip()
    (Path(where) / "shared.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return python.parent


@contextmanager
def monitor(fresh: Path, home: Path) -> Iterator[str]:
    """The address of a monitor that runs from the wheel."""
    command = [fresh / "runner", "ui", "--port", "0", "--no-token", "--home", home]
    with subprocess.Popen(command, cwd=home, env=CLEAN, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            yield process.stdout.readline().strip()
        finally:
            process.terminate()


def get(address: str) -> str:
    with urlopen(address, timeout=60) as answer:
        assert answer.status == 200
        return str(answer.read().decode())


def test_the_package_is_the_wheels_and_not_the_checkouts(fresh: Path, tmp_path: Path) -> None:
    found = run(
        fresh / "python", "-c", "import runner, emulator; print(runner.__file__, emulator.__file__)", cwd=tmp_path
    )
    assert str(ROOT) not in found and str(fresh.parent) in found


def test_every_asset_of_the_monitor_answers_from_an_installed_wheel(fresh: Path, tmp_path: Path) -> None:
    with monitor(fresh, tmp_path) as address:
        todo = re.findall(r'(?:src|href)="\./([^"]+)"', get(address))
        seen: set[str] = set()
        while todo:
            path = todo.pop()
            if path not in seen:
                seen.add(path)
                text = get(f"{address}{path}")
                todo += [f"assets/{name}" for name in re.findall(r"""["'`]\./([\w.-]+\.js)["'`]""", text)]
        assert json.loads(get(f"{address}api/v1/home"))["rights"] == ["view", "control"]
    built = {f"assets/{path.name}" for path in (ROOT / "runner/monitor/pages/dist/assets").iterdir()}
    assert seen == built


def test_a_job_is_written_emulated_and_exported_as_a_page_by_an_installed_wheel(fresh: Path, tmp_path: Path) -> None:
    run(fresh / "runner", "init", cwd=tmp_path)
    quick = ["--set", "emulator.steps=2", "--set", "emulator.expect=[]", "--set", "evaluation.limit=4", "--no-checks"]
    run(fresh / "runner", "emulate", "countdown", *quick, cwd=tmp_path)
    run(fresh / "runner", "export", "countdown-1", "--html", "run.html", cwd=tmp_path)
    assert "countdown-1" in (tmp_path / "run.html").read_text()
