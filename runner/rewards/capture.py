"""Plain functions, from a notebook or a script → one `rewards.py` that runs by itself.

A function's text alone would leave behind what it uses, and would fail where nobody sees it, in the middle of a run. So
everything it needs comes along: helper functions and classes with their source, imports, and constants by their value.
What installed modules define is imported. What can't be written out is refused, everything at once, with the way out.
"""

from __future__ import annotations

import ast
import builtins
import contextlib
import functools
import inspect
import symtable
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from types import FunctionType, ModuleType
from typing import Any

from runner.rewards.literal import Unwritable, literal
from runner.rewards.origin import NoSource, Source, home_of, is_installed, source_of
from runner.rewards.source import check_function
from runner.rewards.styles import Style

TITLE = '"""Reward functions, written out from the Python functions that the job was made with."""'
OF_NOTEBOOKS = {"display", "get_ipython"}
"""Names that notebooks put among the builtins; no other process has them."""

Namespace = Mapping[str, Any]


class CaptureError(ValueError):
    """Functions that can't be written into a file. The message has every reason, each with the way out."""

    def __init__(self, problems: Iterable[str]) -> None:
        self.problems = tuple(problems)
        super().__init__("\n".join(self.problems))


def capture(
    functions: Mapping[str, Callable[..., Any]],
    setup: Callable[[], Any] | None = None,
    styles: Mapping[str, Style] | None = None,
) -> str:
    """The text of a `rewards.py` that defines the functions, each under its own `__name__`; the mapping's keys are the
    rewards' names in the job. `setup` is called once in each reward worker before its first call; global names that it
    sets are left to it. `styles`: of those that are not our own. None of the functions is called here.
    Raises CaptureError."""
    file = _File()
    if setup is not None:
        file.add_setup(setup)
    for name, function in functions.items():
        file.add_reward(name, function)
    if not file.problems:
        text = file.text()
        file.check(text, functions, styles or {})
        if not file.problems:
            return text
    raise CaptureError(file.problems)


