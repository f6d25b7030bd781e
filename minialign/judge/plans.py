"""Verdict plans kept in the home: what is asked of which judge, and what the verdicts add up to.

``verdicts/NAME.json`` is the plan, ``verdicts/NAME.jsonl`` the verdicts; the same plan always has
the same name, so beginning it again goes on where it was.
"""

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from minialign.durable import digest, json_line, read_object, write_atomic, write_json
from minialign.errors import UserError
from minialign.home import folder, home
from minialign.judge import JudgeOptions, decide
from minialign.judge.verdict_files import SIDES
from minialign.labels.items import read_items
from minialign.labels.votes import Votes
from minialign.records import Comparison, Pair, Verdict, Vote, to_json, vote_of
from minialign.statistics.shares import wilson

LABELS = "labels"  # in place of a file: the pairs that the user voted on


@dataclass(frozen=True)
class Plan:
    """Which judge compares which pairs, and how."""

    judge: str  # a model, a run, reward:RUN; the model's name at an endpoint
    pairs: str = LABELS  # or a file
    url: str | None = None  # of an OpenAI-compatible endpoint
    template: str | None = None  # None: the judge's default
    explain: bool = False
    debias: bool = False
    criteria: str | None = None  # a text or a file, for the templates that have a place for it

    @property
    def options(self) -> JudgeOptions:
        """How the judge is asked."""
        names = ("template", "url", "explain", "debias", "criteria")
        return JudgeOptions(**{name: getattr(self, name) for name in names})

    @property
    def name(self) -> str:
        """What its files are called."""
        words = re.sub(r"[^A-Za-z0-9.-]+", "-", f"{self.judge}-{Path(self.pairs).stem}").strip("-")
        return f"{words[:60]}-{digest(asdict(self))[:4]}"

    @property
    def file(self) -> Path:
        """Where its verdicts are."""
        return home() / "verdicts" / f"{self.name}.jsonl"

    def save(self) -> None:
        """Write the plan, so that it is found again.

        Raises:
            UserError: when it cannot be written.
        """
        path = self.file.with_suffix(".json")
        try:
            folder("verdicts")
            write_json(path, asdict(self), indent=1)
        except OSError as reason:
            problem = f"cannot write {path}: {reason.strerror}"
            raise UserError(problem, "make room, or mend the folder") from None


def read_plans() -> list[Plan]:
    """Read the plans that were begun, the newest first; files that hold none are passed over."""
    begun: list[tuple[float, Plan]] = []
    known = {field.name for field in fields(Plan)}
    for path in (home() / "verdicts").glob("*.json"):
        try:
            plan = Plan(**{key: value for key, value in read_object(path).items() if key in known})
            newest = plan.file if plan.file.exists() else path
            begun.append((newest.stat().st_mtime, plan))
        except (OSError, ValueError, TypeError, AttributeError):
            continue
    return [plan for _, plan in sorted(begun, key=lambda entry: -entry[0])]


def read_planned(plan: Plan) -> list[Comparison]:
    """Read the pairs to judge, each once; of a file's pairs ``a`` is the chosen answer.

    Raises:
        UserError: there are none, or the file cannot be read.
    """
    if plan.pairs == LABELS:
        votes = last_votes(Votes().all)
        if not votes:
            raise UserError("there are no labels yet", "F3 labels pairs; or judge a file of pairs")
        return [vote.comparison for vote in votes.values()]
    pairs = {item.key: item for item in read_items(plan.pairs) if isinstance(item, Comparison)}
    if not pairs:
        problem = f"{plan.pairs} holds prompts, and no pairs of answers"
        raise UserError(problem, "minialign sample makes pairs of a model's own answers")
    return list(pairs.values())


def last_votes(votes: Iterable[Vote]) -> dict[str, Vote]:
    """Return the user's last vote on each comparison, by its key; skipped ones are none."""
    return {vote.comparison.key: vote for vote in votes if vote.choice != "skip"}


