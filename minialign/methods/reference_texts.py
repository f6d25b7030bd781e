"""Texts that a policy is kept close to, read from files of demonstrations."""

from collections.abc import Iterable, Sequence
from pathlib import Path

from minialign import formats
from minialign.errors import UserError
from minialign.formats.kinds import digest
from minialign.records import Demonstration, Record


def read_rows(paths: Iterable[str | Path]) -> list[Record]:
    """The rows of files, folders or hub data sets, whatever their format.

    Raises:
        UserError: for the first row that cannot be used, with its file, line and fix.
    """
    records: list[Record] = []
    for path in paths:
        rows = formats.read(path)
        if rows.problems:
            first = rows.problems[0]
            raise UserError(f"{first.source}: {first.found}; expected {first.expected}", first.fix)
        records += rows.records
    return records


def reference_texts(paths: Sequence[str]) -> dict[bytes, Demonstration]:
    """Each demonstration, under the ``digest`` of its prompt.

    Raises:
        UserError: for a file that is not there or has a bad row.
    """
    rows = formats.as_kind(read_rows(paths), Demonstration)[0]
    return {digest(row.messages[:-1]): row for row in rows}
