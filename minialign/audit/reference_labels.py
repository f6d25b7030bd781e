"""Reference labels: comparisons on which somebody said which answer is better (a gold set).

LLMBar's files and folders (``input``, ``output_1``, ``output_2``, ``label``), JSONL rows with a
prompt, two answers and ``gold``, the user's own votes, plain preference pairs, and MT-bench's votes
(``question_id``, ``model_a``, ``model_b``, ``winner``), which have no texts. Rows on the same two
answers by different annotators are one item with several votes.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from minialign import formats
from minialign.errors import UserError
from minialign.formats.containers import read_rows
from minialign.formats.problems import Problem
from minialign.formats.reading import read_row
from minialign.home import labels_file
from minialign.records import Comparison, Pair, as_prompt

PROMPTS = ("prompt", "input", "instruction", "question")
ANSWERS = (("a", "b"), ("output_1", "output_2"), ("response_a", "response_b"))
LABELS = ("gold", "label", "choice", "winner")
WHO = ("annotator", "judge")
WORDS = {
    **dict.fromkeys(("a", "1", "model_a", "output_1", "response_a"), "a"),
    **dict.fromkeys(("b", "2", "model_b", "output_2", "response_b"), "b"),
    **dict.fromkeys(("tie", "0", "both_bad", "tie (inconsistent)"), "tie"),
    "skip": "",
}
YOU = "you"  # the annotator of minialign's own labels
SWAPPED = {"a": "b", "b": "a"}
EXAMPLE = 'write {"prompt": "…", "a": "…", "b": "…", "gold": "a"}   (gold: a, b or tie)'


@dataclass(frozen=True)
class Labelled:
    """A comparison with what people (or its maker) said of it: "a", "b" or "tie"."""

    comparison: Comparison
    votes: tuple[tuple[str, str], ...]  # (annotator, choice), in the order of the rows
    subset: str = ""
    conflict: bool = False  # of a stored verdict: the two orders did not agree

    @property
    def best(self) -> str:
        """What most annotators say, each one's first vote; a tie when no side has more votes."""
        first = dict(reversed(self.votes))
        counts = Counter(first.values())
        if counts["a"] == counts["b"]:
            return "tie"
        side = "a" if counts["a"] > counts["b"] else "b"
        return side if counts[side] >= counts["tie"] else "tie"

    @property
    def has_texts(self) -> bool:
        """Whether there is something to judge."""
        return bool(self.comparison.prompt)


def is_turned(one: Comparison, other: Comparison) -> bool:
    """Whether two comparisons of one key have their answers the other way round."""
    return one.a != other.a if one.prompt else one.a_from != other.a_from


def read_gold(specs: Sequence[str], annotators: str = "") -> list[Labelled]:
    """Read the items of all files, rows on the same two answers put together.

    Args:
        specs: files or folders; none: the user's own votes.
        annotators: only those whose name begins with this.

    Raises:
        UserError: for a missing or empty file, and for bad rows with their line.
    """
    paths = [path for spec in specs for path in _find_files(spec)] if specs else [_own_labels()]
    merged: dict[str, Labelled] = {}
    for path, subset in paths:
        for number, one in enumerate(_read_file(path, subset, annotators)):
            # without a name nobody knows whether it is the same annotator: an item of its own
            key = one.comparison.key + ("" if one.votes[0][0] else f" {path} {number}")
            merged[key] = _merge(merged[key], one) if key in merged else one
    if not merged:
        names = ", ".join(str(path) for path, _ in paths)
        who = f" by annotators {annotators}*" if annotators else ""
        raise UserError(f"{names}: no pair with a gold choice{who}", EXAMPLE)
    return list(merged.values())


def _merge(old: Labelled, new: Labelled) -> Labelled:
    votes = new.votes
    if is_turned(old.comparison, new.comparison):
        votes = tuple((who, SWAPPED.get(choice, choice)) for who, choice in votes)
    return replace(old, votes=old.votes + votes, conflict=old.conflict or new.conflict)


def _own_labels() -> tuple[Path, str]:
    file = labels_file()
    if not file.exists() or not file.stat().st_size:
        hint = "give a gold set: --gold FILE or FOLDER; or say which answers are better: "
        raise UserError("no --gold, and no labels of your own yet", f"{hint}minialign label")
    return file, "your labels"


def _find_files(spec: str) -> list[tuple[Path, str]]:
    """(file, name of its subset); of a folder LLMBar's data sets, but not its case studies."""
    path = Path(spec).expanduser()
    if path.is_file():
        return [(path, _name_subset(path))]
    if not path.is_dir():
        raise UserError(f"{spec}: no such file or folder", EXAMPLE)
    files = sorted(path.rglob("dataset.json")) or [
        file for file in sorted(path.iterdir()) if file.name.endswith((".json", ".jsonl"))
    ]
    kept = [file for file in files if "CaseStudy" not in str(file.relative_to(path))]
    if not kept:
        raise UserError(f"{path}: no gold set in this folder", "give .json or .jsonl files")
    return [(file, _name_subset(file, path)) for file in kept]


