"""Defines the agents that act in environments, and loads them from checkpoints."""
