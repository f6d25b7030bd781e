"""n samples of each prompt, prompt by prompt as they are complete; rankings or pairs of them."""

import random
from collections.abc import Container, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from minialign.engine import Completion, Engine, Sampling
from minialign.errors import UserError
from minialign.formats.kinds import row_of
from minialign.methods import winners
from minialign.records import Prompted, Ranking, marked
from minialign.rewards.scorer import Scorer
from minialign.samples.generate import plan_requests


@dataclass(frozen=True)
class Group:
    """All samples of one prompt, in the order of their sample index."""

    index: int  # of the prompt
    asked: Prompted
    samples: list[Completion]

    @property
    def texts(self) -> list[str]:
        """The responses."""
        return [sample.text for sample in self.samples]

    @property
    def finish_reasons(self) -> list[str]:
        """Why each response ended."""
        return [sample.finish_reason for sample in self.samples]

    def without_repeats(self) -> "Group":
        """The group of the first sample of each text."""
        first = {sample.text: sample for sample in reversed(self.samples)}
        samples = [sample for sample in self.samples if first[sample.text] is sample]
        return replace(self, samples=samples)

    @property
    def tokens(self) -> int:
        """Tokens generated in all."""
        return sum(len(sample.ids) for sample in self.samples)


def sample_groups(
    engine: Engine,
    asked: Sequence[Prompted],
    n: int,
    sampling: Sampling,
    seed: int = 0,
    batch_size: int = 16,
    skip: Container[int] = (),
) -> Iterator[Group]:
    """Sample each prompt whose index is not in ``skip``; gives a group as soon as it is complete.

    Raises:
        UserError: for no samples or no prompts, or when all n samples would be the same.
    """
    if n > 1 and sampling.greedy:
        said = f"{n} samples at temperature 0 are {n} times the same"
        raise UserError(said, "--temperature 0.7, or --n 1")
    planned = plan_requests(engine, asked, n, seed)
    waiting = [request for request in planned if request.prompt_index not in skip]
    begun: dict[int, dict[int, Completion]] = {}
    for one in engine.complete(waiting, sampling, batch_size):
        samples = begun.setdefault(one.prompt_index, {})
        samples[one.sample_index] = one
        if len(samples) == n:
            del begun[one.prompt_index]
            in_order = [samples[i] for i in range(n)]
            yield Group(one.prompt_index, asked[one.prompt_index], in_order)


def rank(group: Group, scorer: Scorer) -> dict[str, Any] | None:
    """A row with the different responses and their scores; None when there are less than two."""
    group = group.without_repeats()
    if len(group.samples) < 2:
        return None
    return {
        "prompt": group.asked.prompt,
        "responses": group.texts,
        "scores": scorer.score(group.asked, group.texts),
        **marked(group.finish_reasons),
    }


def pair_best_and_worst(group: Group, scorer: Scorer) -> dict[str, Any] | None:
    """A pair of the responses with the highest and the lowest score; None when all are equal."""
    row = rank(group, scorer)
    if row is None:
        return None
    ranking = Ranking(**{**row, "prompt": group.asked.prompt})
    pairs = winners.best_and_worst(ranking)
    return row_of(pairs[0]) if pairs else None


def pair_at_random(group: Group, seed: int) -> dict[str, Any] | None:
    """A pair of two different responses in random order, to be labelled; None without two."""
    samples = group.without_repeats().samples
    if len(samples) < 2:
        return None
    two = random.Random(f"{seed} {group.index}").sample(samples, 2)
    return {
        "prompt": group.asked.prompt,
        "chosen": two[0].text,
        "rejected": two[1].text,
        "unlabelled": True,
        **marked([sample.finish_reason for sample in two]),
    }
