"""What may be wrong with rows that read well: identical answers, empty ones, duplicates, reversals.

These are counted and named; whether they are dropped is the user's to say.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field

from minialign.formats.kinds import answers_of, digest, fingerprint, prompt_of
from minialign.records import Pair, Record

FINDINGS = {
    "identical": "chosen and rejected are the same text",
    "empty": "an answer is empty",
    "duplicates": "the same record stands earlier",
    "reversed": "an earlier row prefers the other answer",
}
SHOWN = 3  # places kept of each


@dataclass
class Findings:
    """Counts over the records given to ``of``, in order, and the first places of each."""

    counts: dict[str, int] = field(default_factory=lambda: dict.fromkeys(FINDINGS, 0))
    places: dict[str, list[str]] = field(default_factory=lambda: {name: [] for name in FINDINGS})
    _seen: set[bytes] = field(default_factory=set)
    _preferred: dict[bytes, bytes] = field(default_factory=dict)  # both answers: the chosen one

    def of(self, record: Record) -> set[str]:
        """The names of what was found in ``record``, which is counted."""
        names = set()
        answers = answers_of(record)
        if len(answers) > 1 and len(set(answers)) < len(answers):
            names.add("identical")
        if any(not answer.strip() for answer in answers):
            names.add("empty")
        mark = fingerprint(record)
        if mark in self._seen:
            names.add("duplicates")
        self._seen.add(mark)
        if isinstance(record, Pair) and "identical" not in names:
            both = digest({"prompt": record.prompt, "answers": sorted(answers)})
            chosen = digest({"chosen": record.chosen})
            if self._preferred.setdefault(both, chosen) != chosen:
                names.add("reversed")
        for name in names:
            self.counts[name] += 1
            if len(self.places[name]) < SHOWN:
                self.places[name].append(record.source)
        return names


@dataclass
class Prompts:
    """Where each prompt of a file stands first."""

    places: dict[bytes, str] = field(default_factory=dict)

    def add(self, record: Record) -> None:
        """Note the record's prompt, if it has one."""
        prompt = prompt_of(record)
        if prompt:
            self.places.setdefault(digest(prompt), record.source)

    def shared(self, other: "Prompts") -> list[tuple[str, str]]:
        """(place here, place there) of every prompt that both have."""
        both = self.places.keys() & other.places.keys()
        return sorted((self.places[mark], other.places[mark]) for mark in both)


def drop_found(records: Iterable[Record], drop: set[str], findings: Findings) -> list[Record]:
    """Leave out the records with a finding named in ``drop``; all are counted in ``findings``."""
    return [record for record in records if not findings.of(record) & drop]
