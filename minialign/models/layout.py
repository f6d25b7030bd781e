"""Write a model folder so that it is there whole or not at all.

Everything is written into a hidden folder beside the target, brought to the disk, and renamed.
"""

import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import mlx.core as mx

from minialign.durable import to_disk
from minialign.errors import UserError

SHARD_BYTES = 4 << 30  # a safetensors file of the folder is at most about this large
RECORD = "minialign.json"  # where a folder came from
PART = ".part-"  # the prefix of folders that are being written
MAKE_ROOM = "make room (minialign models rm NAME), or set MINIALIGN_HOME to another disk"


def sha256(path: Path) -> str:
    """The SHA-256 of a file, in hexadecimal."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def sweep(parent: Path) -> None:
    """Remove what killed writers left in ``parent``."""
    import psutil  # takes 30 ms: not for those who only look whether a model is here

    for path in parent.glob(f"{PART}*"):
        pid = path.name.rpartition("-")[2]
        if pid.isdigit() and not psutil.pid_exists(int(pid)):
            shutil.rmtree(path, ignore_errors=True)


def need_space(folder: Path, count: int) -> None:
    """Raise UserError unless ``count`` bytes are free where ``folder`` is (or will be)."""
    place = next(place for place in (folder, *folder.parents) if place.exists())
    free = shutil.disk_usage(place).free
    if free < count:
        said = f"not enough space in {place}: {free / 1e9:.1f} GB free, {count / 1e9:.1f} GB needed"
        raise UserError(said, MAKE_ROOM)


@contextmanager
def new_folder(target: Path) -> Iterator[Path]:
    """A folder to write into; it becomes ``target`` when the block ends without an error.

    If another process made ``target`` in the meantime, that one stays.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    sweep(target.parent)
    part = target.parent / f"{PART}{target.name}-{os.getpid()}"
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir()
    try:
        yield part
        for path in sorted(part.rglob("*")):
            to_disk(path)
        to_disk(part)
        try:
            part.rename(target)
        except OSError:
            if not (target / RECORD).exists():
                raise
        to_disk(target.parent)
    except OSError as reason:
        if reason.errno == 28:
            raise UserError(f"the disk of {target.parent} is full", MAKE_ROOM) from None
        raise
    finally:
        shutil.rmtree(part, ignore_errors=True)


def write_json(path: Path, value: Any) -> None:
    """A JSON file for people and programs."""
    path.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


class Shards:
    """Collects arrays and writes ``model*.safetensors`` of limited size as they come."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.files: list[Path] = []
        self.index: dict[str, int] = {}  # array name: number of its file
        self.total = 0
        self._pending: dict[str, mx.array] = {}
        self._bytes = 0

    def add(self, name: str, array: mx.array) -> None:
        """Take one array; it may be written, and its memory given back, at once."""
        mx.eval(array)
        self._pending[name] = array
        self._bytes += array.nbytes
        self.total += array.nbytes
        if self._bytes >= SHARD_BYTES:
            self._write()

    def names(self) -> set[str]:
        """The names of all arrays so far."""
        return {*self.index, *self._pending}

    def _write(self) -> None:
        path = self.folder / f"part-{len(self.files)}.safetensors"
        mx.save_safetensors(str(path), self._pending, metadata={"format": "mlx"})
        self.index.update(dict.fromkeys(self._pending, len(self.files)))
        self.files.append(path)
        self._pending, self._bytes = {}, 0

    def finish(self) -> None:
        """Write the rest, name the files, and write their index."""
        if self._pending or not self.files:
            self._write()
        count = len(self.files)
        names = [
            "model.safetensors" if count == 1 else f"model-{i + 1:05}-of-{count:05}.safetensors"
            for i in range(count)
        ]
        for path, name in zip(self.files, names, strict=True):
            path.rename(self.folder / name)
        weight_map = {key: names[i] for key, i in sorted(self.index.items())}
        index = {"metadata": {"total_size": self.total}, "weight_map": weight_map}
        write_json(self.folder / "model.safetensors.index.json", index)


# What a model folder may hold; everything else (pickles, code, other formats) is left behind.
WANTED = (
    "config.json",
    "generation_config.json",
    "tokenizer.json",
    "tokenizer.model",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "chat_template.json",
    "chat_template.jinja",
    "model*.safetensors",
    "model.safetensors.index.json",
    "LICENSE*",
)


def copy_folder(source: Path, folder: Path, *, weights: bool = True) -> None:
    """Copy a model folder's files into the existing ``folder``."""
    files = [
        path
        for path in sorted(source.iterdir())
        if path.is_file()
        and any(fnmatch(path.name, pattern) for pattern in WANTED)
        and (weights or not path.name.startswith("model"))
    ]
    need_space(folder, sum(path.stat().st_size for path in files))
    for path in files:
        shutil.copyfile(path, folder / path.name)
