"""Folders of data files: train, valid and test, as mlx-lm and the hub's data sets have them."""

import re
from pathlib import Path

from minialign.errors import UserError
from minialign.formats.containers import ENDINGS, ending

_SPLIT = re.compile(
    r"(?:.*[-_.])?(train|training|valid|validation|val|dev|eval|test)(?![a-z])", re.I
)
_SAME = {"training": "train", **dict.fromkeys(("validation", "val", "dev", "eval"), "valid")}
_SHARD = re.compile(r"-\d{5}-of-(\d{5})")


def is_data_file(path: Path) -> bool:
    """Whether the file's ending is one that is read; the bad rows of an earlier check are not."""
    return (
        path.is_file()
        and ending(path) in ENDINGS
        and not path.name.startswith(".")
        and not path.name.endswith(".bad.jsonl")
        and path.name not in ("dataset_infos.json", "dataset_dict.json", "state.json")
    )


def split_of(path: Path) -> str:
    """ "train", "valid" or "test" by the file's name; "" when it says none of these."""
    match = _SPLIT.match(path.name)
    word = match[1].lower() if match else ""
    return _SAME.get(word, word)


def data_files(folder: Path) -> dict[str, list[Path]]:
    """The files of each split in a folder (or its ``data`` folder), shards of one file in order.

    Files whose names say no split are all "train" when none does. Raises UserError when there is
    nothing to read, when two different files claim one split, or when some of a file's shards
    are missing.
    """
    files = sorted(path for path in folder.iterdir() if is_data_file(path))
    if not files and (folder / "data").is_dir():
        return data_files(folder / "data")
    if not files:
        raise UserError(f"{folder}: no data files in it", f"known: {', '.join(ENDINGS)}, or .gz")
    splits: dict[str, list[Path]] = {}
    for path in files:
        splits.setdefault(split_of(path), []).append(path)
    if set(splits) == {""}:
        return {"train": files}
    splits.pop("", None)
    for split, paths in splits.items():
        names = sorted({_SHARD.sub("", path.name) for path in paths})
        if len(names) > 1:
            said = f"{folder}: {len(names)} files for {split!r}: {', '.join(names)}"
            raise UserError(said, f"name the one you mean: {folder / paths[0].name}")
        shard = _SHARD.search(paths[0].name)
        if shard and int(shard[1]) != len(paths):
            said = f"{folder}: {len(paths)} of {int(shard[1])} files for {split!r}"
            raise UserError(said, "fetch the missing ones, or name a file")
    return splits
