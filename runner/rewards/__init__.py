"""Reward functions: contract, versions, the host of isolated workers."""
