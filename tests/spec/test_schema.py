"""The JSON Schema is the model's shape; shape the one refuses the other refuses; the checked-in files are current."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from jsonschema import Draft202012Validator

from runner.spec.document import parse
from runner.spec.load import check
from runner.spec.model import EMULATOR_OVERRIDES, JobSpec
from runner.spec.schema import explain, fields, generated, job_schema, node_at, resolve, shape_faults

ROOT = Path(__file__).parents[2]


def test_the_schema_is_a_valid_schema() -> None:
    Draft202012Validator.check_schema(job_schema())


@pytest.mark.parametrize("name", ["job.schema.json", "event.schema.json"])
def test_the_checked_in_schema_is_current(name: str) -> None:
    """If not: python -m runner.spec.schema"""
    assert (ROOT / "schemas" / name).read_text(encoding="utf-8") == generated()[name]


def test_every_field_is_described() -> None:
    sections = {"job": job_schema(), **job_schema()["$defs"]}
    silent = [f"{name}.{field}" for name, node in sections.items() for field in fields(node) if not told(node, field)]
    assert silent == []


def told(node: Any, field: str) -> bool:
    return bool(resolve(fields(node)[field]).get("description"))


def test_every_override_of_the_emulator_names_a_field() -> None:
    for name, (section, field) in EMULATOR_OVERRIDES.items():
        assert node_at(("emulator", name)) is not None
        assert node_at((section, field)) is not None


def valid(node: Any) -> st.SearchStrategy[Any]:
    """Values of the schema, built from the schema."""
    if "$ref" in node:
        node = resolve(node)
    if "anyOf" in node:
        return st.one_of([valid(branch) for branch in node["anyOf"]])
    if "enum" in node or "const" in node:
        return st.sampled_from(node.get("enum", [node.get("const")]))
    return KINDS[node["type"]](node)


def whole(node: Any) -> st.SearchStrategy[Any]:
    least = node.get("minimum", -3)
    return st.integers(least, least + 20)


def number(node: Any) -> st.SearchStrategy[Any]:
    least, most = (
        node.get("minimum", node.get("exclusiveMinimum", -2)),
        node.get("maximum", node.get("exclusiveMaximum", 9)),
    )
    return st.floats(least, most, exclude_min="exclusiveMinimum" in node, exclude_max="exclusiveMaximum" in node)


def text(node: Any) -> st.SearchStrategy[Any]:
    forms = {
        "^[A-Za-z_]": ["KEY", "a_1"],
        "py:": ["r.py:f", "a/b.py:_g1"],
        "s|m": ["5m", "90s"],
        "{0,63}": ["a", "b.c"],
    }
    found = [values for part, values in forms.items() if part in node.get("pattern", "")]
    return st.sampled_from(found[0] if found else ["a", "reward", "rewards/a/mean", "rewards/x/mean"])


def section(node: Any) -> st.SearchStrategy[Any]:
    if "patternProperties" in node:
        ((pattern, inner),) = node["patternProperties"].items()
        names = [name for name in ("a", "b", "c-1") if re.search(pattern, name)]
        return st.dictionaries(st.sampled_from(names), valid(inner), min_size=node.get("minProperties", 0))
    if "properties" not in node:
        inner = node["additionalProperties"]
        return st.dictionaries(st.text(max_size=3), SCALARS if inner is True else valid(inner), max_size=2)
    required = {name: valid(inner) for name, inner in node["properties"].items() if name in node.get("required", ())}
    rest = {name: valid(inner) for name, inner in node["properties"].items() if name not in required}
    return st.fixed_dictionaries(required, optional=rest)


KINDS: dict[str, Callable[[Any], st.SearchStrategy[Any]]] = {
    "integer": whole,
    "number": number,
    "string": text,
    "boolean": lambda _: st.booleans(),
    "null": lambda _: st.none(),
    "array": lambda node: st.lists(valid(node["items"]), max_size=2, min_size=node.get("minItems", 0)),
    "object": section,
}
SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-5, 600),
    st.just(2**62),
    st.floats(allow_nan=True),
    st.just(8.0),
    st.sampled_from(["", "a\n", "é:x", "r.py:f", "chat", "9d", "all-linear", "0s"]),
)
ODD = st.one_of(SCALARS, st.lists(SCALARS, max_size=2), st.dictionaries(st.sampled_from(["a", "path", "é"]), SCALARS))


def mutate(data: st.DataObject, tree: Any) -> Any:
    """One value anywhere replaced, removed, or put under a name that is not there."""
    if isinstance(tree, dict) and tree and data.draw(st.integers(0, 3)):
        name = data.draw(st.sampled_from(sorted(tree)))
        return {**tree, name: mutate(data, tree[name])}
    if isinstance(tree, list) and tree and data.draw(st.booleans()):
        return [mutate(data, tree[0]), *tree[1:]]
    if isinstance(tree, dict) and data.draw(st.booleans()):
        return {**tree, data.draw(st.sampled_from(["steps", "mystery", "a b", "for", ""])): data.draw(ODD)}
    if isinstance(tree, dict) and tree and data.draw(st.booleans()):
        gone = data.draw(st.sampled_from(sorted(tree)))
        return {name: value for name, value in tree.items() if name != gone}
    return data.draw(ODD)


JOBS = valid(job_schema())


@settings(max_examples=300, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(data=st.data(), job=JOBS, mutations=st.integers(0, 3))
def test_schema_and_model_agree_but_for_meaning(data: st.DataObject, job: Any, mutations: int) -> None:
    """Refused by the schema ⇒ refused by the model; refused by the model alone ⇒ every finding is `semantic`."""
    for _ in range(mutations):
        job = mutate(data, job)
    if not isinstance(job, dict):
        return
    document = parse(json.dumps(job, ensure_ascii=True), "job.json")
    spec, findings = check(with_value(document, job))
    shape = shape_faults(job)
    assert (spec is None) == bool(findings)
    if shape:
        assert any(item.code != "semantic" for item in findings)
    else:
        assert {item.code for item in findings} <= {"semantic"}


def with_value(document: Any, job: Any) -> Any:
    """Places of the JSON text, but the very value drawn: JSON has no infinity."""
    return type(document)(job, document.keys, document.values, ())


@settings(max_examples=50, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(job=JOBS)
def test_the_drawn_jobs_reach_the_model(job: Any) -> None:
    """Else the test above would compare two refusals only."""
    assert shape_faults(job) == set()


def test_the_resolved_job_is_valid_by_the_schema() -> None:
    job = JobSpec.model_validate({"model": "m", "dataset": {"path": "d"}, "rewards": {"r": {"fn": "r.py:f"}}})
    assert shape_faults(job.model_dump(mode="json", by_alias=True)) == set()


def test_explain_tells_type_bounds_default_and_meaning() -> None:
    assert explain("grpo.beta") == (
        "grpo.beta: number ≥ 0\n"
        "  Weight of the KL divergence from the reference model; 0 needs no reference.\n"
        "  default: 0.0"
    )
    assert explain("rewards.anything.on_error").startswith("rewards.anything.on_error: mask | zero | fail\n")
    assert explain("grpo.epsilon_high").endswith("unset: as `epsilon`.\n  default: null")


def test_explain_lists_the_fields_of_a_section() -> None:
    lines = explain("checkpoints").splitlines()
    assert lines[0] == "checkpoints: section"
    assert [line.split()[0] for line in lines[2:]] == ["every", "keep", "best"]
    assert "  fn " in explain("rewards")
    assert "  grpo " in explain("")


def test_explain_suggests_the_field_that_was_meant() -> None:
    with pytest.raises(KeyError, match="did you mean `beta`"):
        explain("grpo.bta")
    with pytest.raises(KeyError, match="it belongs in `grpo:`"):
        explain("learning_rate")
