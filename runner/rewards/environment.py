"""The Python environment of a job's rewards: built once by uv for each list of `packages`, then found by its key.

`packages:` absent, rewards see what is installed beside the runner (numpy, TRL's published rewards). Given, even as
`[]`, they see the standard library and the listed packages only. An environment is never changed once it is there.
Its packages are compiled beforehand, for rewards can't write what they import: their first call would pay each time.
"""

from __future__ import annotations

import configparser
import fcntl
import hashlib
import json
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from runner.rewards.bytecode import add_bytecode
from runner.spec.errors import Finding, JobError

LOCK = "lock.json"
PIP_TO_UV = {
    "index-url": "UV_DEFAULT_INDEX",
    "extra-index-url": "UV_INDEX",
    "find-links": "UV_FIND_LINKS",
    "trusted-host": "UV_INSECURE_HOST",
    "cert": "SSL_CERT_FILE",
}
"""pip's settings, and uv's environment variables for them. (Its own files, `uv.toml`, uv reads itself.)"""
DECIDING = ("UV_INDEX_STRATEGY", "UV_PRERELEASE", "UV_RESOLUTION", "UV_EXCLUDE_NEWER", "UV_CONSTRAINT", "UV_OVERRIDE")
"""Further variables of uv's that decide which versions are taken."""
SAME_AS = {"UV_DEFAULT_INDEX": ("UV_INDEX_URL",), "UV_INDEX": ("UV_EXTRA_INDEX_URL",)}
"""Older names, which the user may have set."""
PASSED_ON = ("PATH", "HOME", "LANG", "TMPDIR", "XDG_CACHE_HOME", "XDG_CONFIG_HOME", "NETRC", "SSL_CERT_DIR")
PROXIES = ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY")


@dataclass(frozen=True, slots=True, kw_only=True)
class Environment:
    """An environment that is there."""

    key: str
    python: str
    """The interpreter, to be called."""
    version: str
    """Of Python."""
    platform: str
    packages: Sequence[str]
    """As asked for."""
    locked: Sequence[str]
    """`name==version` of everything in it, sorted."""


def ensure(packages: Sequence[str]) -> Environment:
    """The environment of these packages; built, if it isn't there, in seconds to minutes. Processes that ask for it at
    once build it once. Raises JobError in the resolver's words."""
    settings = index_settings()
    key = _key(packages, settings)
    folder = cache_folder() / key
    if not (folder / LOCK).is_file():
        with _alone(folder):
            if not (folder / LOCK).is_file():
                _build(folder, sorted(packages), settings)
    return _read(folder)


def recall(packages: Sequence[str], locked: Sequence[str]) -> Environment:
    """The environment that a reward version was made with: by its packages, or where those give other versions by now,
    by exactly the versions recorded. Raises JobError."""
    found = ensure(packages)
    return found if list(found.locked) == list(locked) else ensure(locked)


def cache_folder() -> Path:
    """In `$RUNNER_CACHE`, else in the user's cache; compiled files are beside it."""
    if given := os.environ.get("RUNNER_CACHE"):
        return Path(given) / "envs"
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "grpo-runner" / "envs"


def _read(folder: Path) -> Environment:
    content = json.loads((folder / LOCK).read_text(encoding="utf-8"))
    return Environment(key=folder.name, python=str(folder / "bin" / "python"), **content)


def _key(packages: Sequence[str], settings: Mapping[str, str]) -> str:
    """Over everything that decides what an installation gives. Only a hash: an index's address may hold a password."""
    content = [platform.python_version(), _platform_name(), sorted(packages), sorted(settings.items())]
    return hashlib.sha256(json.dumps([*content, _uv_files()]).encode()).hexdigest()[:32]


@cache
def _platform_name() -> str:
    """`linux-x86_64` and the like."""
    import sysconfig

    return sysconfig.get_platform()


