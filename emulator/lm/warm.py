"""What a warm process imports for trainers of the language model: `emulator.lm.policy`, by the short way."""

from emulator.lm.torch_import import without_compilers

with without_compilers():
    import emulator.lm.policy as policy

__all__ = ["policy"]
