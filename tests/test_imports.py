"""The house rules that keep the rooms apart: one-way imports, and light ones."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent

ALLOWED = {
    "spec": {"spec", "journal"},
    "journal": {"journal"},
    "data": {"data", "spec", "journal"},
    "rewards": {"rewards", "spec", "journal"},
    "grpo": {"grpo", "data", "rewards", "spec", "journal"},
    "backends": {"backends", "grpo", "data", "rewards", "spec", "journal"},
    "emulator": {"emulator", "grpo", "data", "rewards", "spec", "journal"},
    "store": {"store", "journal"},
    "queue": {"queue", "store", "data", "rewards", "spec", "journal"},
    "draft": {"draft", "queue", "rewards", "spec", "journal"},
    "api": {"api", "queue", "store", "data", "rewards", "spec", "journal", "backends", "grpo"},
    "preflight": {"preflight", "preview", "rescoring", "api", "queue", "rewards", "spec", "backends", "grpo"},
    "artifact": {"artifact", "api", "data", "grpo", "store", "spec", "journal", "backends"},
    "answers": {"answers", "api", "data", "grpo", "store", "spec", "backends"},
    "ci": {"ci", "api", "queue", "store", "data", "rewards", "spec", "journal", "backends", "grpo"},
    "watch": {"watch", "api", "queue", "store", "spec", "journal"},
    "monitor": {"monitor", "rescoring", "api", "queue", "store", "rewards", "spec", "journal"},
    "preview": {"preview", "api", "queue", "store", "data", "rewards", "spec", "journal", "backends", "grpo"},
    "rescoring": {"rescoring", "preview", "api", "queue", "store", "data", "rewards", "spec", "journal", "grpo"},
    "testing": {"testing", "rewards", "spec", "journal"},
    "pytest_plugin": {"pytest_plugin", "testing", "queue", "rewards", "spec", "journal"},
    "cli": {
        "cli",
        "preview",
        "rescoring",
        "answers",
        "artifact",
        "preflight",
        "ci",
        "api",
        "draft",
        "queue",
        "store",
        "data",
        "rewards",
        "spec",
        "journal",
        "watch",
        "monitor",
    },
}
"""room → rooms it may import."""

HEAVY = ("torch", "trl", "transformers", "vllm", "fastapi", "sqlite_utils")


def rooms() -> list[tuple[str, Path]]:
    files = [(path.relative_to(ROOT / "runner").parts[0].removesuffix(".py"), path) for path in source("runner")]
    return [(room, path) for room, path in files if room != "__init__"] + [("emulator", p) for p in source("emulator")]


def source(folder: str) -> list[Path]:
    return [path for path in sorted((ROOT / folder).rglob("*.py")) if "templates" not in path.parts]


def imported_rooms(path: Path) -> set[str]:
    """Rooms of ours that a file imports, anywhere in it."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        names: list[str] = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module == "runner":
            names = [f"runner.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names = [node.module or ""]
        for name in names:
            parts = name.split(".")
            if parts[0] == "runner" and len(parts) > 1:
                found.add(parts[1])
            elif parts[0] == "emulator":
                found.add("emulator")
    return found


def test_every_room_imports_only_the_rooms_before_it() -> None:
    wrong = {
        f"{path.relative_to(ROOT)} imports {other}"
        for room, path in rooms()
        for other in imported_rooms(path)
        if other not in ALLOWED.get(room, set())
    }
    assert wrong == set()


def test_importing_the_package_or_the_cli_brings_in_nothing_heavy() -> None:
    for module in ("runner", "runner.cli", "runner.spec.load", "emulator.backend"):
        code = f"import {module}, sys; print(*[m for m in {HEAVY!r} if m in sys.modules])"
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True)
        assert done.stdout.strip() == "", module


def test_the_supervisor_and_the_reward_processes_need_only_the_standard_library() -> None:
    siblings = {
        *("zygote", "worker", "channel", "answering", "lane", "texts"),
        *("refusals", "confine", "landlock", "seccomp", "probe"),
    }
    for path in (ROOT / "runner/queue/supervise.py", *(ROOT / f"runner/rewards/{name}.py" for name in siblings)):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom) and node.level:
                names = {node.module} if node.module else {alias.name for alias in node.names}
                assert names <= siblings, path
            elif isinstance(node, ast.Import | ast.ImportFrom):
                name = (node.module or "") if isinstance(node, ast.ImportFrom) else node.names[0].name
                assert name.split(".")[0] in {*sys.stdlib_module_names, "runner"}, path


def test_functions_stay_short_and_files_small() -> None:
    long_functions: list[str] = []
    long_files: list[str] = []
    for _, path in rooms():
        text = path.read_text()
        if text.count("\n") > 420:
            long_files.append(str(path))
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and lines(node) > 70:
                long_functions.append(f"{path}:{node.lineno} {node.name}")
    assert long_functions == []
    assert long_files == []


def lines(node: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    assert node.end_lineno is not None
    return node.end_lineno - node.lineno + 1
