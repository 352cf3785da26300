"""`runner schema` and `runner explain`: what a job may say, for programs and for people."""

from __future__ import annotations

import difflib
from collections.abc import Iterator
from typing import Annotated, Any, Literal

import typer

from runner.cli.options import JsonOption
from runner.cli.out import Line, say, say_json
from runner.cli.text import table
from runner.spec.errors import Finding, JobError
from runner.spec.schema import Node, event_schema, fields, job_schema, node_at, resolve


def schema(
    of: Annotated[Literal["job", "event"], typer.Argument(help="Of job.yaml, or of the journal's events.")] = "job",
) -> None:
    """Prints a JSON Schema. Of job.yaml, or of the events in a run's journal."""
    say_json(job_schema() if of == "job" else event_schema())


def explain(
    field: Annotated[str | None, typer.Argument(metavar="FIELD", help="As grpo.beta. Default: the whole job.")] = None,
    json: JsonOption = False,
) -> None:
    """Explains a field of job.yaml. What it means, its type and its default."""
    path = tuple(field.split(".")) if field else ()
    node = node_at(path)
    if node is None:
        raise _unknown(field or "", path)
    if json:
        say_json(dict(node))
        return
    for line in _lines(field or "job.yaml", node):
        say(*line)


def _lines(name: str, node: Node) -> Iterator[Line]:
    yield [(name, "bold"), f"  {kind(node)}{default(node)}"]
    if node.get("description"):
        yield [f"  {node['description']}"]
    below = _below(node)
    needed = set(node.get("required", ()))
    rows = [(key, kind(inner) + default(inner), _short(inner, key in needed)) for key, inner in below.items()]
    if rows:
        yield []
    yield from ([f"  {line}"] for line in table(rows))


def _below(node: Node) -> dict[str, Node]:
    """Fields of a section, of each of the sections that a name chooses, or of each of a list's items."""
    if fields(node):
        return fields(node)
    named: list[Node] = list(node.get("patternProperties", {}).values())
    return fields(named[0]) if named else fields(node["items"]) if "items" in node else {}


def _short(node: Node, needed: bool) -> str:
    text = str(resolve(node).get("description", ""))
    return f"(needed) {text}" if needed else text


def kind(node: Node) -> str:
    """The type, in a word or as the values it may have."""
    node = resolve(node)
    if "enum" in node:
        return " | ".join(map(str, node["enum"]))
    if "const" in node:
        return str(node["const"])
    if "anyOf" in node:
        return " | ".join(kind(branch) for branch in node["anyOf"] if branch.get("type") != "null")
    if node.get("type") == "array":
        return f"list of {kind(node.get('items', {}))}"
    return "section" if node.get("type") == "object" else f"{node.get('type', 'any')}{_range(node)}"


def _range(node: Node) -> str:
    words = {"minimum": "≥", "exclusiveMinimum": ">", "maximum": "≤", "exclusiveMaximum": "<"}
    bounds = [f"{sign} {node[name]:g}" for name, sign in words.items() if name in node]
    return f" {', '.join(bounds)}" if bounds else ""


def default(node: Node) -> str:
    """`, default 8` where there is one worth telling."""
    value: Any = node.get("default")
    if value is None or isinstance(value, dict | list):
        return ""
    return f", default {str(value).lower() if isinstance(value, bool) else value}"


def _unknown(field: str, path: tuple[str, ...]) -> JobError:
    above = next(node for n in range(len(path) - 1, -1, -1) if (node := node_at(path[:n])) is not None)
    sections = [(name, node) for name, node in fields(job_schema()).items() if name != "emulator"]
    everywhere = [f"{name}.{inner}" for name, node in sections for inner in fields(node)]
    known = {**dict.fromkeys(fields(above)), **dict.fromkeys(fields(job_schema())), **dict.fromkeys(everywhere)}
    by_end = [name for name in everywhere if name.split(".")[-1] == path[-1]]
    near = by_end or difflib.get_close_matches(field, known, n=1) or difflib.get_close_matches(path[-1], known, n=1)
    hint = f"did you mean `{near[0]}`?" if near else "`runner explain` lists the fields"
    return JobError([Finding(code="unknown-field", message=f"{field}: no such field", hint=hint)])
