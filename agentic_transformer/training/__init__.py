"""Trains agents: data in, checkpoints and metrics out."""
