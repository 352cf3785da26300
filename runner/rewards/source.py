"""What can be read off reward files without running them: syntax, signatures, local imports, the columns they use."""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator, Mapping
from difflib import get_close_matches
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from runner.rewards.styles import FORMS, PASSED, Style, columns_by_keyword, keyword_problem
from runner.spec.errors import Finding, JobError

TAKEN = sys.stdlib_module_names | {"__main__"}

FunctionNode = ast.FunctionDef | ast.AsyncFunctionDef


CODE_BUILTINS = frozenset({"eval", "exec", "compile", "__import__"})
CODE_MODULES = frozenset(
    {
        "subprocess",
        "pickle",
        "dill",
        "cloudpickle",
        "marshal",
        "shelve",
        "runpy",
        "importlib",
        "ctypes",
        "cffi",
        "numexpr",
    }
    | {"multiprocessing", "pty"}
)
CODE_NAMES = frozenset(
    {"sympify", "parse_expr", "parse_latex", "simplify", "system", "popen", "Popen", "posix_spawn", "execv", "fork"}
)
"""Builtins, modules and names by which text becomes code: what a completion says may then change the interpreter."""


class ColumnRead(NamedTuple):
    """A dataset column that a reward function reads."""

    column: str
    file: str
    line: int
    certain: bool
    """`example["x"]`, which fails where the column is missing; not `.get`, nor one that the function looks out for."""


class SourceError(Exception):
    """A file that is no Python, or can't be a reward file."""

    def __init__(self, finding: Finding) -> None:
        self.finding = finding
        super().__init__(finding.message)


def collect(folder: Path, entries: list[str]) -> dict[str, bytes]:
    """The files of `entries` and every module of the folder that they import, transitively, by relative path.

    Imports are found in the syntax tree; what `importlib` loads by a computed name is not seen.
    Raises SourceError for the first file that is missing or doesn't parse.
    """
    sources: dict[str, bytes] = {}
    todo = list(reversed(entries))
    while todo:
        path = todo.pop()
        if path in sources:
            continue
        sources[path] = _read(folder, path)
        tree = parse(path, sources[path], folder)
        todo += [found for found in _local_files(folder, path, tree) if found not in sources]
    return sources


def parse(path: str, source: bytes, folder: Path = Path()) -> ast.Module:
    """The file's syntax tree. Raises SourceError with the Python line."""
    try:
        return ast.parse(source, path)
    except SyntaxError as error:
        line, column, what = error.lineno or 0, error.offset or 0, error.msg
    except (ValueError, RecursionError, MemoryError) as error:
        line, column, what = 0, 0, str(error) or type(error).__name__
    raise SourceError(
        Finding(
            code="reward-syntax",
            message=f"{path} is no valid Python: {what}",
            file=str(folder / path),
            line=line,
            column=column,
        )
    )


def check_function(tree: ast.Module, name: str, path: str, folder: Path, style: Style = "runner") -> Finding | None:
    """What is wrong with the function `name` of a parsed file: not there, or not callable in that style."""
    names = {bound: node for node in tree.body for bound, node in _bound(node)}
    if name not in names:
        return None if "*" in names else _not_defined(names, name, path, folder)
    node = names[name]
    if not isinstance(node, FunctionNode) or node.decorator_list:
        return None  # imported, assigned or wrapped: known only when it is loaded
    problem = keyword_problem(node.args, style) if style in PASSED else _arity_problem(node.args)
    if problem is None:
        return None
    form = FORMS[style].format(name=name)
    return Finding(
        code="reward-signature",
        message=f"{name} {problem}",
        hint=_other_style(node.args, style) or f"a reward{_of(style)} is `{form}`{CTX[style == 'runner']}",
        file=str(folder / path),
        line=node.lineno,
        column=node.col_offset + 1,
    )


def reward_functions(path: Path) -> list[str]:
    """Names of the functions of a file that can be called as rewards: public, undecorated or not, right parameters.

    Raises JobError when it is no Python or has none.
    """
    try:
        tree = parse(path.name, _read(path.parent, path.name), path.parent)
    except SourceError as error:
        raise JobError([error.finding]) from None
    nodes = [node for node in tree.body if isinstance(node, FunctionNode) and not node.name.startswith("_")]
    names = [node.name for node in nodes if node.name != "setup" and _arity_problem(node.args) is None]
    if not names:
        hint = f"a reward is `{FORMS['runner'].format(name='score')}`"
        message = f"{path.name} has no function that could be a reward"
        raise JobError([Finding(code="reward-missing", message=message, hint=hint, file=str(path), line=1)])
    return names


