"""A sitting of labelling: which pair is shown next, in which order, and what a vote makes of it.

Sides are drawn at random, and where an answer came from is only written into the vote. Now and then
a pair is shown again with its sides swapped, to measure how steady the votes are. With
``least_sure_first`` the pairs of which a scorer or a judge is least sure come first
(scoring/uncertainty.py).
"""

import random
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import replace

from minialign.durable import digest
from minialign.errors import UserError
from minialign.labels.items import Item
from minialign.labels.tally import tally
from minialign.labels.votes import Votes
from minialign.records import Comparison, Prompt, Vote

AHEAD = 2  # pairs made in advance
REPEAT_EVERY = 10  # one pair in so many is an old one
REPEAT_AFTER = 5  # and at least so many votes old
PAUSE = 120.0  # seconds without a vote that do not count as work


class Labelling:
    """A sitting: what is shown next, and the votes.

    ``take`` gives the next item; one that is a prompt is answered by whoever drives the sitting and
    comes back with ``offer``. ``current`` is what is shown. ``least_sure_first``: as far as
    ``learn`` was told how sure somebody is of each pair.
    """

    def __init__(
        self,
        votes: Votes,
        items: Sequence[Item],
        waiting: Sequence[Comparison] = (),
        seed: int | None = None,
        least_sure_first: bool = False,
    ):
        self.votes, self.counts = votes, tally(votes.all)
        self.sure: dict[str, float] | None = {} if least_sure_first else None
        self.random = random.Random(seed)
        self.done = {vote.pair_id for vote in votes.all}
        known = self.done | {digest(vote.prompt) for vote in votes.all}
        every = [*waiting, *items]
        self._items: deque[Item] = deque(one for one in every if _mark(one) not in known)
        self.ready: deque[Comparison] = deque()
        self.current: Comparison | None = None
        self.asked = 0  # prompts given out and not yet offered back: one at a time
        self.given = 0  # votes of this sitting
        self.seconds = 0.0  # spent on them
        self._since = time.monotonic()
        self._until_repeat = REPEAT_EVERY

    @property
    def left(self) -> int:
        """Pairs still to come, the one that is shown among them."""
        return len(self._items) + len(self.ready) + self.asked + (self.current is not None)

    def wants(self) -> bool:
        """Whether another item should be taken now, so that the next pair is there in time. While
        a prompt is being answered nothing is taken: what comes behind it would overtake it."""
        # The least sure one is known at the last moment: more are measured meanwhile.
        most = AHEAD if self.sure is None else int(self.current is None)
        return bool(self._items) and not self.asked and len(self.ready) < most

    def take(self) -> Prompt | None:
        """Move the next item up: a pair becomes ready; a prompt is returned, to be answered."""
        item = self._next()
        if isinstance(item, Comparison):
            self.ready.append(self._shuffle(item))
            return None
        self.asked += 1
        return item

    def offer(self, pair: Comparison | None, prompt: Prompt | None = None) -> None:
        """Take what became of a prompt that ``take`` gave; None puts it back."""
        self.asked -= 1
        if pair is not None:
            self.ready.append(self._shuffle(pair))
        elif prompt is not None:
            self._items.appendleft(prompt)

    def add_first(self, pairs: Sequence[Comparison]) -> None:
        """Show these pairs from the chat next, in this order."""
        new = [self._shuffle(pair) for pair in pairs if pair.key not in self.done]
        self.ready.extendleft(reversed(new))

    def go_on_from(self, before: "Labelling") -> None:
        """Keep what an earlier sitting shows, and what was written for it and not yet shown, as far
        as it is among these items: no pair comes twice, and each has its item's place in line."""
        for pair in filter(None, [before.current, *before.ready]):
            ours = (pair.key, digest(pair.prompt))  # it, or the prompt that it was written for
            places = (n for n, item in enumerate(self._items) if _mark(item) in ours)
            place = next(places, None)
            if pair is before.current and (place is not None or pair.again):
                self.current, self._since = pair, before._since
                if place is not None:
                    del self._items[place]
            elif place is not None:
                self._items[place] = pair

    def _shuffle(self, pair: Comparison) -> Comparison:
        return pair.swapped() if self.random.random() < 0.5 else pair

    def _next(self) -> Item:
        """Take the first item out; or the pair that somebody is least sure of."""
        if not self.sure:
            return self._items.popleft()
        pairs = [(n, one.key) for n, one in enumerate(self._items) if isinstance(one, Comparison)]
        known = [(self.sure[key], n) for n, key in pairs if key in self.sure]
        place = min(known)[1] if known else 0
        item = self._items[place]
        del self._items[place]
        return item

    def pairs(self) -> list[Comparison]:
        """Return the pairs that are still to come, for somebody to say how sure they are."""
        return [item for item in self._items if isinstance(item, Comparison)]

    def learn(self, key: str, sure: float) -> None:
        """Take note of how sure somebody is about a pair: 0 is not at all."""
        if self.sure is not None:
            self.sure[key] = sure

    def show(self) -> Comparison | None:
        """Return the pair to show now; None while there is none."""
        if self.current is None:
            if self._until_repeat <= 0 and (old := self._draw_old()) is not None:
                self.current, self._until_repeat = old, REPEAT_EVERY
            elif self.ready:
                self.current = self.ready.popleft()
            self._since = time.monotonic()
        return self.current

    def _draw_old(self) -> Comparison | None:
        known = {vote.id for vote in self.votes.all}
        voted = [one for one in self.votes.all[:-REPEAT_AFTER] if one.choice != "skip"]
        old = [one for one in voted if not one.again and f"{one.id}.2" not in known]
        if not old:
            return None
        return replace(self.random.choice(old).comparison, again=True).swapped()

    def vote(self, choice: str, edited: str | None = None, note: str = "") -> Vote:
        """Save a vote on the pair that is shown; it is on disk when this returns.

        Raises:
            UserError: when nothing is shown, or it cannot be written; the pair is then still shown.
        """
        pair = self.current
        if pair is None:
            raise UserError("there is no pair to vote on", "wait for the next one")
        vote = pair.vote(choice, edited, note)
        self.votes.add(vote)
        self.counts.add(vote)
        self.done.add(pair.key)
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
        self.counts = tally(self.votes.all)
        if self.current is not None:
            self.ready.appendleft(self.current)
        self.current = replace(vote.comparison, again=vote.again)
        self.done.discard(self.current.key)
        self.given = max(0, self.given - 1)
        self._until_repeat += 1
        self._since = time.monotonic()
        return vote

    def pace(self) -> float | None:
        """Seconds a vote, of this sitting; None before the first."""
        return self.seconds / self.given if self.given else None


def _mark(item: Item) -> str:
    return item.key if isinstance(item, Comparison) else digest(item)
