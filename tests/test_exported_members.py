"""`import runner` is light, and gives what it says it gives."""

from __future__ import annotations

import ast
import inspect
import subprocess
import sys
from pathlib import Path

import pytest

import runner

ROOT = Path(runner.__file__).parent.parent
SOURCE = Path(runner.__file__).read_text()


def names_type_checkers_see() -> list[str]:
    """What is imported under `if TYPE_CHECKING`."""
    (guarded,) = [node for node in ast.parse(SOURCE).body if isinstance(node, ast.If)]
    imports = [node for node in guarded.body if isinstance(node, ast.ImportFrom)]
    return sorted(alias.name for node in imports for alias in node.names)


def test_the_public_names_are_sorted_and_are_the_ones_type_checkers_see() -> None:
    assert runner.__all__ == sorted(runner.__all__)
    assert sorted(runner.__all__) == names_type_checkers_see()


@pytest.mark.parametrize("name", runner.__all__)
def test_every_public_name_is_there_and_says_what_it_is(name: str) -> None:
    member = getattr(runner, name)
    assert member.__name__ == name
    assert inspect.getdoc(member)


def test_a_name_that_does_not_exist_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="'runner' has no attribute 'train'"):
        _ = runner.train  # pyright: ignore


def test_completion_in_a_notebook_offers_the_public_names() -> None:
    assert set(runner.__all__) <= set(dir(runner))


def test_importing_the_package_imports_nothing_but_a_bit_of_the_standard_library() -> None:
    code = "import sys; before = set(sys.modules); import runner; print(*sorted(set(sys.modules) - before))"
    done = subprocess.run([sys.executable, "-S", "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    outside = [name for name in done.stdout.split() if name.partition(".")[0] not in sys.stdlib_module_names]
    assert outside == ["runner"]
