"""Hides the drawing libraries of this machine from processes that tests start."""

# Makes the dynamic linker find no drawing library, as on a machine without any.
_HIDE = """
import ctypes

class Linker(ctypes.CDLL):
    def __init__(self, name, *arguments, **options):
        if any(library in str(name) for library in ("EGL", "OSMesa")):
            raise OSError(f"{name}: cannot open shared object file")
        super().__init__(name, *arguments, **options)

ctypes.CDLL = Linker
ctypes.cdll = ctypes.LibraryLoader(Linker)
"""


def hide_in(folder):
    """Returns the environment variable with which a new Python finds none.

    Args:
        folder: an empty one, for the module that Python imports first.
    """
    (folder / "sitecustomize.py").write_text(_HIDE)
    return {"PYTHONPATH": str(folder)}
