"""The job's JSON Schema, generated from the model: for editors, for `runner explain`, and to tell shape from meaning.

`python -m runner.spec.schema` writes the files of `schemas/`; a test fails when they have drifted.
"""

from __future__ import annotations

import ast
import inspect
import json
import re
from collections.abc import Iterator, Mapping
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any

from runner.spec import model
from runner.spec.document import DataPath

Node = Mapping[str, Any]


@cache
def job_schema() -> dict[str, Any]:
    """JSON Schema 2020-12 of `job.yaml`. Every job it refuses, the model refuses too."""
    schema = model.JobSpec.model_json_schema(by_alias=True)
    for name, node in {"JobSpec": schema, **schema["$defs"]}.items():
        for field, text in _docstrings(getattr(model, name)).items():
            node["properties"][field]["description"] = text
    head = {"$schema": "https://json-schema.org/draft/2020-12/schema", "$id": "urn:grpo-runner:schema:job"}
    return {**head, **schema, "title": "job.yaml"}


def _docstrings(section: type[model.Section]) -> dict[str, str]:
    """The text under each field. pydantic would read it too (`use_attribute_docstrings`), at every import of the model:
    half of what that import takes."""
    texts: dict[str, str] = {}
    for source in reversed([base for base in section.__mro__ if issubclass(base, model.Section)]):
        (definition,) = ast.parse(inspect.getsource(source)).body
        assert isinstance(definition, ast.ClassDef)
        for field, text in pairwise(definition.body):
            match field, text:
                case ast.AnnAssign(target=ast.Name(id=name)), ast.Expr(value=ast.Constant(value=str(said))):
                    texts[section.model_fields[name].alias or name] = said
                case _:
                    pass
    return texts


def resolve(node: Node) -> Node:
    """The node without indirection: a reference followed, the non-null branch of an optional field taken."""
    if "$ref" in node:
        target: Node = job_schema()["$defs"][str(node["$ref"]).rsplit("/", 1)[1]]
        return {**target, **{key: value for key, value in node.items() if key != "$ref"}}
    branches = [branch for branch in node.get("anyOf", ()) if branch.get("type") != "null"]
    if len(branches) == 1:
        return resolve({**{key: value for key, value in node.items() if key != "anyOf"}, **branches[0]})
    return node


def fields(node: Node) -> dict[str, Node]:
    """The fields of a section, by name; empty for anything else."""
    return dict(resolve(node).get("properties", {}))


def child(node: Node, part: str | int) -> Node | None:
    """The schema of one field, of any reward by its name, or of a list's items."""
    node = resolve(node)
    if isinstance(part, int) or part.isdigit():
        lists = [branch for branch in (node, *node.get("anyOf", ())) if "items" in branch]
        return lists[0]["items"] if lists else None
    named: Node | None = node.get("properties", {}).get(part)
    return named or next(iter(node.get("patternProperties", {}).values()), None)


def node_at(path: DataPath) -> Node | None:
    """The schema of the field at that path; None where there is no such field."""
    node: Node | None = job_schema()
    for part in path:
        node = child(node, part) if node is not None else None
    return resolve(node) if node is not None else None


def shape_faults(value: Any) -> set[DataPath]:
    """Paths where the value breaks the schema; an unknown or missing field counts as a path of its own."""
    from jsonschema import Draft202012Validator  # only a job at fault pays for the import

    validator: Any = Draft202012Validator(job_schema())
    return set(_paths(validator.iter_errors(value)))


def _paths(errors: Any) -> Iterator[DataPath]:
    for error in errors:
        path: DataPath = tuple(error.absolute_path)
        yield from _named(error, path)
        yield from _paths(error.context)


def _named(error: Any, path: DataPath) -> Iterator[DataPath]:
    if error.validator == "required":
        yield from ((*path, name) for name in error.validator_value if name not in error.instance)
    elif error.validator == "additionalProperties":
        yield from ((*path, name) for name in error.instance if _is_extra(name, error.schema))
    else:
        yield path


def _is_extra(name: str, schema: Node) -> bool:
    patterns: Mapping[str, Any] = schema.get("patternProperties", {})
    return name not in schema.get("properties", {}) and not any(re.search(pattern, name) for pattern in patterns)


def explain(name: str) -> str:
    """What a field means, with its type, bounds and default; a section lists its fields. Raises KeyError with a
    suggestion where there is no such field."""
    path: DataPath = tuple(part for part in name.split(".") if part)
    node = node_at(path)
    if node is None:
        raise KeyError(_no_such(path))
    lines = [f"{name or 'job.yaml'}: {_type(node)}", *_indented(node.get("description", ""))]
    if not fields(node) and "default" in node:
        lines.append(f"  default: {json.dumps(node['default'])}")
    lines += [_summary(field, child_node) for field, child_node in fields(_items(node)).items()]
    return "\n".join(lines)


def _no_such(path: DataPath) -> str:
    from runner.spec.hints import for_unknown

    return f"no such field: {'.'.join(map(str, path))}; {for_unknown(path, None)}"


def _items(node: Node) -> Node:
    """Of a list or a section of free names: what each of them is; else the node itself."""
    inner = node.get("items") or next(iter(node.get("patternProperties", {}).values()), None)
    return resolve(inner) if inner else node


def _indented(text: str) -> list[str]:
    return [f"  {line}" for line in text.splitlines()]


def _summary(name: str, node: Node) -> str:
    node = resolve(node)
    text = " ".join(str(node.get("description", "")).split())
    return f"  {name:<28}{_type(node):<28} {text.split('. ')[0].rstrip('.')}"


def _type(node: Node) -> str:
    """The type in words, with bounds: `whole number ≥ 2`."""
    if "anyOf" in node:
        return " or ".join(_type(resolve(branch)) for branch in node["anyOf"])
    if "enum" in node or "const" in node:
        return " | ".join(map(str, node.get("enum", [node.get("const")])))
    if "items" in node:
        return f"list of {_type(resolve(node['items']))}"
    words = {"integer": "whole number", "string": "text", "boolean": "true | false", "object": "section"}
    bounds = {"minimum": "≥", "exclusiveMinimum": ">", "maximum": "≤", "exclusiveMaximum": "<"}
    limits = [f"{sign} {node[key]:g}" for key, sign in bounds.items() if key in node]
    return " ".join([words.get(str(node.get("type")), str(node.get("type"))), ", ".join(limits)]).strip()


def event_schema() -> dict[str, Any]:
    """JSON Schema of one line of a run's journal."""
    import msgspec

    from runner.journal.events import Event

    head = {"$schema": "https://json-schema.org/draft/2020-12/schema", "$id": "urn:grpo-runner:schema:event"}
    return {**head, **msgspec.json.schema(Event)}


def generated() -> dict[str, str]:
    """The text of each generated file of `schemas/`, by its name."""
    schemas = {"job.schema.json": job_schema(), "event.schema.json": event_schema()}
    return {name: json.dumps(schema, indent=2, ensure_ascii=False) + "\n" for name, schema in schemas.items()}


if __name__ == "__main__":
    for file_name, content in generated().items():
        (Path(__file__).parents[2] / "schemas" / file_name).write_text(content, encoding="utf-8")
