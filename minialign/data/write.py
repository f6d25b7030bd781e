"""Data files written anew: converted to one kind of record, or split into parts."""

import gzip
import hashlib
import os
import tempfile
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import IO, Any

from minialign import formats
from minialign.data.check import BadRows, good_items
from minialign.durable import json_line
from minialign.errors import UserError
from minialign.formats import Item
from minialign.formats.findings import Findings, drop_found
from minialign.formats.kinds import digest, kind_name, opening_of, row_of, turn_into

SINGULAR = {"messages": "demonstration"}  # of a kind's name, where it is not that without its s


@dataclass
class Converted:
    """What ``convert`` did."""

    rows: int = 0
    written: int = 0
    unused: Counter[str] = field(default_factory=Counter)
    findings: Findings = field(default_factory=Findings)
    dropped: int = 0


@contextmanager
def write_whole(path: Path, *, force: bool) -> Iterator[IO[str]]:
    """Open a text file that appears under ``path`` when all of it is written; gzip for ``.gz``."""
    if path.exists() and not force:
        raise UserError(f"{path} exists", "give another -o, or --force to write over it")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        os.close(handle)
    except OSError as reason:
        raise UserError(f"{path}: {reason.strerror}", "choose another place with -o") from None
    opened: Any = partial(gzip.open, compresslevel=6) if path.suffix == ".gz" else open
    try:
        with opened(name, mode="wt", encoding="utf-8", newline="\n") as stream:
            yield stream
        os.chmod(name, 0o644)
        os.replace(name, path)
    finally:
        Path(name).unlink(missing_ok=True)


def convert(
    files: list[Path],
    kind: str,
    out: IO[str],
    bad: BadRows,
    *,
    mapping: Mapping[str, str] | None = None,
    drop: set[str] = frozenset(),  # type: ignore[assignment]
) -> Converted:
    """Write the records of ``files`` as rows of one kind (a key of ``formats.KINDS``). An
    unlabelled pair stays one; of other kinds it gives its prompt alone.

    Raises UserError behind the last row when there were bad rows that are not kept apart.
    """
    result = Converted()
    wanted = formats.KINDS[kind]
    for item in good_items(files, mapping, bad):
        result.rows += 1
        for part in item.unused:
            result.unused[part.reason] += part.count
        mark = {"unlabelled": True} if item.unlabelled else {}
        for record in item.records:
            rows = turn_into(record, wanted) if not mark or kind in ("pairs", "prompts") else []
            if not rows:
                name, want = (SINGULAR.get(one, one[:-1]) for one in (kind_name(record), kind))
                unlabelled = "unlabelled " if mark else ""
                result.unused[f"{unlabelled}{name} that gives no {want}"] += 1
            good = drop_found(rows, drop, result.findings)
            result.dropped += len(rows) - len(good)
            for one in good:
                out.write(json_line(row_of(one) | (mark if kind == "pairs" else {})))
            result.written += len(good)
    bad.check()
    return result


def split_sizes(rows: int, *wanted: float) -> list[int]:
    """How many rows each held-out part gets: a share below 1, or a count."""
    sizes = [round(rows * want) if want < 1 else int(want) for want in wanted]
    if any(want < 0 for want in wanted) or sum(sizes) >= rows:
        problem = f"{rows} rows cannot give {' and '.join(f'{want:g}' for want in wanted)} away"
        hint = "a share such as 0.1, or a number of rows, with some left to train on"
        raise UserError(problem, hint)
    return sizes


def _group(item: Item) -> bytes:
    """What rows that must stay together have in common: the turns before the first answer."""
    if item.records:
        return digest(opening_of(item.records[0]))
    return hashlib.blake2b(repr(item.row).encode(errors="replace"), digest_size=16).digest()


def split(
    files: list[Path],
    outs: Mapping[str, IO[str]],
    shares: Mapping[str, float],
    bad: BadRows,
    *,
    seed: int = 0,
    mapping: Mapping[str, str] | None = None,
) -> dict[str, int]:
    """Share out the rows, unchanged, to ``outs``: "train", and the names in ``shares``.

    Rows that open with the same prompt stay together. Which prompts are held out depends on the
    seed and the prompts alone, not on their order. Returns the rows written to each.
    """
    groups: Counter[bytes] = Counter(_group(item) for item in good_items(files, mapping, bad))
    bad.check()
    sizes = split_sizes(groups.total(), *shares.values())
    order = sorted(groups, key=lambda mark: hashlib.blake2b(mark, key=str(seed).encode()).digest())
    place: dict[bytes, str] = {}
    for name, size in zip(shares, sizes, strict=True):
        left = size
        for mark in order:
            if mark not in place and groups[mark] <= left:
                place[mark] = name
                left -= groups[mark]
        if size and left == size:
            few = f"no prompt has so few rows that {size} could be held out as {name}"
            raise UserError(few, "hold out more rows")
    counts = dict.fromkeys(outs, 0)
    for item in good_items(files, mapping, BadRows()):
        name = place.get(_group(item), "train")
        outs[name].write(json_line(item.row))
        counts[name] += 1
    return counts
