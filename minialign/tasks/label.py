"""Labelling: which pair is shown next, in which order, and what a vote makes of it.

Pairs come from the chat, from a file of pairs, or from prompts that a model answers twice. Sides
are drawn at random, and where an answer came from is only written into the vote. Now and then a
pair is shown again with its sides swapped, to measure how steady the votes are.
"""

import hashlib
import json
import random
import time
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from minialign.errors import UserError
from minialign.home import home
from minialign.records import Prompt, Vote, as_prompt
from minialign.tasks.votes import Lines, Votes, now

if TYPE_CHECKING:
    from minialign.engine import Engine, Sampling

AHEAD = 2  # pairs made in advance
REPEAT_EVERY = 10  # one pair in so many is an old one
REPEAT_AFTER = 5  # and at least so many votes old
PAUSE = 120.0  # seconds without a vote that do not count as work

STARTERS = (
    "Explain what a black hole is to a curious ten-year-old.",
    "I slept badly. Give me three tips for tonight.",
    "Write a short, friendly email that asks a colleague to review my report by Friday.",
    "What is the difference between weather and climate?",
    "Suggest a quick vegetarian dinner with chickpeas.",
    "Summarize in two sentences why the sky is blue.",
    "How do I politely decline an invitation?",
    "Give me three names for a cat that likes to sleep.",
    "What should I pack for a weekend in the mountains?",
    "Explain compound interest with a small example.",
    "Write a four-line poem about rain.",
    "What are the pros and cons of working from home?",
    "How can I learn to touch-type?",
    "Why do leaves change colour in autumn?",
    "Turn this into a polite question: give me the file now.",
    "Name three books that are good for learning about history.",
    "How do vaccines work?",
    "Plan a relaxed Sunday with two small children.",
    "What is a good first project to learn Python?",
    "Describe the taste of a lemon to someone who never had one.",
    "How do I remove a red wine stain?",
    "Give me a warm-up for a short run.",
    "What is inflation, in plain words?",
    "Write a thank-you note to a neighbour who fed my plants.",
)


@dataclass(frozen=True)
class Shown:
    """A pair as it is shown. ``key`` is the same for the same two answers in any order."""

    prompt: Prompt
    a: str
    b: str
    a_from: dict[str, Any] = field(default_factory=dict)
    b_from: dict[str, Any] = field(default_factory=dict)
    again: bool = False

    @property
    def key(self) -> str:
        """16 letters that stand for prompt and answers."""
        return digest([self.prompt, *sorted([self.a, self.b])])

    def swapped(self) -> "Shown":
        """The same, the other way round."""
        return replace(self, a=self.b, b=self.a, a_from=self.b_from, b_from=self.a_from)


def digest(value: Any) -> str:
    """16 letters that stand for a JSON value."""
    text = json.dumps(value, ensure_ascii=False, sort_keys=True)
    return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).hexdigest()


Item = Shown | Prompt  # a pair, or a prompt to be answered twice


def read_items(path: str | Path) -> list[Item]:
    """The pairs of a file, or its prompts when it holds none; a .txt has a prompt a line.

    Raises:
        UserError: for a missing file, bad rows, or rows of neither kind.
    """
    path = Path(path).expanduser()
    if path.suffix == ".txt":
        from minialign.tasks.generate import read_questions

        return [list(asked.prompt) for asked in read_questions(path) if asked.prompt]  # type: ignore[arg-type]
    from minialign import formats
    from minialign.records import Pair, Prompted

    if not path.is_file():
        raise UserError(f"{path}: no such file", "a .txt with a prompt a line, or JSONL of pairs")
    read = formats.read(path)
    if read.problems:
        raise UserError(str(read.problems[0]), "minialign data check lists all bad rows")
    pairs, _ = formats.as_kind(read.records, Pair)
    if pairs:
        return [
            Shown(
                pair.prompt, pair.chosen, pair.rejected,
                {"file": pair.source, "was": "chosen"}, {"file": pair.source, "was": "rejected"},
            )
            for pair in pairs
            if pair.chosen.strip() != pair.rejected.strip()
        ]  # fmt: skip
    prompts, _ = formats.as_kind(read.records, Prompted)
    if not prompts:
        raise UserError(f"{path} holds neither pairs nor prompts", f"minialign data show {path}")
    return [prompted.prompt for prompted in prompts]


