"""Trains an agent: the loop, its step, shardings, checkpoints and metrics."""
