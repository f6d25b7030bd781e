"""For a row of no known format: which one it may be meant as, and which columns to rename."""

from difflib import get_close_matches
from functools import lru_cache

from minialign.formats.fields import Row, absent
from minialign.formats.table import FORMATS, Format

SYNONYMS = {
    "chosen": ("better", "preferred", "winner", "win", "accepted", "positive", "chosen_response"),
    "rejected": ("worse", "dispreferred", "loser", "lose", "negative", "rejected_response"),
    "prompt": ("input", "user", "context", "post", "query", "question", "problem", "instruction"),
    "completion": ("target", "reply", "assistant", "solution", "generation"),
    "messages": ("dialog", "dialogue", "turns", "chat"),
}
KEYS = {name for form in FORMATS for key in form.keys for name in key.split("|")}


def _standing_for(name: str, columns: list[str]) -> str | None:
    """The column that may hold what ``name`` should: a synonym, or nearly the same word."""
    lowered = {column.lower(): column for column in columns}
    known = [word for word in (name, *SYNONYMS.get(name, ())) if word in lowered]
    close = known or get_close_matches(name, lowered, n=1, cutoff=0.75)
    return lowered[close[0]] if close else None


def _compare(
    form: Format, columns: tuple[str, ...], present: frozenset[str]
) -> tuple[float, list[str], dict[str, str]]:
    """(how near the row is, keys it lacks, columns that may hold them)."""
    names = [key.split("|") for key in form.keys]
    lacks = [key[0] for key in names if not present.intersection(key)]
    free = [column for column in columns if column not in KEYS]
    stands = {key: column for key in lacks if (column := _standing_for(key, free))}
    have, unknown = len(names) - len(lacks), len(lacks) - len(stands)
    # A guess counts less than a key that is there, and a gap counts against.
    score = have + 0.8 * len(stands) - 0.5 * unknown
    return score + 0.01 * (have + len(stands)) / len(names), lacks, stands


def advice(row: Row) -> tuple[str, str]:
    """(what was expected, what to do)."""
    present = frozenset(str(column) for column, value in row.items() if not absent(value))
    return _advice(tuple(map(str, row)), present)


@lru_cache(maxsize=256)  # a file's bad rows mostly have the same columns
def _advice(columns: tuple[str, ...], present: frozenset[str]) -> tuple[str, str]:
    best = max(FORMATS, key=lambda form: _compare(form, columns, present)[0])
    score, lacks, stands = _compare(best, columns, present)
    if score <= 0:
        return (
            "the keys of a known format",
            "minialign data formats lists them; --map prompt=COLUMN renames a column",
        )
    needs = ", ".join(key.replace("|", " or ") for key in best.keys)
    missing = [key for key in lacks if key not in stands]
    steps = [f"--map {key}={column}" for key, column in stands.items()]
    if missing:
        steps.append(f"add {' and '.join(missing)} (or rename a column: --map {missing[0]}=COLUMN)")
    return f"the keys of {best.name!r}: {needs}", " ".join(steps) or "give every key a value"
