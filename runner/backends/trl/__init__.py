"""The TRL backend: `GRPOTrainer` behind our door. Overrides only by wrapping `super()`, each with its reason.

Bitwise resume holds for one process with transformers' generation. Written against TRL 1.16.
"""
