"""What a judge was asked before, so that it is not asked again."""

from dataclasses import asdict

from minialign.durable import Journal
from minialign.home import home
from minialign.judge.judge import Judge, Reading


class Memory:
    """What a judge said, by question; on disk as it comes, for judges with an identity."""

    def __init__(self, judge: Judge):
        self.journal: Journal | None = None
        self.said: dict[str, Reading | str] = {}
        if not judge.identity:
            return
        self.journal = Journal.open(home() / "cache" / "judge" / f"{judge.identity}.jsonl")
        for row in self.journal.rows:
            if isinstance(row.get("text"), str) and isinstance(row.get("key"), str):
                whole = "mass" in row
                self.said[row["key"]] = (
                    Reading(row.get("shares"), row["mass"], row["text"]) if whole else row["text"]
                )

    def keep(self, key: str, said: Reading | str) -> None:
        """Remember what was said; on disk when this returns, for judges with an identity."""
        self.said[key] = said
        if self.journal is not None:
            row = {"text": said} if isinstance(said, str) else asdict(said)
            self.journal.append({"key": key, **row})
