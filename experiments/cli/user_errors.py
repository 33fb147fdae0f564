"""Tells errors of users from faults of the code, and what a user is told of them."""

from __future__ import annotations

import errno
import os
import shutil
import traceback
from pathlib import Path

from agentic_transformer.errors import UserError
from experiments.cli.packages import PACKAGES, ROOT

# What the file system says of a place that cannot be used as it is.
_REFUSALS = (
    errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOSPC, errno.EDQUOT, errno.ENAMETOOLONG,
    errno.ENOTDIR, errno.EISDIR, errno.EFBIG,
)  # fmt: skip


def is_user_error(error: BaseException) -> bool:
    """Returns whether an error tells the user of bad input.

    That is a ValueError or FileNotFoundError of a `raise` in this project's code, not a library's.
    """
    if isinstance(error, UserError):
        return True
    if not isinstance(error, ValueError | FileNotFoundError):
        return False
    raised = traceback.extract_tb(error.__traceback__)[-1]
    ours = any((ROOT / name) in Path(raised.filename).resolve().parents for name in PACKAGES)
    return ours and (raised.line or "").startswith("raise ")


def describe(error: BaseException) -> str | None:
    """Returns what a user is told of an error instead of its traceback; None if nothing.

    That is the text of an error for users, or one line on a place that the file system refuses.
    """
    if is_user_error(error):
        return str(error)
    if isinstance(error, shutil.Error) and error.args and isinstance(error.args[0], list):
        _, place, reason = error.args[0][0]  # of a copied folder; the reason names the original
        return f"{place}: {reason}"
    if isinstance(error, OSError) and error.errno in _REFUSALS:
        if error.strerror is None:  # its text says what could not be written
            return str(error)
        # A write to an open file fails without its name, on a full disk say.
        return f"{error.filename or 'a file that was being written'}: {error.strerror}"
    return None


def needs_traceback(error: BaseException) -> bool:
    """Returns whether an error is shown with its traceback: a fault, or HYDRA_FULL_ERROR is set."""
    return describe(error) is None or "HYDRA_FULL_ERROR" in os.environ
