"""The models in the home: which there are, and taking them away.

A model is ``home/models/NAME``: the folder itself, or only a ``minialign.json`` that says where
the weights are (the Hugging Face cache, the user's own folder), so that nothing is stored twice.
"""

import os
import shutil
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from minialign import home
from minialign.durable import read_object
from minialign.errors import UserError, nearest
from minialign.models import layout
from minialign.models.weights_file import is_whole


@dataclass(frozen=True)
class Installed:
    """A model in the home."""

    name: str
    path: Path  # of the model folder, wherever it is
    source: str
    record: dict[str, Any] = field(default_factory=dict)  # all of minialign.json
    referenced: bool = False  # the weights are somewhere else

    @property
    def disk_bytes(self) -> int:
        """The size of the model folder's files."""
        return folder_bytes(self.path)


def folder_bytes(path: Path) -> int:
    """The size of a folder's files (0 for one that is gone)."""
    return sum(file.stat().st_size for file in path.glob("*") if file.is_file())


def models_folder() -> Path:
    """``home/models``; not made."""
    return home.home() / "models"


def installed_as(name: str) -> Installed | None:
    """The model of that name in the home; None when it is not there, or not whole."""
    if not name or name.startswith(".") or "/" in name:
        return None  # a path, which is never the home's to remove
    folder = models_folder() / name
    try:
        record = read_object(folder / layout.RECORD)
    except (OSError, ValueError):
        record = {"source": "put there by hand"}
    elsewhere = record.get("path")
    path = Path(elsewhere) if elsewhere else folder
    if not is_whole(path):
        return None  # the referenced folder is gone
    shown, source = record.get("name", name), record.get("source", "")
    return Installed(shown, path, source, record, bool(elsewhere))


def installed() -> list[Installed]:
    """The models in the home, by name."""
    entries = (installed_as(folder.name) for folder in sorted(models_folder().glob("[!.]*")))
    return [entry for entry in entries if entry is not None]


def folder_name(hub_id: str) -> str:
    """The name of a hub model's folder in the home."""
    return hub_id.replace("/", "--")


def forget_broken(target: Path) -> None:
    """Clear the way for a model whose referenced folder is gone.

    Raises:
        UserError: something else is in the way.
    """
    if not target.exists() or installed_as(target.name) is not None:
        return
    if [path.name for path in target.iterdir()] == [layout.RECORD]:
        shutil.rmtree(target)
        return
    fix = "move it away, or remove it, and try again"
    raise UserError(f"{target} is in the way, and is not a whole model", fix)


def remove(name: str) -> Installed:
    """Remove a model from the home; what it only references stays where it is.

    Raises:
        UserError: no such model here.
    """
    entry = installed_as(name) or installed_as(folder_name(name))
    if entry is None:
        here = [found.name for found in installed()]
        said = f"the model {name!r} is not here" + (f": {nearest(name, here)}" if here else "")
        raise UserError(said, "minialign models list shows what is")
    folder = models_folder() / (name if (models_folder() / name).is_dir() else folder_name(name))
    doomed = folder.with_name(f"{layout.PART}{folder.name}-{os.getpid()}")
    shutil.rmtree(doomed, ignore_errors=True)
    folder.rename(doomed)  # at once, so that nobody sees half a model
    shutil.rmtree(doomed, ignore_errors=True)
    return entry
