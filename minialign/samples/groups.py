"""n samples of each prompt, prompt by prompt as they are complete; rankings or pairs of them."""

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from minialign.data.prompts import Question, prompted
from minialign.engine import Completion, Engine, Request, Sampling
from minialign.errors import UserError
from minialign.formats.kinds import row_of
from minialign.methods import winners
from minialign.records import Ranking, marked
from minialign.rewards.scorer import Scorer
from minialign.samples.generate import planned


@dataclass(frozen=True)
class Group:
    """All samples of one prompt, in the order of their sample index."""

    index: int  # of the prompt
    question: Question
    samples: list[Completion]

    @property
    def texts(self) -> list[str]:
        """The responses."""
        return [sample.text for sample in self.samples]

    @property
    def different(self) -> list[Completion]:
        """The first sample of each text."""
        first: dict[str, Completion] = {}
        for sample in self.samples:
            first.setdefault(sample.text, sample)
        return list(first.values())

    @property
    def tokens(self) -> int:
        """Tokens generated in all."""
        return sum(len(sample.ids) for sample in self.samples)


def groups(
    engine: Engine,
    asked: Sequence[Question],
    n: int,
    sampling: Sampling,
    seed: int = 0,
    batch_size: int = 16,
    skip: frozenset[int] = frozenset(),
) -> Iterator[Group]:
    """A group for each prompt whose index is not in ``skip``, as soon as it is complete.

    Raises:
        UserError: for no samples or no prompts, or when all n samples would be the same.
    """
    if n > 1 and sampling.greedy:
        raise UserError(
            f"{n} samples at temperature 0 are {n} times the same", "--temperature 0.7, or --n 1"
        )
    waiting: list[Request] = [
        request for request in planned(engine, asked, n, seed) if request.prompt_index not in skip
    ]
    open_: dict[int, dict[int, Completion]] = {}
    for one in engine.complete(waiting, sampling, batch_size):
        found = open_.setdefault(one.prompt_index, {})
        found[one.sample_index] = one
        if len(found) == n:
            del open_[one.prompt_index]
            samples = [found[i] for i in range(n)]
            yield Group(one.prompt_index, asked[one.prompt_index], samples)


def ranking(group: Group, scorer: Scorer) -> dict[str, Any] | None:
    """A row with the different responses and their scores; None when there are less than two."""
    samples = group.different
    if len(samples) < 2:
        return None
    texts = [sample.text for sample in samples]
    scores = scorer.score(prompted(group.question), texts)
    return {
        "prompt": group.question.prompt,
        "responses": texts,
        "scores": scores,
        **marked([sample.finish_reason for sample in samples]),
    }


def best_and_worst(group: Group, scorer: Scorer) -> dict[str, Any] | None:
    """A pair of the responses with the highest and the lowest score; None when all are equal."""
    row = ranking(group, scorer)
    if row is None:
        return None
    asked = prompted(group.question).prompt
    reasons = row.get("finish_reasons")
    pairs = winners.best_and_worst(
        Ranking(asked, row["responses"], row["scores"], finish_reasons=reasons)
    )
    return row_of(pairs[0]) if pairs else None


def unlabelled(group: Group, seed: int) -> dict[str, Any] | None:
    """A pair of two different responses in random order, to be labelled; None without two."""
    samples = group.different
    if len(samples) < 2:
        return None
    two = random.Random(f"{seed} {group.index}").sample(samples, 2)
    return {
        "prompt": group.question.prompt,
        "chosen": two[0].text,
        "rejected": two[1].text,
        "unlabelled": True,
        **marked([sample.finish_reason for sample in two]),
    }
