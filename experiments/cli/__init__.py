"""The command line: overrides and settings, Hydra, jobs and signals, the folder of a run."""