class _File:
    """What the file has got so far, and why it can't be written."""

    def __init__(self) -> None:
        self.problems: dict[str, None] = {}
        self._bound: dict[str, Any] = {}
        """What each name of the file stands for: no name may stand for two things."""
        self._imports: set[str] = set()
        self._constants: dict[str, str] = {}
        self._definitions: dict[str, str] = {}
        """By name, each after those it uses."""
        self._of_setup: set[str] = set()
        self._trail: list[str] = []
        """The reward that is being written out and the helpers that led here, for messages."""

    # The file

    def text(self) -> str:
        body = "\n\n\n".join(text.rstrip() for text in self._definitions.values())
        constants = "\n".join(f"{name} = {value}" for name, value in sorted(self._constants.items()))
        future = "from __future__ import annotations" if _is_annotated(body) else ""
        imports = "\n".join(_sorted_imports(self._imports))
        head = "\n\n".join(part for part in (TITLE, future, imports, constants) if part)
        return f"{head}\n\n\n{body}\n" if body else f"{head}\n"

    def check(self, text: str, functions: Mapping[str, Callable[..., Any]], styles: Mapping[str, Style]) -> None:
        """A last look at the whole: it must be Python and define every function, callable as a reward."""
        tree = ast.parse(text, "rewards.py")
        compile(tree, "rewards.py", "exec")
        for name, function in functions.items():
            self._trail = [name]
            style = styles.get(name, "runner")
            finding = check_function(tree, name_of(function), "rewards.py", Path(), style)
            if finding is not None:
                self._problem(finding.message.removeprefix(f"{name_of(function)} "), finding.hint)

    # What it is made of

    def add_reward(self, name: str, function: Callable[..., Any]) -> None:
        self._trail = [name]
        refusal = _not_a_function(function) or _not_a_reward(function)
        if refusal is not None:
            self._problem(*refusal)
        else:
            self._name(name_of(function), function, getattr(inspect.unwrap(function), "__globals__", {}))

    def add_setup(self, setup: Callable[[], Any]) -> None:
        self._trail = ["setup"]
        refusal = _not_a_function(setup) or _takes_parameters(setup)
        if refusal is not None:
            self._problem(*refusal)
            return
        with contextlib.suppress(NoSource):  # told when it is written out
            self._of_setup = set(_declared_global(source_of(setup).node))
        self._name("setup", setup, getattr(inspect.unwrap(setup), "__globals__", {}))

    def _name(self, name: str, value: Any, namespace: Namespace) -> None:
        """Makes the file's `name` stand for `value`, which code of `namespace` uses."""
        if name in self._bound:
            if self._bound[name] is not value and not self._is_same_constant(name, value):
                self._problem(f"two different things are named `{name}`", "rename one of them")
            return
        self._bound[name] = value
        if name in self._of_setup:
            self._constants[name] = "None"
        elif isinstance(value, ModuleType):
            self._module(name, value)
        elif (home := home_of(value)) is not None and "." not in home[1]:
            module, own = home
            self._imports.add(f"from {module} import {own}" + (f" as {name}" if own != name else ""))
        elif isinstance(value, type | functools.partial) or inspect.isroutine(value) or hasattr(value, "__wrapped__"):
            self._definition(name, value, namespace)
        else:
            self._constant(name, value)

    def _is_same_constant(self, name: str, value: Any) -> bool:
        try:
            return self._constants.get(name) == literal(value, lambda _: None)
        except Unwritable:
            return False

    def _module(self, name: str, module: ModuleType) -> None:
        own = module.__name__
        if is_installed(own):
            self._imports.add(f"import {own}" if own == name else f"import {own} as {name}")
        else:
            hint = f"`from {own} import …` the functions it needs, or keep the rewards in a rewards.py beside the job"
            self._problem(f"uses `{name}`, a module of your own", hint)

    def _constant(self, name: str, value: Any) -> None:
        needed: list[Any] = []
        try:
            text = literal(value, lambda part: self._refer(part, needed))
        except Unwritable as error:
            hint = "load it inside the function, or in a `setup` function"
            self._problem(f"uses `{name}`, {error}, which can't be written into a file", hint)
            return
        if needed:
            self._definitions[name] = f"{name} = {text}"
        else:
            self._constants[name] = text

    def _refer(self, value: Any, needed: list[Any]) -> str | None:
        """An expression for a module, a function or a class inside a constant; `needed` gets those defined here."""
        if isinstance(value, ModuleType):
            self._name(value.__name__.partition(".")[0], sys.modules[value.__name__.partition(".")[0]], {})
            self._module(value.__name__, value)
            return value.__name__
        if (home := home_of(value)) is not None:
            module, own = home
            return own if module == "builtins" else f"{self._refer(sys.modules[module], needed)}.{own}"
        if _not_a_function(value) is None or isinstance(value, type):
            needed.append(value)
            self._name(value.__name__, value, vars(sys.modules.get(value.__module__, builtins)))
            return value.__name__
        return None

    def _definition(self, name: str, value: Any, namespace: Namespace) -> None:
        refusal = None if isinstance(value, type) else _not_a_function(value)
        if refusal is not None:
            self._problem(f"uses `{name}`, which {refusal[0]}" if len(self._trail) > 1 else refusal[0], refusal[1])
            return
        own = name_of(value)
        if own != name:
            self._name(own, value, namespace)
            self._definitions[name] = f"{name} = {own}"
            return
        try:
            source = source_of(value)
        except NoSource as error:
            problem, _, hint = str(error).partition(": ")
            self._problem(f"`{name}`: {problem}", hint)
            return
        self._trail.append(name)
        self._uses(source, getattr(inspect.unwrap(value), "__globals__", None) or _namespace_of(value, namespace))
        self._trail.pop()
        self._definitions[name] = source.text

    def _uses(self, source: Source, namespace: Namespace) -> None:
        """Everything that a definition refers to. What only annotations name comes along if it can."""
        needed = _global_names(_without_annotations(source.text))
        for name in sorted(needed):
            self._use(name, source.node, namespace)
        for name in sorted(_global_names(source.text) - needed):
            before = {field: value.copy() for field, value in vars(self).items()}
            self._use(name, source.node, namespace)
            if self.problems != before["problems"]:
                vars(self).update(before)

    def _use(self, name: str, node: ast.AST, namespace: Namespace) -> None:
        if name.startswith("__"):
            return
        if name in namespace:
            self._name(name, namespace[name], namespace)
            self._submodules(name, namespace[name], node)
        elif name in OF_NOTEBOOKS:
            self._problem(f"uses `{name}`, which exists only in a notebook", "use print")
        elif not (hasattr(builtins, name) or name in self._of_setup or name in _declared_global(node)):
            self._problem(f"uses `{name}`, which is not defined", "define or import it first")

    def _submodules(self, name: str, module: Any, node: ast.AST) -> None:
        """`import xml.etree.ElementTree` binds `xml`: the parts that are used have to be imported by their names."""
        if isinstance(module, ModuleType) and is_installed(module.__name__):
            for parts in _attributes(name, node):
                full = ".".join([module.__name__, *parts])
                if isinstance(found := sys.modules.get(full), ModuleType) and found.__name__ == full:
                    self._imports.add(f"import {full}")

    def _problem(self, what: str, hint: str) -> None:
        trail = " → ".join(dict.fromkeys(self._trail))
        self.problems[f"{trail}: {what}" + (f"; {hint}" if hint else "")] = None