def write_pairs(plan: Plan, verdicts: dict[str, Verdict], votes: dict[str, Vote]) -> Path:
    """Write the pairs that verdicts give for training into a file beside them; where the user
    voted, that counts in place of the verdict.

    Raises:
        UserError: nothing is decided yet, or the file cannot be written.
    """
    from minialign.formats.preferences import vote as records_of

    pairs = [
        record
        for key, verdict in verdicts.items()
        for record in records_of(to_json(votes.get(key, verdict)))
        if isinstance(record, Pair) and record.chosen.strip() != record.rejected.strip()
    ]
    if not pairs:
        raise UserError("no pair is decided yet: there is nothing to train on", "judge more pairs")
    path = plan.file.with_suffix(".pairs.jsonl")
    try:
        write_atomic(path, "".join(json_line(to_json(pair)) for pair in pairs))
    except OSError as reason:
        raise UserError(f"cannot write {path}: {reason.strerror}", "make room") from None
    return path


def measure_distance(verdict: Verdict, vote: Vote | None) -> int | None:
    """How far judge and user are apart: 0 the same, 1 one of them says tie, 2 opposite; None
    without a vote, or when the judge said nothing that reads."""
    if vote is None or verdict.choice == "unparsed":
        return None
    judge, user = ({"a": said.a, "b": said.b}.get(said.choice, "") for said in (verdict, vote))
    return 0 if judge == user else 2 if judge and user else 1


def read_order(order: dict[str, Any]) -> tuple[str, float] | None:
    """Read what a judge said in one order, (a side or "tie", its probability); None if unparsed."""
    shares = [(side, order[side]) for side in SIDES if isinstance(order.get(side), int | float)]
    return max(shares, key=lambda entry: entry[1], default=None)


Share = tuple[float, int] | None


@dataclass(frozen=True)
class Standing:
    """What verdicts add up to. Shares are (share, of how many); None where there is nothing."""

    judged: int
    a: int
    b: int
    tie: int
    unparsed: int
    rate: tuple[float, float, float] | None  # A's wins, ties as half, with Wilson's 95 % interval
    first: Share = None  # single decisions that went to the answer shown first
    conflicts: Share = None  # pairs on which the two orders disagree
    longer: Share = None  # decided pairs of unequal length that the longer one won
    agree: Share = None  # pairs with a vote on which judge and user say the same


def count_verdicts(verdicts: dict[str, Verdict], votes: dict[str, Vote]) -> Standing:
    """Count wins and biases so far; both by a comparison's key."""
    counts = Counter(verdict.choice for verdict in verdicts.values())
    a, b, tie, unparsed = (counts[kind] for kind in (*SIDES, "unparsed"))
    hits: dict[str, list[bool]] = {"first": [], "conflicts": [], "longer": [], "agree": []}
    for key, verdict in verdicts.items():
        said = [decide([order]) for order in verdict.orders]
        slots = zip(said, "ab", strict=True)
        hits["first"] += [one == first for one, first in slots if one in ("a", "b")]
        if "unparsed" not in said:
            hits["conflicts"].append(said[0] != said[1])
        if verdict.choice in ("a", "b") and len(verdict.a) != len(verdict.b):
            hits["longer"].append((verdict.choice == "a") == (len(verdict.a) > len(verdict.b)))
        apart = measure_distance(verdict, votes.get(key))
        if apart is not None:
            hits["agree"].append(apart == 0)
    parsed, wins = a + b + tie, a + tie / 2
    rate = (wins / parsed, *wilson(wins, parsed)) if parsed else None
    shares = {name: (sum(ones) / len(ones), len(ones)) for name, ones in hits.items() if ones}
    return Standing(len(verdicts), a, b, tie, unparsed, rate, **shares)


def overrule(votes: Votes, verdict: Verdict, choice: str) -> Vote:
    """Keep the user's own word on a pair as a vote; an earlier vote on it is replaced.

    Raises:
        UserError: when it cannot be written; nothing is changed then.
    """
    pair = verdict.comparison
    vote = pair.vote(choice, note=f"overrules {verdict.judge}: {verdict.choice}")
    votes.add(vote)
    for old in [one for one in votes.all if one.comparison.key == pair.key and one != vote]:
        _remove(votes, old)
    return vote


def take_back(votes: Votes, vote: Vote, before: Sequence[Vote]) -> None:
    """Undo ``overrule``: the votes that it replaced are there again.

    Raises:
        UserError: when it cannot be written.
    """
    for old in before:
        votes.add(old)
    _remove(votes, vote)


def _remove(votes: Votes, vote: Vote) -> None:
    votes.journal.remove_last(lambda row: vote_of(row) == vote)
    votes.all.remove(vote)