def starters() -> list[Item]:
    """The prompts to begin with."""
    return [as_prompt(text) for text in STARTERS]


class Waiting:
    """Pairs that were set aside in the chat, in ``pairs.jsonl``, until they have a vote."""

    def __init__(self, path: Path | None = None):
        self.lines = Lines.open(path or home() / "pairs.jsonl")

    def add(self, pair: Shown) -> None:
        """Set a pair aside; on disk when this returns."""
        self.lines.append(
            {"prompt": pair.prompt, "a": pair.a, "b": pair.b,
             "a_from": pair.a_from, "b_from": pair.b_from}
        )  # fmt: skip

    def pairs(self) -> list[Shown]:
        """All that were ever set aside."""
        found = []
        for row in self.lines.rows:
            try:
                found.append(
                    Shown(as_prompt(row["prompt"]), str(row["a"]), str(row["b"]),
                          dict(row.get("a_from") or {}), dict(row.get("b_from") or {}))
                )  # fmt: skip
            except (KeyError, TypeError, ValueError):
                continue
        return found


@dataclass
class Tally:
    """Votes in numbers."""

    votes: int = 0
    a: int = 0
    b: int = 0
    tie: int = 0
    both_bad: int = 0
    edited: int = 0
    skip: int = 0
    again: int = 0  # pairs that were shown a second time
    same: int = 0  # of these, how many got the same answer

    @property
    def pairs(self) -> int:
        """How many votes give pairs to train on."""
        return self.a + self.b + self.edited


def tally(votes: Sequence[Vote]) -> Tally:
    """Count votes, and how often the same pair got the same vote."""
    counts = Tally(len(votes))
    first: dict[str, str] = {}
    for vote in votes:
        kind = "edited" if vote.edited else vote.choice
        setattr(counts, kind, getattr(counts, kind) + 1)
        if vote.choice == "skip":
            continue
        key, winner = vote.id.partition(".")[0], _winner(vote)
        if key in first:
            counts.again += 1
            counts.same += first[key] == winner
        first[key] = winner
    return counts


def _winner(vote: Vote) -> str:
    if vote.choice in ("a", "b"):
        return digest(vote.a if vote.choice == "a" else vote.b)
    return vote.choice


