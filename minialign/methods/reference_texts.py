"""Texts that a policy is kept close to, read from files of demonstrations."""

from collections.abc import Sequence

from minialign import formats
from minialign.errors import UserError
from minialign.formats.kinds import digest
from minialign.records import Demonstration


def reference_texts(paths: Sequence[str]) -> dict[bytes, Demonstration]:
    """Each demonstration, under the ``digest`` of its prompt.

    Raises:
        UserError: for a file that is not there or has a bad row.
    """
    texts: dict[bytes, Demonstration] = {}
    for path in paths:
        read = formats.read(path)
        if read.problems:
            first = read.problems[0]
            raise UserError(f"{first.source}: {first.found}; expected {first.expected}", first.fix)
        for row in formats.as_kind(read.records, Demonstration)[0]:
            texts[digest(row.messages[:-1])] = row
    return texts
