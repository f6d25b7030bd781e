"""The one protocol of scorers: ``score(prompt, responses) -> floats``, a higher one is better."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from minialign.errors import UserError
from minialign.records import Prompted

# A prompt with its row's other keys (a reference answer…), and responses -> a number for each.
Values = Callable[[Prompted, Sequence[str]], Sequence[float]]


@dataclass(frozen=True)
class Scorer:
    """Something that scores responses; ``name`` is what stands behind ``--scorer``."""

    name: str
    values: Values

    def score(self, prompt: Prompted, responses: Sequence[str]) -> list[float]:
        """A finite number for each response.

        Raises:
            UserError: when the scorer gives something else.
        """
        if not responses:
            return []
        given = self.values(prompt, responses)
        where = f"{self.name}{f', {prompt.source}' if prompt.source else ''}"
        hint = "it must return a number for each response"
        try:
            scores = [float(value) for value in given]
        except (TypeError, ValueError):
            said = f"the scorer returned {type(given).__name__} {str(given)[:60]!r}"
            raise UserError(f"{where}: {said}", hint) from None
        if len(scores) != len(responses):
            raise UserError(f"{where}: {len(scores)} scores for {len(responses)} responses", hint)
        for value, response in zip(scores, responses, strict=True):
            if not math.isfinite(value):
                problem = f"{where}: the score {value} for {response[:60]!r}"
                raise UserError(problem, "scores must be finite numbers")
        return scores