class Labelling:
    """A sitting: what is shown next, and the votes.

    ``take`` gives the next item; one that is a prompt is answered by whoever drives the sitting and
    comes back with ``offer``. ``current`` is what is shown.
    """

    def __init__(
        self,
        votes: Votes,
        items: Sequence[Item],
        waiting: Sequence[Shown] = (),
        seed: int | None = None,
    ):
        self.votes = votes
        self.random = random.Random(seed)
        self.done = {vote.id.partition(".")[0] for vote in votes.all}
        answered = {digest(vote.prompt) for vote in votes.all}
        self._items: deque[Item] = deque(
            item for item in [*waiting, *items] if not self._is_done(item, answered)
        )
        self.ready: deque[Shown] = deque()
        self.current: Shown | None = None
        self.asked = 0  # prompts given out and not yet offered back
        self.given = 0  # votes of this sitting
        self.seconds = 0.0  # spent on them
        self._since = time.monotonic()
        self._until_repeat = REPEAT_EVERY

    def _is_done(self, item: Item, answered: set[str]) -> bool:
        return item.key in self.done if isinstance(item, Shown) else digest(item) in answered

    @property
    def left(self) -> int:
        """Pairs still to come, the one that is shown among them."""
        return len(self._items) + len(self.ready) + self.asked + (self.current is not None)

    def wants(self) -> bool:
        """Whether another item should be taken now, so that the next pair is there in time."""
        return bool(self._items) and len(self.ready) + self.asked < AHEAD

    def take(self) -> Prompt | None:
        """Move the next item up: a pair becomes ready; a prompt is returned, to be answered."""
        item = self._items.popleft()
        if isinstance(item, Shown):
            self.ready.append(item.swapped() if self.random.random() < 0.5 else item)
            return None
        self.asked += 1
        return item

    def offer(self, pair: Shown | None, prompt: Prompt | None = None) -> None:
        """What became of a prompt that ``take`` gave; None puts it back."""
        self.asked -= 1
        if pair is not None:
            self.ready.append(pair.swapped() if self.random.random() < 0.5 else pair)
        elif prompt is not None:
            self._items.appendleft(prompt)

    def add_first(self, pair: Shown) -> None:
        """A pair from the chat: it is shown next."""
        if pair.key not in self.done:
            self.ready.append(pair.swapped() if self.random.random() < 0.5 else pair)

    def show(self) -> Shown | None:
        """The pair to show now; None while there is none."""
        if self.current is None:
            if self._until_repeat <= 0 and (old := self._old()) is not None:
                self.current, self._until_repeat = old, REPEAT_EVERY
            elif self.ready:
                self.current = self.ready.popleft()
            self._since = time.monotonic()
        return self.current

    def _old(self) -> Shown | None:
        known = {vote.id for vote in self.votes.all}
        found = [
            vote
            for vote in self.votes.all[:-REPEAT_AFTER]
            if vote.choice != "skip" and "." not in vote.id and f"{vote.id}.2" not in known
        ]
        if not found:
            return None
        vote = self.random.choice(found)
        shown = Shown(vote.prompt, vote.a, vote.b, vote.a_from, vote.b_from, again=True)
        return shown.swapped()

    def vote(self, choice: str, edited: str | None = None, note: str = "") -> Vote:
        """Save a vote on the pair that is shown; it is on disk when this returns.

        Raises:
            UserError: when nothing is shown, or it cannot be written; the pair is then still shown.
        """
        pair = self.current
        if pair is None:
            raise UserError("there is no pair to vote on", "wait for the next one")
        key = pair.key
        vote = Vote(
            id=f"{key}.2" if pair.again else key,
            prompt=pair.prompt, a=pair.a, b=pair.b, choice=choice, edited=edited, note=note,
            a_from=pair.a_from, b_from=pair.b_from, time=now(),
        )  # fmt: skip
        self.votes.add(vote)
        self.done.add(key)
        self.given += 1
        self.seconds += min(PAUSE, time.monotonic() - self._since)
        self._until_repeat -= 1
        self.current = None
        return vote

    def undo(self) -> Vote | None:
        """Take the last vote back and show its pair again, as it was; None without a vote."""
        vote = self.votes.undo()
        if vote is None:
            return None
        if self.current is not None:
            self.ready.appendleft(self.current)
        again = "." in vote.id
        self.current = Shown(vote.prompt, vote.a, vote.b, vote.a_from, vote.b_from, again)
        self.done.discard(self.current.key)
        self.given = max(0, self.given - 1)
        self._until_repeat += 1
        self._since = time.monotonic()
        return vote

    def pace(self) -> float | None:
        """Seconds a vote, of this sitting; None before the first."""
        return self.seconds / self.given if self.given else None


def two_answers(
    engine: "Engine",
    prompt: Prompt,
    sampling: "Sampling",
    origin: dict[str, Any],
    seed: int,
    pressed: Any = lambda: False,
    cancelled: Any = lambda: False,
) -> Iterator[Shown | None]:
    """Two different answers to a prompt, with different seeds; the last item is the pair, or None
    when the model gave the same answer each time. Items before it are pauses: when ``pressed``
    turns true the work is given up and done again.

    Raises:
        UserError: when the prompt is too long.
    """
    from minialign.batch import encode_prompt
    from minialign.engine import Request
    from minialign.engine.sampling import sample_seed

    if sampling.greedy:
        sampling = replace(sampling, temperature=0.7)  # else both are the same
    ids = tuple(encode_prompt(prompt, engine.tokenizer))
    seeds = [sample_seed(seed, 1, index) for index in range(4)]
    found: dict[int, str] = {}
    for wanted in (seeds[:2], seeds[2:3], seeds[3:]):
        while missing := [one for one in wanted if one not in found]:
            waiting = [Request(ids, seed=one) for one in missing]
            for done in engine.complete(waiting, sampling, cancelled=pressed):
                if done.finish_reason != "cancelled":
                    found[done.seed] = done.text.strip()
            if cancelled():
                return
            if any(one not in found for one in wanted):
                yield None
        texts = {text: one for one, text in found.items() if text}
        if len(texts) > 1:
            (a, a_seed), (b, b_seed) = list(texts.items())[:2]
            settings = {"temperature": sampling.temperature}
            yield Shown(
                prompt, a, b, {**origin, "seed": a_seed, **settings},
                {**origin, "seed": b_seed, **settings},
            )  # fmt: skip
            return
    yield None
