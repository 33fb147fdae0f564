"""MuJoCo and dm_control, imported without a drawing library. Import MuJoCo from here.

Both load the library that MUJOCO_GL names when they are first imported, and fail where it is
missing or broken. A simulation draws nothing, so it must not fail: here both see
MUJOCO_GL=disabled. Pictures are drawn by a process of their own, which sees what the user set
(`envs.rendering`). Who draws with MuJoCo by himself imports it before this module.
"""

from __future__ import annotations

import os

_asked = os.environ.get("MUJOCO_GL")
os.environ["MUJOCO_GL"] = "disabled"
try:
    import dm_control.mujoco
    import mujoco
    import mujoco.rollout
finally:
    if _asked is None:
        del os.environ["MUJOCO_GL"]
    else:
        os.environ["MUJOCO_GL"] = _asked

__all__ = ["dm_control", "mujoco"]
