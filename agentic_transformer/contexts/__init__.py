"""Turns trajectories of many episodes into the token rows that a sequence model reads."""