def name_of(function: Callable[..., Any]) -> str:
    """The name that a function is defined by, under its decorators: its attribute in the file."""
    name: str = inspect.unwrap(function).__name__
    return name


# ------------------------------------------------------------------------------------------------- what it is

Refusal = tuple[str, str]
"""What is wrong, and the way out."""


def _not_a_function(value: Any) -> Refusal | None:
    """Why a callable can't be written out as a `def`."""
    plain = inspect.unwrap(value)
    if isinstance(value, functools.partial):
        return "is a functools.partial", "write a `def` that makes the call"
    if inspect.ismethod(value):
        return f"is a method of an object ({type(value.__self__).__name__})", "write a function at the top level"
    if isinstance(value, type):
        return "is a class", "write a function"
    if not isinstance(plain, FunctionType):
        if inspect.isbuiltin(value) or inspect.ismethoddescriptor(value):
            return "is written in C", "write a `def` that calls it"
        if callable(value):
            return f"is an object that can be called ({type(value).__name__})", "write a `def` that calls it"
        return f"is no function but {value!r:.40}", "give a function"
    if plain.__name__ == "<lambda>":
        return "is a lambda", "write it as a `def`"
    if plain.__code__.co_freevars:
        names = ", ".join(f"`{name}`" for name in plain.__code__.co_freevars)
        hint = "define it, and what it uses, at the top level; a decorator needs functools.wraps"
        return f"uses {names} of the function it is defined in", hint
    return None


def _takes_parameters(setup: Any) -> Refusal | None:
    required = [name for name, item in inspect.signature(setup).parameters.items() if item.default is item.empty]
    return (f"takes {', '.join(required)}", "it is called without anything") if required else None


def _not_a_reward(function: Any) -> Refusal | None:
    plain = inspect.unwrap(function)
    if inspect.isgeneratorfunction(plain) or inspect.isasyncgenfunction(plain):
        return "is a generator", "return one number instead of yielding"
    return None


def _namespace_of(value: type, namespace: Namespace) -> Namespace:
    """The globals a class was defined in: a notebook's are no module's."""
    if namespace.get("__name__") == value.__module__:
        return namespace
    return vars(sys.modules.get(value.__module__, builtins))


# -------------------------------------------------------------------------------------------------- its names


def _global_names(text: str) -> set[str]:
    """Names that the definition looks up outside itself."""
    return set(_looked_up(symtable.symtable(text, "rewards.py", "exec")))


def _looked_up(table: symtable.SymbolTable) -> Iterator[str]:
    at_top = table.get_type() == "module"
    for symbol in table.get_symbols():
        if symbol.is_referenced() if at_top else symbol.is_global():
            yield symbol.get_name()
    for child in table.get_children():
        yield from _looked_up(child)


def _without_annotations(text: str) -> str:
    tree = ast.parse(text)
    for node in ast.walk(tree):
        if isinstance(node, ast.arg):
            node.annotation = None
        elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            node.returns = None
        elif isinstance(node, ast.AnnAssign):
            node.annotation = ast.Constant(None)
    return ast.unparse(tree)


def _sorted_imports(lines: set[str]) -> list[str]:
    """`import …` before `from … import`; without an `import a` that an `import a.b` implies."""
    needed = {line for line in lines if not any(other.startswith(f"{line}.") for other in lines)}
    return sorted(needed, key=lambda line: (line.startswith("from "), line))


def _is_annotated(text: str) -> bool:
    return any(
        isinstance(node, ast.AnnAssign) or getattr(node, "annotation", None) or getattr(node, "returns", None)
        for node in ast.walk(ast.parse(text))
    )


def _attributes(name: str, node: ast.AST) -> Iterator[list[str]]:
    """Attribute chains that begin at the name: `xml.etree.ElementTree` gives [etree], [etree, ElementTree]."""
    for part in ast.walk(node):
        if isinstance(part, ast.Attribute):
            first, *rest = ast.unparse(part).split(".")
            if first == name:
                yield rest


def _declared_global(node: ast.AST) -> Iterator[str]:
    for part in ast.walk(node):
        if isinstance(part, ast.Global):
            yield from part.names
