"""Needs a name that only this project's `datasets` has; for tests of another one in its place."""

from datasets import Trajectories

load = Trajectories
