"""What carries a command: its words and settings, Hydra, jobs and signals, the folder of its run."""
