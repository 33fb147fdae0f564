"""What the file system refuses is told in one line, whoever noticed it."""

import errno
import shutil
from pathlib import Path

import pytest

from experiments.cli.packages import describe, is_user_error, needs_traceback


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EFBIG])
def test_a_write_that_fails_without_a_name(number):
    error = OSError(number, "No room")
    assert describe(error) == "a file that was being written: No room"
    assert not needs_traceback(error) and not is_user_error(error)


def test_a_folder_that_cannot_be_copied(tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "file").touch()

    def copy(source, target):
        Path("/dev/full").write_text("content")

    with pytest.raises(shutil.Error) as caught:
        shutil.copytree(tmp_path / "run", tmp_path / "copy", copy_function=copy)
    said = describe(caught.value)
    assert said == f"{tmp_path / 'copy' / 'file'}: [Errno 28] No space left on device"
