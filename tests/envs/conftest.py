"""dm_control may be imported before envs here."""

import os

os.environ.setdefault("MUJOCO_GL", "disabled")
