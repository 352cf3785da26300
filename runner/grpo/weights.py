"""Whether a model folder holds what a run was to make: weights under the base model's names, finite, and not its own.

Looks into the safetensors files, a tensor at a time: no model is built, so it works for any architecture and size.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from importlib import import_module
from pathlib import Path
from typing import Any

ADAPTER = "adapter_model.safetensors"
PEFT_PREFIX = "base_model.model."
TIED = frozenset({"lm_head.weight"})
"""Left out of the file where it is the embedding."""


def problems(base: Path, folder: Path) -> list[str]:
    """What is wrong with the adapter or the model in `folder`, trained from the model in `base`; empty: it is sound.

    A base without safetensors files can't be compared with: then only the folder itself is looked at.
    """
    with ExitStack() as stack:
        before, after = (_tensors(path, stack) for path in (base, folder))
        if not after:
            return ["there are no weights"]
        if broken := [name for name, file in after.items() if not bool(file.get_tensor(name).isfinite().all())]:
            return [f"{broken[0]} has values that are no numbers"]
        if (folder / ADAPTER).exists():
            return [*_foreign(before, after), *_idle(after)]
        return [*_other_names(before, after), *_unchanged(before, after)]


def _tensors(folder: Path, stack: ExitStack) -> dict[str, Any]:
    """Tensor name → the open file it is in. Of an adapter's folder the adapter alone."""
    open_file: Any = import_module("safetensors").safe_open
    paths = [folder / ADAPTER] if (folder / ADAPTER).exists() else sorted(folder.glob("model*.safetensors"))
    files = [stack.enter_context(open_file(path, framework="pt")) for path in paths]
    return {name: file for file in files for name in file.keys()}  # noqa: SIM118  (no mapping)


def _shape(file: Any, name: str) -> tuple[int, ...]:
    return tuple(file.get_slice(name).get_shape())


def _foreign(before: Mapping[str, Any], after: Mapping[str, Any]) -> Iterator[str]:
    """Matrices for layers that the base doesn't have, or has in another size."""
    for name in after if before else ():
        layer, _, kind = name.removeprefix(PEFT_PREFIX).partition(".lora_")
        target = f"{layer}.weight"
        if kind not in ("A.weight", "B.weight"):
            continue
        if target not in before:
            yield f"{name}: the base model has no {target}"
            return
        rows, columns = _shape(before[target], target)
        mine = _shape(after[name], name)
        if (mine[1] != columns) if kind == "A.weight" else (mine[0] != rows):
            yield f"{name} is {mine}, but the base model's {target} is {(rows, columns)}"
            return


def _idle(after: Mapping[str, Any]) -> Iterator[str]:
    """An adapter's second matrices begin at zero: while all are, it changes nothing."""
    if not any(bool(file.get_tensor(name).any()) for name, file in after.items() if ".lora_B." in name):
        yield "the adapter changes nothing: it was never updated"


def _other_names(before: Mapping[str, Any], after: Mapping[str, Any]) -> Iterator[str]:
    if before and (odd := sorted((before.keys() ^ after.keys()) - TIED)):
        where = "the base model" if odd[0] in before else "this model"
        yield f"{len(odd)} weights have other names than the base model's: only {where} has {odd[0]}"


def _unchanged(before: Mapping[str, Any], after: Mapping[str, Any]) -> Iterator[str]:
    shared = before.keys() & after.keys()
    if shared and not any(_differs(before[name], after[name], name) for name in sorted(shared)):
        yield "every weight is the base model's: it was never updated"


def _differs(before: Any, after: Any, name: str) -> bool:
    """Compared in the type of the exported one: a base in bfloat16 and its copy in float32 are the same."""
    new = after.get_tensor(name)
    old = before.get_tensor(name).to(new.dtype)
    return old.shape != new.shape or not bool((old == new).all())
