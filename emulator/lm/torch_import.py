"""torch without what only its compilers, exporters and quantizers use: a third of the time that its import takes.

Importing torch registers, in Python, how each operation acts on tensors that hold no numbers
(`torch._meta_registrations`), for which more of torch is imported, and brings in several packages that most programs
never touch. No run of the emulator has such tensors or touches those packages.
"""

from __future__ import annotations

import sys
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from importlib.abc import Loader
from importlib.machinery import ModuleSpec, PathFinder
from importlib.metadata import version
from types import ModuleType

PROVEN = ("2.13.",)
"""Versions of torch of which we know that the emulator needs none of it."""
PUT_OFF = frozenset(
    f"torch.{name}"
    for name in (
        *("_meta_registrations", "export", "distributions", "masked", "quantization"),
        *("nn.intrinsic", "nn.qat", "nn.quantizable", "nn.quantized"),
    )
)


@contextmanager
def without_compilers() -> Generator[None]:
    """What imports torch in here leaves each of `PUT_OFF` for the first time that somebody asks something of it.

    For a process that belongs to the emulator alone: code that compiles or exports models relies on the registrations
    without asking for them, and so does `torch.Generator()`, for which numpy's stands in. Only a torch of a `PROVEN`
    version is imported so.
    """
    if not version("torch").startswith(PROVEN):
        yield
        return
    sys.meta_path.insert(0, _Finder)
    try:
        yield
    finally:
        sys.meta_path.remove(_Finder)


class _Finder:
    @staticmethod
    def find_spec(name: str, path: Sequence[str] | None, target: ModuleType | None = None) -> ModuleSpec | None:
        spec = PathFinder.find_spec(name, path, target) if name in PUT_OFF else None
        if spec is not None and spec.loader is not None:
            spec.loader = _Later(spec.loader)
        return spec


class _Later(Loader):
    """Leaves a module as it is until it is asked for something that it doesn't have."""

    def __init__(self, loader: Loader) -> None:
        self._loader = loader

    def exec_module(self, module: ModuleType) -> None:
        module.__class__ = _NotYet

    def load(self, module: ModuleType) -> None:
        module.__class__ = ModuleType
        self._loader.exec_module(module)


class _NotYet(ModuleType):
    def __getattr__(self, name: str) -> object:
        loader = self.__spec__.loader if self.__spec__ else None
        if name.startswith("__") or not isinstance(loader, _Later):
            raise AttributeError(name)
        loader.load(self)
        return getattr(self, name)
