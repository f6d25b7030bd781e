"""Where everything of the user's lives: ``MINIALIGN_HOME``, by default ``~/.minialign``."""

import os
import tomllib
from pathlib import Path
from typing import Any

from minialign.errors import UserError


def home() -> Path:
    """The one folder of the user's models, runs, labels, caches and config (maybe absent)."""
    return Path(os.environ.get("MINIALIGN_HOME") or Path.home() / ".minialign").expanduser()


def folder(name: str) -> Path:
    """A sub-folder of the home ("models", "runs", "cache"), created if absent."""
    path = home() / name
    path.mkdir(parents=True, exist_ok=True)
    return path


def labels_file() -> Path:
    """The file of the user's votes, one ``Vote`` a line."""
    return home() / "labels.jsonl"


def settings() -> dict[str, Any]:
    """The user's ``config.toml``; empty when there is none."""
    path = home() / "config.toml"
    if not path.exists():
        return {}
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as reason:
        raise UserError(f"{path}: {reason}", "mend that line, or move the file away") from None