def _name_subset(file: Path, folder: Path | None = None) -> str:
    name = file.name.partition(".")[0]
    if file.name == "dataset.json":
        name = "/".join(file.relative_to(folder).parts[:-1]) if folder else file.parent.name
    for start in ("LLMBar_", "LLMBar/", "Processed_", "Processed/"):
        name = name.removeprefix(start)
    return name.replace("Adversarial_", "").replace("Adversarial/", "") or file.parent.name


def _read_file(path: Path, subset: str, annotators: str) -> Iterator[Labelled]:
    last: dict[Any, Labelled] = {}  # of your own votes with the same id the last one counts
    rows = read_rows(path, frozenset((*PROMPTS, *LABELS)))
    for number, (source, row) in enumerate(rows):  # rows of JSON may stand in one line
        if isinstance(row, Problem):
            raise UserError(f"{row.source}: found {row.found}; expected {row.expected}", row.fix)
        one = _read_row(row, source, subset)
        if one is None or not one.votes[0][0].startswith(annotators):
            continue
        last[str(row["id"]) if one.votes[0][0] == YOU and row.get("id") else number] = one
    yield from last.values()


def _read_row(row: Any, source: str, subset: str) -> Labelled | None:
    """Read the item of a row; None for a vote that says nothing."""
    if not isinstance(row, dict):
        raise UserError(f"{source}: not an object", EXAMPLE)
    label = next((key for key in LABELS if key in row), None)
    sides = next((pair for pair in ANSWERS if pair[0] in row and pair[1] in row), None)
    prompt = next((key for key in PROMPTS if key in row), None)
    if label is None or (sides is None and "model_a" not in row):
        return _read_pair(row, source, subset)
    choice = WORDS.get(str(row[label]).strip().lower())
    if choice is None:
        raise UserError(f"{source}: {label} is {row[label]!r}", EXAMPLE)
    if not choice:
        return None
    own = YOU if label == "choice" and row.get("id") else ""
    who = str(next((row[key] for key in WHO if row.get(key)), own))
    named = str(row.get("subset") or row.get("category") or subset)
    first, second = (_origin(row, side) for side in "ab")
    if sides is None or prompt is None:
        if "question_id" not in row:
            raise UserError(f"{source}: no prompt", EXAMPLE)
        turn = row.get("turn", 1)
        place = {"question_id": row["question_id"], "turn": turn}
        bare = Comparison([], "", "", None, source, first, second, place)
        return Labelled(bare, ((who, choice),), f"turn {turn}", "inconsistent" in str(row[label]))
    a, b = row[sides[0]], row[sides[1]]
    if not isinstance(a, str) or not isinstance(b, str):
        raise UserError(f"{source}: {' and '.join(sides)} must be texts", EXAMPLE)
    asked = as_prompt(row[prompt]) if isinstance(row[prompt], str | list) else []
    turns = [turn if isinstance(turn, dict) else {} for turn in asked] or [{}]
    sound = all(isinstance(turn.get("content"), str) for turn in turns)
    if not sound or not turns[-1]["content"].strip():
        raise UserError(f"{source}: no prompt in {str(row[prompt])[:60]!r}", "a text, or messages")
    comparison = Comparison(asked, a, b, row.get("reference"), source, first, second)
    return Labelled(comparison, ((who, choice),), named)


def _origin(row: dict[str, Any], side: str) -> dict[str, Any]:
    model = {"model": row[f"model_{side}"]} if f"model_{side}" in row else {}
    return dict(row.get(f"{side}_from") or model)


def _read_pair(row: dict[str, Any], source: str, subset: str) -> Labelled:
    """Read a preference pair: the chosen answer is gold. Which one is called a is drawn by its
    text, so that it is a in about half of the pairs."""
    item = read_row(row, source)
    if item.problem is not None:
        raise UserError(f"{source}: found {item.problem.found}", EXAMPLE)
    pairs, _ = formats.as_kind(item.records, Pair)
    if not pairs:
        raise UserError(f"{source}: it does not say which of two answers is better", EXAMPLE)
    comparison = Comparison(pairs[0].prompt, pairs[0].chosen, pairs[0].rejected, source=source)
    if formats.kinds.digest(comparison.a + comparison.b)[0] % 2 == 0:
        return Labelled(comparison, (("", "a"),), subset)
    return Labelled(comparison.swapped(), (("", "b"),), subset)
