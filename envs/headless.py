"""Imports MuJoCo and dm_control without a drawing library; import MuJoCo from here.

When they are first imported, both load the drawing library that MUJOCO_GL names, and fail where it
is missing or broken. A simulation draws nothing, so it must not fail: here both see
MUJOCO_GL=disabled. Pictures are drawn by another process, which sees what the user set
(`envs.rendering`). A program that draws with MuJoCo itself has to import MuJoCo before this module.
"""

from __future__ import annotations

import logging

from envs.drawing import without_drawing_library

with without_drawing_library():
    import dm_control.mujoco
    import mujoco
    import mujoco.rollout

__all__ = ["dm_control", "mujoco"]

# dm_control's cheetah has this attribute, and whoever runs it can do nothing about it.
logging.getLogger("absl").addFilter(
    lambda record: "'settotalmass' is deprecated" not in record.getMessage()
)
