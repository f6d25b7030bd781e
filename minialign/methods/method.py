"""What a training method is: the rows it accepts, its loss, and what the loss is a sum over."""

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from minialign.errors import UserError
from minialign.learn.batch import Batch, Example, TokenizerLike, TooLong, encode
from minialign.learn.fit import Loss
from minialign.models.control import Control
from minialign.records import Ranking, Record

# (rows, tokenizer, most tokens of a prompt with a response, config) -> one for each row
Encode = Callable[[Sequence[Any], TokenizerLike, int, Any], list[Example | TooLong]]


def encode_each(
    rows: Sequence[Record], tokenizer: TokenizerLike, limit: int, config: Any
) -> list[Example | TooLong]:
    """Every row by itself, as ``batch.encode`` does it."""
    train_on = getattr(config, "train_on", "all")
    return [encode(row, tokenizer, limit, train_on) for row in rows]


def encode_texts(
    row: Any, texts: list[str], finish_reasons: list[str] | None, tokenizer: TokenizerLike,
    limit: int, meta: dict[str, Any],
) -> Example | TooLong:  # fmt: skip
    """An example of any texts behind a row's prompt, with the reason why each of them ended."""
    record = Ranking(row.prompt, texts, [], row.source, finish_reasons)
    coded = encode(record, tokenizer, limit)
    return replace(coded, meta=meta) if isinstance(coded, Example) else coded


def require(config: Any, above_0: Sequence[str] = (), from_0: Sequence[str] = ()) -> None:
    """Raise a UserError for a setting of these names that is too small."""
    for name in (*above_0, *from_0):
        value = getattr(config, name)
        if value < 0 or (value == 0 and name in above_0):
            wanted = "above 0" if name in above_0 else "0 or more"
            raise UserError(f"{name} = {value}", f"it must be {wanted}")


@dataclass(frozen=True)
class Rounds:
    """What a method does in each round, with candidates that were sampled and scored.

    Attributes:
        trains: the method that a round trains with.
        train_config: config -> that method's own settings.
        select: (a prompt's candidates, config, chance) -> rows to train on.
        usual: how many rounds there are when nothing is said.
        fresh: whether each round trains from where the run started.
        fixed_reference: whether the reference is the policy that the run started with.
    """

    trains: "Method"
    train_config: Callable[[Any], Any]
    select: Callable[[Ranking, Any, random.Random], Sequence[Record]]
    usual: int = 3
    fresh: Callable[[Any], bool] = lambda config: False
    fixed_reference: Callable[[Any], bool] = lambda config: False


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
        check_rows: (training rows, config); raises a ``UserError`` when they teach nothing.
        other_record: config -> the kind of record that these settings need instead; None: the same.
        encode: makes examples of rows; the default encodes each by itself.
        control: config -> the control text that prompts shall have when the result is used.
        derived: turns the means of a loss's metrics into those that are shown.
        defaults: settings whose usual value is another for this method.
        unused: settings of every run that have no meaning for it.
        on_policy: whether the model writes what it is trained on, in phases (``training.online``).
        rounds: what it does in each round (``training.rounds``); None: it has none.
        file: where a method of the user's own was read from; "" for the built-in ones.
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
    check_rows: Callable[[Sequence[Any], Any], None] = lambda rows, config: None
    other_record: Callable[[Any], type | None] = lambda config: None
    encode: Encode = encode_each
    control: Callable[[Any], Control | None] = lambda config: None
    derived: Callable[[dict[str, float]], dict[str, float]] = lambda metrics: metrics
    defaults: dict[str, Any] = field(default_factory=dict)
    unused: tuple[str, ...] = ()
    on_policy: bool = False
    rounds: Rounds | None = None
    file: str = ""

    @property
    def command(self) -> str:
        """The words behind ``minialign`` that train with it."""
        return f"train {self.file}" if self.file else self.name

    def weight(self, batch: Batch) -> float:
        """How many units the loss of a batch is a sum over."""
        return batch.trained_tokens if self.unit == "tokens" else batch.size
