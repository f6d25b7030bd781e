"""Judgings kept in the home: what was asked of which judge, its verdicts, and what they add up to.

``verdicts/NAME.json`` is the plan, ``verdicts/NAME.jsonl`` the verdicts; the same plan always has
the same name, so beginning it again goes on where it was.
"""

import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from minialign.durable import digest, now, write_atomic
from minialign.errors import UserError
from minialign.home import folder, home
from minialign.judge import decide
from minialign.judge.verdict_files import SIDES, key_of
from minialign.labels.items import Shown, read_items
from minialign.labels.votes import Votes
from minialign.records import Pair, Verdict, Vote, to_json, vote_of
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
        try:
            folder("verdicts")
            text = json.dumps(asdict(self), indent=1)
            write_atomic(self.file.with_suffix(".json"), text + "\n")
        except OSError as reason:
            raise UserError(
                f"cannot write {self.file.with_suffix('.json')}: {reason.strerror}",
                "make room, or mend the folder",
            ) from None


def plans() -> list[Plan]:
    """Those that were begun, the newest first; files that hold none are passed over."""
    found: list[tuple[float, Plan]] = []
    known = {field.name for field in fields(Plan)}
    for path in (home() / "verdicts").glob("*.json"):
        try:
            values = json.loads(path.read_text(encoding="utf-8"))
            plan = Plan(**{key: value for key, value in values.items() if key in known})
            newest = plan.file if plan.file.exists() else path
            found.append((newest.stat().st_mtime, plan))
        except (OSError, ValueError, TypeError, AttributeError):
            continue
    return [plan for _, plan in sorted(found, key=lambda entry: -entry[0])]


def same_pair(one: Any, other: Any) -> bool:
    """Whether two votes or verdicts are on the same two answers."""
    return one.prompt == other.prompt and {one.a, one.b} == {other.a, other.b}


def pairs_of(plan: Plan) -> list[Shown]:
    """The pairs to judge, each once; of a file's pairs ``a`` is the chosen answer.

    Raises:
        UserError: there are none, or the file cannot be read.
    """
    if plan.pairs == LABELS:
        voted = opinions(Votes().all)
        if not voted:
            raise UserError("there are no labels yet", "F3 labels pairs; or judge a file of pairs")
        return [Shown(vote.prompt, vote.a, vote.b, vote.a_from, vote.b_from)
                for vote in voted.values()]  # fmt: skip
    pairs = {item.key: item for item in read_items(plan.pairs) if isinstance(item, Shown)}
    if not pairs:
        raise UserError(
            f"{plan.pairs} holds prompts, and no pairs of answers",
            "minialign sample makes pairs of a model's own answers",
        )
    return list(pairs.values())


def opinions(votes: Iterable[Vote]) -> dict[str, Vote]:
    """The user's last vote on each pair, by ``key_of``; skipped ones are none."""
    return {key_of(vote): vote for vote in votes if vote.choice != "skip"}


def write_pairs(plan: Plan, verdicts: dict[str, Verdict], votes: dict[str, Vote]) -> Path:
    """Write the pairs that a judging gives for training into a file beside its verdicts; where the
    user voted, that counts in place of the verdict.

    Raises:
        UserError: nothing is decided yet, or the file cannot be written.
    """
    from minialign.formats.preferences import vote as records_of

    found = [
        record
        for key, verdict in verdicts.items()
        for record in records_of(to_json(votes.get(key, verdict)))
        if isinstance(record, Pair) and record.chosen.strip() != record.rejected.strip()
    ]
    if not found:
        raise UserError("no pair is decided yet: there is nothing to train on", "judge more pairs")
    path = plan.file.with_suffix(".pairs.jsonl")
    text = "".join(json.dumps(to_json(pair), ensure_ascii=False) + "\n" for pair in found)
    try:
        write_atomic(path, text)
    except OSError as reason:
        raise UserError(f"cannot write {path}: {reason.strerror}", "make room") from None
    return path


def winner(said: Any) -> str:
    """The text that a vote or a verdict prefers; "" for none of the two."""
    return {"a": said.a, "b": said.b}.get(said.choice, "")


def against(verdict: Verdict, vote: Vote | None) -> int | None:
    """How far judge and user are apart: 0 the same, 1 one of them says tie, 2 opposite; None
    without a vote, or when the judge said nothing that reads."""
    if vote is None or verdict.choice == "unparsed":
        return None
    judge, user = winner(verdict), winner(vote)
    return 0 if judge == user else 2 if judge and user else 1


def slot(order: dict[str, Any]) -> tuple[str, float] | None:
    """What a judge said in one order, (a side or "tie", its probability); None when unparsed."""
    shares = {side: order[side] for side in SIDES if isinstance(order.get(side), int | float)}
    if not shares:
        return None
    side = max(shares, key=lambda name: shares[name])
    return side, float(shares[side])


@dataclass(frozen=True)
class Standing:
    """What verdicts add up to. Shares are (share, of how many); None where there is nothing."""

    judged: int
    a: int
    b: int
    tie: int
    unparsed: int
    rate: tuple[float, float, float] | None  # A's wins, ties as half, with Wilson's 95 % interval
    first: tuple[float, int] | None  # single decisions that went to the answer shown first
    conflicts: tuple[float, int] | None  # pairs on which the two orders disagree
    longer: tuple[float, int] | None  # decided pairs of unequal length that the longer one won
    agree: tuple[float, int] | None  # pairs with a vote on which judge and user say the same


def standing(verdicts: dict[str, Verdict], votes: dict[str, Vote]) -> Standing:
    """Counts, win rate and biases so far; both by ``key_of``."""
    counts = dict.fromkeys((*SIDES, "unparsed"), 0)
    first: list[bool] = []
    conflicts: list[bool] = []
    longer: list[bool] = []
    agree: list[bool] = []
    for key, verdict in verdicts.items():
        counts[verdict.choice] = counts.get(verdict.choice, 0) + 1
        said = [decide([order]) for order in verdict.orders]
        first += [one == shown for one, shown in zip(said, "ab", strict=True) if one in ("a", "b")]
        if "unparsed" not in said:
            conflicts.append(said[0] != said[1])
        if verdict.choice in ("a", "b") and len(verdict.a) != len(verdict.b):
            longer.append((verdict.choice == "a") == (len(verdict.a) > len(verdict.b)))
        apart = against(verdict, votes.get(key))
        if apart is not None:
            agree.append(apart == 0)
    parsed = counts["a"] + counts["b"] + counts["tie"]
    wins = counts["a"] + counts["tie"] / 2
    rate = (wins / parsed, *wilson(wins, parsed)) if parsed else None
    return Standing(
        len(verdicts), counts["a"], counts["b"], counts["tie"], counts["unparsed"],
        rate, _share(first), _share(conflicts), _share(longer), _share(agree),
    )  # fmt: skip


def _share(hits: list[bool]) -> tuple[float, int] | None:
    return (sum(hits) / len(hits), len(hits)) if hits else None


def overrule(votes: Votes, verdict: Verdict, choice: str) -> Vote:
    """The user's own word on a pair, as a vote; an earlier vote on it is replaced.

    Raises:
        UserError: when it cannot be written; nothing is changed then.
    """
    vote = Vote(
        id=key_of(verdict), prompt=verdict.prompt, a=verdict.a, b=verdict.b, choice=choice,
        note=f"overrules {verdict.judge}: {verdict.choice}",
        a_from=verdict.a_from, b_from=verdict.b_from, time=now(),
    )  # fmt: skip
    earlier = [old for old in votes.all if same_pair(old, vote) and old != vote]
    votes.add(vote)
    for old in earlier:
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
