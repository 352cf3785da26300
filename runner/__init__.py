"""Declarative reinforcement fine-tuning with GRPO."""
