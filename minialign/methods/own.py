"""A method of the user's own: a Python file that defines METHOD."""

import hashlib
import importlib.util
import sys
from dataclasses import is_dataclass, replace
from pathlib import Path
from typing import Any

from minialign.errors import UserError
from minialign.methods import METHODS
from minialign.methods.method import Method


def load_method(file: str | Path) -> Method:
    """The METHOD of a Python file, which is run. It is the user's own code: an exception in it
    keeps its traceback.

    Raises:
        UserError: no such file, or nothing in it that could be trained with.
    """
    path = Path(file).expanduser()
    example = "examples/own_method.py shows one"
    if path.suffix != ".py" or not path.is_file():
        raise UserError(f"{file}: there is no such Python file", example)
    method = getattr(_module(path.resolve()), "METHOD", None)
    if not isinstance(method, Method):
        what = "defines no METHOD" if method is None else f"METHOD is of type {type(method)}"
        raise UserError(f"{file}: {what}, a minialign.methods.Method", example)
    if method.name in METHODS:
        said = f"{file}: its method is named {method.name!r}, like a built-in one"
        raise UserError(said, "name it otherwise")
    if not is_dataclass(method.config):
        raise UserError(f"{file}: METHOD.config is no dataclass", example)
    return replace(method, file=str(path.resolve()))


def _module(path: Path) -> Any:
    # Registered, as a dataclass finds its types and its source only through its module.
    name = f"own_method_{hashlib.sha256(str(path).encode()).hexdigest()[:16]}"
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None  # it is a .py file
    module = sys.modules[name] = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except (SyntaxError, ImportError) as reason:
        raise UserError(f"{path}: {reason}", "mend the file") from reason
    return module


def method_of(stored: dict[str, Any]) -> Method | None:
    """The method of a run's configuration; None for a run of something else.

    Raises:
        UserError: when the file of the user's own method is not there any more.
    """
    if file := stored.get("method_file"):
        return load_method(file)
    return METHODS.get(stored.get("method", ""))
