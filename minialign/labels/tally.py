"""Votes in numbers, kept up with each vote."""

from collections.abc import Iterable
from dataclasses import dataclass

from minialign.records import Vote


@dataclass
class Tally:
    """How many votes of each kind, and how steady they are."""

    votes: int = 0
    a: int = 0
    b: int = 0
    tie: int = 0
    both_bad: int = 0
    edited: int = 0
    skip: int = 0
    again: int = 0  # pairs that were shown a second time
    same: int = 0  # of these, how many got the same answer

    def __post_init__(self) -> None:
        self._winners: dict[str, str] = {}  # of each pair: the better text, or the choice

    @property
    def pairs(self) -> int:
        """How many votes give pairs to train on."""
        return self.a + self.b + self.edited

    def add(self, vote: Vote) -> None:
        """Count one more."""
        self.votes += 1
        kind = "edited" if vote.edited else vote.choice
        setattr(self, kind, getattr(self, kind) + 1)
        if vote.choice == "skip":
            return
        key = vote.pair_id
        winner = {"a": vote.a, "b": vote.b}.get(vote.choice, f" {vote.choice}")
        if key in self._winners:
            self.again += 1
            self.same += self._winners[key] == winner
        self._winners[key] = winner


def tally(votes: Iterable[Vote]) -> Tally:
    """Count votes, and how often the same pair got the same vote."""
    counts = Tally()
    for vote in votes:
        counts.add(vote)
    return counts
