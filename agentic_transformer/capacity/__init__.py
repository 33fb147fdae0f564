"""Plans for accelerators that are not there: what fits, what overlaps, how long a step takes."""
