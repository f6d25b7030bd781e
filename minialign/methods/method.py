"""What a training method is: the rows it accepts, its loss, and what the loss is a sum over."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

from minialign.batch import Batch
from minialign.train import Loss


@dataclass(frozen=True)
class Method:
    """One training method; a new one is a file with such a value in it.

    Attributes:
        config: a frozen dataclass of the method's own settings.
        record: the kind of record it trains on; others are converted where that is possible.
        loss: config -> ``Loss``.
        unit: whether the loss is a sum over trained "tokens" or over "examples".
        needs: what a row must hold, for the help text.
        reference: whether the loss reads ``batch.extra["reference"]``, the reference's log-probs
            of each response (N,).
        reward_head: whether a scalar head is trained beside the adapter.
        check: raises a ``UserError`` for settings that make no sense together.
        derived: turns the means of a loss's metrics into those that are shown.
    """

    name: str
    config: type
    record: type
    loss: Callable[[Any], Loss]
    unit: Literal["tokens", "examples"]
    needs: str
    reference: bool = False
    reward_head: bool = False
    check: Callable[[Any], None] = lambda config: None
    derived: Callable[[dict[str, float]], dict[str, float]] = lambda metrics: metrics

    def weight(self, batch: Batch) -> float:
        """How many units the loss of a batch is a sum over."""
        return batch.trained_tokens if self.unit == "tokens" else batch.size