CTX = ("", ", with an optional keyword `ctx`")


def _of(style: Style) -> str:
    return "" if style == "runner" else f" of style {style}"


def _other_style(args: ast.arguments, style: Style) -> str | None:
    """Another style that the parameters would fit by their names: said, never taken."""
    names = {arg.arg for arg in (*args.args, *args.kwonlyargs)}
    for other, telling in (("trl", {"completions"}), ("verl", {"solution_str"}), ("runner", {"prompt", "completion"})):
        if other != style and telling <= names:
            return f"it looks like one of style {other}: write `style: {other}`"
    return None


def columns_of(tree: ast.Module, name: str, path: str, style: Style = "runner") -> list[ColumnRead]:
    """The columns that the function `name` reads by literal names, in the file's order: of its third parameter, or as
    parameters of its own and of `**kwargs` (`trl`). Where `verl` finds its own is not looked at."""
    for node in tree.body:
        if isinstance(node, FunctionNode) and node.name == name and style == "trl":
            taken = [ColumnRead(column, path, node.lineno, sure) for column, sure in columns_by_keyword(node.args)]
            more = _reads(node, node.args.kwarg.arg, path) if node.args.kwarg else ()
            return [*taken, *(read for read in more if read.column not in PASSED["trl"])]
        if isinstance(node, FunctionNode) and node.name == name and style != "verl":
            parameters = [*node.args.posonlyargs, *node.args.args]
            if len(parameters) >= 3:
                return sorted(_reads(node, parameters[2].arg, path), key=lambda read: read.line)
    return []


def runs_text(tree: ast.Module) -> bool:
    """Whether the file uses what turns text into code: then a call must share no process with another."""
    return any(_turns_text_into_code(node) for node in ast.walk(tree))


def _turns_text_into_code(node: ast.AST) -> bool:
    match node:
        case ast.Name(id=name):
            return name in CODE_BUILTINS | CODE_NAMES
        case ast.Attribute(attr=name):
            return name in CODE_NAMES
        case ast.Import(names=names):
            return any(alias.name.partition(".")[0] in CODE_MODULES for alias in names)
        case ast.ImportFrom(module=module, names=names):
            return (module or "").partition(".")[0] in CODE_MODULES or any(alias.name in CODE_NAMES for alias in names)
        case _:
            return False


def is_async(tree: ast.Module, name: str) -> bool:
    """Whether the file defines the function as `async def`."""
    return any(isinstance(node, ast.AsyncFunctionDef) and node.name == name for node in tree.body)


def module_name(path: str) -> str:
    """`rewards.py` → `rewards`, `pkg/format.py` → `pkg.format`, `pkg/__init__.py` → `pkg`."""
    parts = PurePosixPath(path).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" and len(parts) > 1 else parts)


def _read(folder: Path, path: str) -> bytes:
    pure = PurePosixPath(path)
    problem, hint = "", ""
    if pure.is_absolute() or ".." in pure.parts:
        problem, hint = "lies outside the job's folder", "move it beside the job"
    elif "." in "".join(pure.with_suffix("").parts):
        problem, hint = "has a dot in its name", "Python can't import it; rename it"
    elif module_name(path).partition(".")[0] in TAKEN:
        problem, hint = "is named like a module of Python's own", "rename it"
    elif not (folder / path).is_file():
        problem, hint = "does not exist", f"looked in {folder}"
    if problem:
        raise SourceError(Finding(code="reward-file", message=f"{path} {problem}", hint=hint, file=str(folder / path)))
    return (folder / path).read_bytes()


def _local_files(folder: Path, path: str, tree: ast.Module) -> Iterator[str]:
    for module in _imported(path, tree):
        base = PurePosixPath(*module.split("."))
        for place in [base, *base.parents][:-1]:
            for candidate in (f"{place}.py", f"{place}/__init__.py"):
                if (folder / candidate).is_file():
                    yield candidate
    for parent in list(PurePosixPath(path).parents)[:-1]:
        if (folder / parent / "__init__.py").is_file():
            yield f"{parent}/__init__.py"


