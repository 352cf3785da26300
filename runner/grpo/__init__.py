"""One GRPO run, whatever the backend."""
