"""Carries a command: overrides and settings, Hydra, jobs and signals, the folder of a run."""