def _imported(path: str, tree: ast.Module) -> Iterator[str]:
    """Dotted names of every module the file may import, in functions too; `from a import b` gives `a` and `a.b`."""
    package = PurePosixPath(path).parent.parts
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = package[: len(package) - node.level + 1] if node.level else ()
            base = ".".join([*above, *([node.module] if node.module else [])])
            if base:
                yield base
            yield from (f"{base}.{alias.name}".lstrip(".") for alias in node.names if alias.name != "*")


def _bound(node: ast.stmt) -> Iterator[tuple[str, ast.AST]]:
    """The names a statement of a module binds, each with its node; `*` for a star import."""
    if isinstance(node, FunctionNode | ast.ClassDef):
        yield node.name, node
    elif isinstance(node, ast.Import | ast.ImportFrom):
        yield from ((alias.asname or alias.name.partition(".")[0], node) for alias in node.names)
    else:
        yield from (
            (name.id, node) for name in ast.walk(node) if isinstance(name, ast.Name) and isinstance(name.ctx, ast.Store)
        )
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.stmt):
                yield from _bound(child)


def _not_defined(names: Mapping[str, ast.AST], name: str, path: str, folder: Path) -> Finding:
    functions = [bound for bound, node in names.items() if isinstance(node, FunctionNode)]
    close = get_close_matches(name, functions, n=1)
    hint = f"did you mean `{close[0]}`?" if close else f"it defines {', '.join(functions) or 'no function'}"
    return Finding(
        code="reward-missing", message=f"{path} defines no {name}", hint=hint, file=str(folder / path), line=1
    )


def _arity_problem(args: ast.arguments) -> str | None:
    positional = [arg.arg for arg in (*args.posonlyargs, *args.args)]
    required = [name for name in positional[: len(positional) - len(args.defaults)] if name != "ctx"]
    if len(required) > 3:
        return f"takes {len(required)} parameters ({', '.join(required)})"
    if len([name for name in positional if name != "ctx"]) < 3 and not args.vararg:
        return f"takes {len(positional)} parameter{'s' * (len(positional) != 1)} ({', '.join(positional)})"
    wanted = [
        arg.arg
        for arg, default in zip(args.kwonlyargs, args.kw_defaults, strict=True)
        if default is None and arg.arg != "ctx"
    ]
    return f"needs a keyword that nobody gives: {', '.join(wanted)}" if wanted else None


def _reads(function: FunctionNode, example: str, path: str) -> Iterator[ColumnRead]:
    unsure = _looked_out_for(function, example)
    guarded = {id(inner) for node in ast.walk(function) if isinstance(node, ast.Try) for inner in _inside(node.body)}
    for node in ast.walk(function):
        match node:
            case ast.Subscript(value=ast.Name(id=name), slice=ast.Constant(value=str(column)), ctx=ast.Load()):
                if name == example:
                    certain = column not in unsure and "*" not in unsure and id(node) not in guarded
                    yield ColumnRead(column, path, node.lineno, certain)
            case ast.Call(
                func=ast.Attribute(value=ast.Name(id=name), attr="get"), args=[ast.Constant(value=str(column)), *_]
            ):
                if name == example:
                    yield ColumnRead(column, path, node.lineno, False)
            case _:
                pass


def _looked_out_for(function: FunctionNode, example: str) -> set[str]:
    """Columns the function tests for (`"x" in example`) or sets itself; `*` when it binds the name anew."""
    found: set[str] = set()
    for node in ast.walk(function):
        match node:
            case ast.Compare(left=ast.Constant(value=str(column)), comparators=[ast.Name(id=name)]) if name == example:
                found.add(column)
            case ast.Subscript(
                value=ast.Name(id=name), slice=ast.Constant(value=str(column)), ctx=ast.Store() | ast.Del()
            ) if name == example:
                found.add(column)
            case ast.Name(id=name, ctx=ast.Store()) if name == example:
                found.add("*")
            case _:
                pass
    return found


def _inside(body: list[ast.stmt]) -> Iterator[ast.AST]:
    for statement in body:
        yield from ast.walk(statement)
