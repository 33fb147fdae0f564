"""Plans for accelerators that are not there: what fits, what hides, how long a step takes."""
