"""Counts what a call asks of the host."""

import tempfile
from collections import Counter
from pathlib import Path

import jax


def programs_started(call):
    """Counts the compiled programs that a call starts, by name, from a profiler trace."""
    with tempfile.TemporaryDirectory() as folder:
        with jax.profiler.trace(folder):
            call()
        (trace,) = Path(folder).rglob("*.xplane.pb")
        planes = jax.profiler.ProfileData.from_file(str(trace)).planes
        events = [event.name for plane in planes for line in plane.lines for event in line.events]
    return Counter(name for name in events if name.startswith("PjitFunction("))
