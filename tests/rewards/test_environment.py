"""`packages:`: an environment of its own, built once, recorded with the run."""

from __future__ import annotations

import importlib.util
import json
import marshal
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import pytest

from runner.rewards import bundle
from runner.rewards.environment import Environment, cache_folder, ensure, index_settings, recall, without_passwords
from runner.rewards.host import RewardHost, RewardLoadError
from runner.spec.errors import JobError
from runner.spec.model import Reward
from tests.cli.kit import JOB, ROOT, as_json, cli, make_job
from tests.rewards.helpers import group


def wheel(folder: Path, name: str, version: str, source: str, **more: bytes) -> None:
    """A package, without an index to get it from. `more`: files in its `__pycache__`."""
    folder.mkdir(exist_ok=True)
    info = f"{name}-{version}.dist-info"
    with zipfile.ZipFile(folder / f"{name}-{version}-py3-none-any.whl", "w") as file:
        file.writestr(f"{name}.py", source)
        for part, content in more.items():
            file.writestr(f"__pycache__/{part}.{sys.implementation.cache_tag}.pyc", content)
        file.writestr(f"{info}/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
        file.writestr(
            f"{info}/WHEEL", "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        file.writestr(f"{info}/RECORD", f"{name}.py,,\n{info}/METADATA,,\n{info}/WHEEL,,\n{info}/RECORD,,\n")


@pytest.fixture(autouse=True)
def packages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Two versions of a package and nowhere else to look; an empty cache."""
    folder = tmp_path / "wheels"
    wheel(folder, "greeting", "1.0", "def value():\n    return 1.0\n")
    wheel(folder, "greeting", "2.0", "def value():\n    return 2.0\n")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    monkeypatch.setenv("UV_OFFLINE", "1")
    monkeypatch.setenv("UV_FIND_LINKS", str(folder))
    monkeypatch.setenv("UV_CACHE_DIR", str(tmp_path / "uv"))
    return folder


def test_an_environment_is_built_once_and_then_found_at_once() -> None:
    first = ensure(["greeting==1.*"])
    assert first.locked == ["greeting==1.0"]
    assert first.packages == ["greeting==1.*"]
    seconds: list[float] = []
    for _ in range(5):
        began = time.perf_counter()
        assert ensure(["greeting==1.*"]) == first
        seconds.append(time.perf_counter() - began)
    assert min(seconds) <= 0.05
    assert ensure(["greeting"]).locked == ["greeting==2.0"]
    assert sorted(path.suffix for path in cache_folder().iterdir()) == ["", "", ".lock", ".lock"]


def test_processes_that_want_it_at_once_build_it_once() -> None:
    code = "from runner.rewards.environment import ensure; print(ensure(['greeting']).python)"
    started = [
        subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, stdout=subprocess.PIPE, text=True) for _ in range(3)
    ]
    said = {process.communicate()[0] for process in started}
    assert len(said) == 1 and said.pop().strip().endswith("/bin/python")
    assert len([path for path in cache_folder().iterdir() if path.is_dir()]) == 1


def test_the_order_of_the_packages_does_not_matter_and_the_index_does(monkeypatch: pytest.MonkeyPatch) -> None:
    one = ensure(["greeting==1.0", "greeting"])
    assert ensure(["greeting", "greeting==1.0"]).key == one.key
    monkeypatch.setenv("UV_INDEX", "http://localhost:1/simple")
    assert ensure(["greeting==1.0", "greeting"]).key != one.key


def test_packages_that_do_not_exist_are_told_in_the_resolvers_words() -> None:
    with pytest.raises(JobError) as refused:
        ensure(["greeting==3.*"])
    (finding,) = refused.value.findings
    assert finding.code == "packages" and finding.field == "packages"
    assert finding.message.startswith("the packages can't be installed: No solution found when resolving dependencies")
    assert "greeting==3.*" in finding.message and "\n" not in finding.message and "Using Python" not in finding.message
    assert not [path for path in cache_folder().iterdir() if path.is_dir()]


def compiled(environment: Environment, module: str) -> Path:
    """The file of bytecode that its interpreter uses for the module."""
    code = f"import {module}; print({module}.__cached__)"
    return Path(subprocess.check_output([environment.python, "-c", code], text=True).strip())


def test_a_source_is_compiled_once_for_all_environments(packages: Path) -> None:
    wheel(packages, "parting", "1.0", "def value():\n    return 3.0\n")
    one, two = ensure(["greeting==1.0"]), ensure(["greeting==1.0", "parting"])
    assert one.key != two.key
    assert compiled(one, "greeting").samefile(compiled(two, "greeting"))
    code = "import greeting; print(greeting.value(), greeting.value.__code__.co_filename)"
    said = subprocess.check_output([two.python, "-c", code], text=True).split()
    assert said[0] == "1.0" and said[1].startswith(str(cache_folder() / two.key))


def test_bytecode_that_a_package_brings_along_is_never_used(packages: Path) -> None:
    source = "def value():\n    return 1.0\n"
    code = compile("def value():\n    return 666.0\n", "evil.py", "exec")
    unchecked = importlib.util.MAGIC_NUMBER + (1).to_bytes(4, "little") + bytes(8) + marshal.dumps(code)
    wheel(packages, "evil", "1.0", source, evil=unchecked)
    wheel(packages, "honest", "1.0", source)
    for name in ("evil", "honest"):
        said = subprocess.check_output(
            [ensure([name]).python, "-c", f"import {name}; print({name}.value())"], text=True
        )
        assert said == "1.0\n"


def test_a_file_that_is_no_python_does_not_keep_a_package_out(packages: Path) -> None:
    wheel(packages, "template", "1.0", "def {{ name }}():\n")
    assert ensure(["template"]).locked == ["template==1.0"]


SOURCE = """
def score(prompt, completion, example):
    import greeting
    return greeting.value()

def other(prompt, completion, example):
    import numpy
    return 1.0
"""


def version(folder: Path, packages: list[str] | None) -> bundle.Bundle:
    (folder / "rewards.py").write_text(SOURCE)
    rewards = {name: Reward(fn=f"rewards.py:{name}") for name in ("score", "other")}
    return bundle.locked(bundle.build(rewards, folder, packages))


def test_rewards_see_their_packages_and_the_standard_library_only(tmp_path: Path) -> None:
    with RewardHost(bundle.write(version(tmp_path, ["greeting<2"]), tmp_path / "versions"), seed=0) as host:
        ((score, other),) = host.score([group(["x"])], step=1, split="train")
    assert score.value == 1.0
    assert "No module named 'numpy'" in (other.error or "")


def test_without_packages_rewards_see_what_the_runner_has(tmp_path: Path) -> None:
    with RewardHost(bundle.write(version(tmp_path, None), tmp_path / "versions"), seed=0) as host:
        ((score, other),) = host.score([group(["x"])], step=1, split="train")
    assert "No module named 'greeting'" in (score.error or "")
    assert other.value == 1.0


def test_the_locked_versions_are_part_of_the_reward_version(tmp_path: Path, packages: Path) -> None:
    old = version(tmp_path, ["greeting>=1"])
    assert old.locked == ["greeting==2.0"]
    assert old.sha256 != version(tmp_path, ["greeting<2"]).sha256 != version(tmp_path, None).sha256
    written = bundle.write(old, tmp_path / "versions")
    assert bundle.read(written) == old


def test_a_recorded_version_gets_its_own_packages_back_when_newer_ones_are_out(tmp_path: Path, packages: Path) -> None:
    old = version(tmp_path, ["greeting"])
    assert old.packages is not None and old.locked == ["greeting==2.0"]
    subprocess.run(["rm", "-r", str(cache_folder())], check=True)
    wheel(packages, "greeting", "3.0", "def value():\n    return 3.0\n")
    assert recall(old.packages, old.locked).locked == ["greeting==2.0"]
    with RewardHost(bundle.write(old, tmp_path / "versions"), seed=0) as host:
        assert host.score([group(["x"])], step=1, split="train")[0][0].value == 2.0


def test_a_module_that_is_missing_at_import_names_the_way_out(tmp_path: Path) -> None:
    (tmp_path / "rewards.py").write_text("import numpy\ndef score(prompt, completion, example):\n    return 1\n")
    built = bundle.locked(bundle.build({"score": Reward(fn="rewards.py:score")}, tmp_path, []))
    with pytest.raises(RewardLoadError) as failed:
        RewardHost(bundle.write(built, tmp_path / "versions"), seed=0)
    (finding,) = failed.value.findings
    assert finding.line == 1 and "`packages:`" in finding.hint


def test_a_run_records_what_its_packages_came_to(tmp_path: Path) -> None:
    source = "import greeting\n\ndef right(p, c, e):\n    return greeting.value()\n\ndef long(p, c, e):\n    return 1\n"
    make_job(tmp_path, rewards=source, job=JOB + "packages: [greeting]\n")
    done = cli("emulate", "colours", "--json", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    run = tmp_path / ".runner/runs" / as_json(done)["run"]
    recorded = json.loads((run / "environment.json").read_text())
    assert (recorded["packages"], recorded["locked"]) == (["greeting"], ["greeting==2.0"])


def test_a_run_whose_packages_can_not_be_had_is_not_submitted(tmp_path: Path) -> None:
    make_job(tmp_path, job=JOB + "packages: [no-such-package-of-ours]\n")
    done = cli("submit", "colours", cwd=tmp_path)
    assert done.returncode == 2
    assert "job.yaml:10:11: error[packages]" in done.stderr and "no-such-package-of-ours" in done.stderr
    assert cli("ls", "--json", cwd=tmp_path).stdout.count('"id"') == 0


def test_options_and_paths_are_no_packages(tmp_path: Path) -> None:
    make_job(tmp_path, job=JOB + 'packages: ["--index-url=http://evil", "./local"]\n')
    done = cli("validate", "colours", cwd=tmp_path)
    assert done.returncode == 2
    assert done.stderr.count("error[pattern]") == 2


def test_pips_settings_are_passed_on_where_uv_has_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = tmp_path / "pip.conf"
    config.write_text(
        "[global]\nindex-url = https://me:secret@host/simple\nextra-index-url =\n  https://a/\n  https://b/\n"
    )
    for name in (
        "UV_FIND_LINKS",
        "PIP_INDEX_URL",
        "PIP_EXTRA_INDEX_URL",
        "SSL_CERT_FILE",
        "PIP_CERT",
        "PIP_FIND_LINKS",
    ):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PIP_CONFIG_FILE", str(config))
    assert index_settings() == {
        "UV_DEFAULT_INDEX": "https://me:secret@host/simple",
        "UV_INDEX": "https://a/ https://b/",
    }
    monkeypatch.setenv("PIP_EXTRA_INDEX_URL", "https://c/")
    monkeypatch.setenv("UV_DEFAULT_INDEX", "https://own/")
    assert index_settings() == {"UV_DEFAULT_INDEX": "https://own/", "UV_INDEX": "https://c/"}


def test_passwords_of_an_index_are_told_nobody() -> None:
    assert (
        without_passwords("at https://me:s3cret@host/simple/x and http://h/")
        == "at https://host/simple/x and http://h/"
    )
