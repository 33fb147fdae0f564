"""Writes pictures to a video, and checks that the file holds them all."""

from __future__ import annotations

from pathlib import Path

import numpy as np


def write_frames(path: Path, frames: np.ndarray, **speed: float) -> None:
    """Writes pictures to an .mp4 or a .gif.

    Args:
        path: of the file.
        frames: (pictures, height, width, 3) uint8.
        **speed: `fps` of an .mp4, `duration` of a picture of a .gif in milliseconds.

    Raises:
        OSError: the file is not whole. ffmpeg does not say so where the disk fills up.
    """
    # These take half a second, which only videos need.
    import imageio.v3 as imageio
    from imageio_ffmpeg import count_frames_and_secs

    imageio.imwrite(path, frames, **speed)
    if path.suffix == ".gif":
        return
    try:
        found, _ = count_frames_and_secs(str(path))
    except RuntimeError:  # the file has no end
        found = 0
    if found != len(frames):
        raise OSError(f"{path}: holds {found} of {len(frames)} pictures; is the disk full?")
