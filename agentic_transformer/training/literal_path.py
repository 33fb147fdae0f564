"""Makes orbax and etils take a folder's path literally, not as a glob pattern or cloud address."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from etils import epath

_REFUSED = re.compile(r"\\|gs:/|\A/(gs|s3|az|hf)/")
r"""Parts of a path that libraries read as another place: tensorstore takes `\` for `/`, and orbax
takes the others for storage in a cloud."""


def check_path(run: Path) -> None:
    """Checks that checkpoints will be written to exactly this folder.

    Raises:
        ValueError: libraries would write to another place.
    """
    folder = run.resolve()
    if found := _REFUSED.search(f"{folder}/"):
        allowed = (
            r"a path without \, without a name that ends in gs:, "
            "and outside of /gs, /s3, /az and /hf"
        )
        raise ValueError(
            f"{folder}: no checkpoint can be written there because of {found[0]}; "
            f"allowed: {allowed}"
        )


class LiteralPath(type(epath.Path())):
    """Holds a path as orbax takes it, in which `[`, `*` and `?` are letters like others.

    Orbax finds by `glob` what processes have written, and etils would read the whole path as a
    pattern. In a folder `lr[1e-3]` it would find nothing, and a checkpoint without its arrays would
    pass as whole.
    """

    def glob(self, pattern: str) -> Iterator[epath.Path]:
        """Yields what the pattern finds in this folder."""
        return (type(self)(found) for found in Path(self).glob(pattern))
