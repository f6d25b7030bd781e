"""Finds the native kernels, `_native`, or says in one line why they are not in use.

The extension is compiled C++ against one exact release of mlx: with any other it would fail at
import, or worse, so the two versions are compared before it is loaded.
"""

import functools
import importlib
import importlib.util
import os
import re
import sys
from pathlib import Path
from types import ModuleType


def _built_for(path: Path) -> str | None:
    """Read from the file's bytes which mlx release it was compiled against."""
    mark = re.search(rb"minialign-built-for-mlx=([0-9.]+);", path.read_bytes())
    return mark.group(1).decode() if mark else None


@functools.cache
def load() -> tuple[ModuleType | None, str]:
    """Return (the extension or None, a sentence that says which kernels are in use and why)."""
    if os.environ.get("MINIALIGN_NATIVE") == "0":
        return None, "off (MINIALIGN_NATIVE=0)"
    if sys.platform != "linux":
        return None, f"not needed on {sys.platform}"
    spec = importlib.util.find_spec("minialign.cpu._native")
    if spec is None or spec.origin is None:
        return None, "not built; reinstall where a C++ compiler is present"
    from importlib.metadata import version  # slow to import

    here = version("mlx")
    built_for = _built_for(Path(spec.origin))
    if built_for != here:
        return None, f"built for mlx {built_for}, but mlx {here} is installed; reinstall minialign"
    try:
        native = importlib.import_module("minialign.cpu._native")
    except ImportError as error:
        return None, f"failed to load: {error}"
    wanted = os.environ.get("MINIALIGN_ISA") or native.isa()
    other = "" if wanted == native.isa() else f"; MINIALIGN_ISA={wanted} is none this processor has"
    return native, f"native ({native.isa()}, {native.threads()} threads{other})"
