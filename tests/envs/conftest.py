"""Makes `oracle` importable by the tests beside it."""

import os
import sys
from pathlib import Path

os.environ.setdefault("MUJOCO_GL", "disabled")  # as envs does, but tests may import dm_control first
sys.path.insert(0, str(Path(__file__).parent))
