"""Rows held out for evaluation, chosen by the seed, equal prompts together."""

import random
from collections import Counter
from collections.abc import Sequence

from minialign.formats.kinds import digest, opening_of
from minialign.records import Record


def hold_out(
    records: Sequence[Record], share: float, seed: int
) -> tuple[list[Record], list[Record]]:
    """(training rows, held-out rows): about ``share`` of the rows, no opening in both."""
    openings = [digest(opening_of(record)) for record in records]
    sizes = Counter(openings)
    groups = list(sizes)
    random.Random(seed).shuffle(groups)
    count = 0
    held: set[bytes] = set()
    for group in groups[1:]:  # one stays to train on
        if count >= round(share * len(records)):
            break
        held.add(group)
        count += sizes[group]
    parts: tuple[list[Record], list[Record]] = [], []
    for record, opening in zip(records, openings, strict=True):
        parts[opening in held].append(record)
    return parts
