"""Reading a data file: rows in, records and problems out, in the file's order."""

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from minialign.errors import UserError, nearest
from minialign.formats import fields
from minialign.formats.advice import KEYS, advice
from minialign.formats.containers import read_rows
from minialign.formats.folders import data_files
from minialign.formats.kinds import answers_of
from minialign.formats.problems import BadRow, Problem, Unused, describe
from minialign.formats.table import format_of
from minialign.records import Record


@dataclass(frozen=True)
class Item:
    """What one row gave."""

    source: str  # "file:line"
    format: str = ""  # "" for a bad row
    records: list[Record] = field(default_factory=list)
    unused: list[Unused] = field(default_factory=list)
    problem: Problem | None = None
    row: Any = None  # the row itself, its columns renamed

    @property
    def unlabelled(self) -> bool:
        """Whether it is a pair whose answers are in random order, until somebody votes."""
        return isinstance(self.row, dict) and bool(self.row.get("unlabelled"))


@dataclass
class Read:
    """All of a file."""

    records: list[Record] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)
    format: Counter[str] = field(default_factory=Counter)  # rows of each format
    unused: Counter[str] = field(default_factory=Counter)  # parts that give no record, by reason


def _rename_columns(row: dict[str, Any], mapping: Mapping[str, str]) -> dict[str, Any]:
    # A file may mix rows of both spellings.
    mapping = {name: column for name, column in mapping.items() if column in row or name not in row}
    if missing := [column for column in mapping.values() if column not in row]:
        has = f"the column that --map names; the row has {', '.join(map(str, row)) or 'none'}"
        raise BadRow(f"no column {missing[0]!r}", has, nearest(missing[0], map(str, row)))
    result = {key: value for key, value in row.items() if key not in mapping.values()}
    return {**result, **{name: row[column] for name, column in mapping.items()}}


def read_row(row: Any, source: str, mapping: Mapping[str, str] | None = None) -> Item:
    """The records of one row, or its problem."""
    try:
        if not isinstance(row, dict):
            raise BadRow(describe(row), "an object: { … }", "write one object for each row")
        renamed = _rename_columns(row, mapping) if mapping else row
        form = format_of(renamed)
        if form is None:
            raise BadRow(f"the keys {', '.join(map(str, renamed)) or '(none)'}", *advice(renamed))
        parts = form.read(renamed)
    except BadRow as bad:
        found, expected, fix = bad.args
        return Item(source, problem=Problem(source, found, expected, fix, row), row=row)
    records = [_mark(one, source, renamed) for one in parts if not isinstance(one, Unused)]
    unused = [one for one in parts if isinstance(one, Unused)]
    return Item(source, form.name, records, unused, row=renamed)


def _mark(record: Any, source: str, row: dict[str, Any]) -> Record:
    """The record with where it was read, and which of its answers were cut."""
    reasons = fields.finish_reasons(row, len(answers_of(record)))
    return replace(record, source=source, **({"finish_reasons": reasons} if reasons else {}))


def files_of(path: Path, split: str = "train") -> list[Path]:
    """The files to read for ``path``: itself, or a folder's files of that split."""
    if not path.is_dir():
        return [path]
    splits = data_files(path)
    if split not in splits:
        raise UserError(f"{path}: it has no {split} file", f"it has: {', '.join(sorted(splits))}")
    return splits[split]


def stream(
    path: str | Path, *, mapping: Mapping[str, str] | None = None, split: str = "train"
) -> Iterator[Item]:
    """Each row of a file (or of a folder's split) as it is read; problems are items too.

    Raises UserError for a file that cannot be opened or is no data file.
    """
    row_keys = frozenset(KEYS | set((mapping or {}).values()))
    for file in files_of(Path(path), split):
        last_votes: dict[str, str] | None = None
        for source, value in read_rows(file, row_keys):
            if isinstance(value, Problem):
                yield Item(source, problem=value, row=value.row)
                continue
            item = read_row(value, source, mapping)
            if item.format == "votes" and item.row.get("id"):
                if last_votes is None:
                    last_votes = _last_votes(file, row_keys)
                if last_votes.get(str(item.row["id"]), source) != source:
                    replaced = [Unused("a vote replaced by a later one of its id")]
                    item = replace(item, records=[], unused=replaced)
            yield item


def _last_votes(file: Path, row_keys: frozenset[str]) -> dict[str, str]:
    """Where the last good vote of each id stands."""
    items = (read_row(value, source) for source, value in read_rows(file, row_keys))
    votes = (item for item in items if item.format == "votes" and item.row.get("id"))
    return {str(vote.row["id"]): vote.source for vote in votes}


def read(
    path: str | Path, *, mapping: Mapping[str, str] | None = None, split: str = "train"
) -> Read:
    """All records of a file (or of a folder's split), and all problems."""
    result = Read()
    for item in stream(path, mapping=mapping, split=split):
        if item.problem:
            result.problems.append(item.problem)
            continue
        result.format[item.format] += 1
        for part in item.unused:
            result.unused[part.reason] += part.count
        result.records += item.records
    return result
