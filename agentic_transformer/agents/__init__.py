"""Defines what acts in an environment: the transformer with its cache, and TD3+BC."""
