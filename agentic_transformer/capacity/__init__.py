"""Planning for accelerators that are not there: what fits, whether communication hides, how long a
step would take.
"""
