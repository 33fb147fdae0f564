"""Lets these tests import dm_control before envs."""

import os

os.environ.setdefault("MUJOCO_GL", "disabled")