@contextmanager
def _alone(folder: Path) -> Generator[None]:
    """Holds the environment's lock file."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    with folder.with_name(f"{folder.name}.lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _build(folder: Path, packages: Sequence[str], settings: Mapping[str, str]) -> None:
    """Into a temporary folder that gets its name when it is whole. (`--relocatable`: scripts find it afterwards.)"""
    building = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".{folder.name}-"))
    python = building / "bin" / "python"
    try:
        _uv(settings, "venv", "--relocatable", "--allow-existing", "--python", sys.executable, str(building))
        if packages:
            install = ["pip", "install", "--python", str(python), "--no-compile-bytecode", "--requirements", "-"]
            _uv(settings, *install, given="\n".join(packages))
            add_bytecode(building, folder.parent.with_name("bytecode"))
        frozen = _uv(settings, "pip", "freeze", "--python", str(python))
        content = {
            "version": platform.python_version(),
            "platform": _platform_name(),
            "packages": list(packages),
            "locked": sorted(frozen.splitlines()),
        }
        (building / LOCK).write_text(json.dumps(content, indent=1), encoding="utf-8")
        building.chmod(0o755)
        os.rename(building, folder)
    finally:
        shutil.rmtree(building, ignore_errors=True)


def _uv(settings: Mapping[str, str], *arguments: str, given: str | None = None) -> str:
    """uv's stdout. Raises JobError with what it said when it fails."""
    command = [_uv_binary(), "--no-progress", "--color", "never", *arguments]
    passed = {name: os.environ[name] for name in _names_passed_on() if name in os.environ}
    done = subprocess.run(
        command, input=given, env={**passed, **settings}, cwd="/", capture_output=True, text=True, check=False
    )
    if done.returncode != 0:
        raise JobError([_failure(done.stderr or done.stdout)])
    return done.stdout


def _names_passed_on() -> list[str]:
    own = [name for name in os.environ if name.startswith("UV_")]
    return [*PASSED_ON, *PROXIES, *(name.lower() for name in PROXIES), *own]


def _failure(said: str) -> Finding:
    told = [line.strip() for line in without_passwords(said).split("\n") if not line.startswith("Using Python ")]
    text = " ".join(line.removeprefix("error: ").removeprefix("cause: ") for line in told if line)
    hint = "check the names and versions in `packages:`, and that the index is reached (`runner doctor`)"
    return Finding(code="packages", message=f"the packages can't be installed: {text}", hint=hint, field="packages")


def without_passwords(text: str) -> str:
    """The text with the user part of every address taken out."""
    return re.sub(r"(\w+://)[^\s/@]*@", r"\1", text)


@cache
def _uv_binary() -> str:
    """uv comes with the runner; one on the PATH does too. Raises JobError where there is none."""
    try:
        from uv import find_uv_bin  # pyright: ignore[reportMissingTypeStubs]

        return str(find_uv_bin())
    except (ImportError, FileNotFoundError):
        found = shutil.which("uv")
    if found is None:
        message, hint = "`packages:` needs uv, which is not installed", "`pip install uv`"
        raise JobError([Finding(code="packages", message=message, hint=hint, field="packages")])
    return found


# ---------------------------------------------------------------------------------------------------- the user's index


def index_settings() -> dict[str, str]:
    """Where packages come from, as environment variables of uv: the user's own `UV_…`, else pip's settings."""
    found = {name: os.environ[name] for name in DECIDING if name in os.environ}
    pip = _pip_settings()
    for name, variable in PIP_TO_UV.items():
        own = next((os.environ[n] for n in (variable, *SAME_AS.get(variable, ())) if os.environ.get(n)), None)
        value = own or pip.get(name)
        if value:
            separator = "," if variable == "UV_FIND_LINKS" else " "
            found[variable] = value if own else separator.join(value.split())
    return found


def _pip_settings() -> dict[str, str]:
    """pip's options by name: of its configuration files, the last one wins, then of `PIP_…` in the environment."""
    found: dict[str, str] = {}
    parser = configparser.RawConfigParser()
    for path in _pip_files():
        try:
            parser.read(path, encoding="utf-8")
        except (configparser.Error, UnicodeDecodeError):
            continue
    for section in ("global", "install"):
        if parser.has_section(section):
            found |= {name: value for name, value in parser.items(section) if name in PIP_TO_UV}
    for name in PIP_TO_UV:
        if value := os.environ.get(f"PIP_{name.upper().replace('-', '_')}"):
            found[name] = value
    return found


def _pip_files() -> list[Path]:
    """Where pip looks, in its order."""
    if (own := os.environ.get("PIP_CONFIG_FILE")) is not None:
        return [Path(own)] if own != os.devnull else []
    home = Path.home()
    config = Path(os.environ.get("XDG_CONFIG_HOME") or home / ".config")
    return [Path("/etc/pip.conf"), home / ".pip/pip.conf", config / "pip/pip.conf", Path(sys.prefix) / "pip.conf"]


def _uv_files() -> list[str]:
    """Hashes of the uv.toml files that uv will read."""
    config = Path(os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config")
    own = os.environ.get("UV_CONFIG_FILE")
    paths = [Path(own)] if own else [Path("/etc/uv/uv.toml"), config / "uv/uv.toml"]
    return [hashlib.sha256(path.read_bytes()).hexdigest() for path in paths if path.is_file()]
