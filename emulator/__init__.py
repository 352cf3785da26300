"""The CPU backend: a real GRPO run in miniature."""
