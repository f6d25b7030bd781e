"""The files of what a person said: votes on pairs, thumbs on answers, pairs that wait for a vote.

Each is JSONL that is only ever appended to, one object a line, on disk (fsync) before the call
returns. Lines that do not read are counted and left as they are; several processes may write.
"""

from pathlib import Path

from minialign.durable import Journal
from minialign.home import home, labels_file
from minialign.records import Rated, Vote, noted, to_json, vote_of


class Votes:
    """The user's votes, in the order in which they were given."""

    def __init__(self, path: Path | None = None):
        self.journal = Journal.open(path or labels_file())
        self.all = [vote for row in self.journal.rows if (vote := vote_of(row)) is not None]

    @property
    def path(self) -> Path:
        """The file."""
        return self.journal.path

    @property
    def unreadable(self) -> int:
        """How many lines of the file are no votes; they stay as they are."""
        return len(self.journal.bad) + len(self.journal.rows) - len(self.all)

    def add(self, vote: Vote) -> None:
        """Save a vote; it is on disk when this returns.

        Raises:
            UserError: when it cannot be written.
        """
        self.journal.append(to_json(vote))
        self.all.append(vote)

    def undo(self) -> Vote | None:
        """Take the last vote back, out of the file too; None when there is none.

        Raises:
            UserError: when the file cannot be written.
        """
        if not self.all:
            return None
        last = self.all[-1]
        self.journal.remove_last(lambda row: row.get("id") == last.id and row.get("a") == last.a)
        return self.all.pop()


def rate(
    prompt: list[dict[str, str]], response: str, good: bool | None, finish_reason: str | None = None
) -> None:
    """Keep a thumb up or down for an answer in ``ratings.jsonl``, with the finish reason of one
    that was cut; None takes it back.

    Raises:
        UserError: when it cannot be written.
    """
    journal = Journal.open(home() / "ratings.jsonl")
    journal.remove_last(lambda row: row.get("prompt") == prompt and row.get("response") == response)
    if good is not None:
        journal.append(to_json(Rated(prompt, response, good, "", noted([finish_reason]))))
