"""Conditional tokens: learn from good and bad responses alike, told apart by words in the prompt.

Korbak et al. 2023 (arXiv:2302.08582) section 2, "conditional training", and Lu et al. 2022, Quark
(arXiv:2205.13636) without its KL term: NLL of every response behind a control text that says how
good it is; when the result is used, the prompt has the best one. There are two levels, from thumbs
or pairs, or the quantiles of the scores of rankings. The text is plain words rather than new
tokens, so quantized embeddings serve as they are.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import mlx.core as mx
import numpy as np

from minialign.errors import UserError
from minialign.learn.batch import Batch, Example, TokenizerLike, TooLong
from minialign.learn.fit import Loss
from minialign.learn.forward import token_logps
from minialign.learn.policy import Policy
from minialign.methods.method import Method, encode_each
from minialign.methods.ratings import check_rows
from minialign.models.control import Control, Controlled
from minialign.records import Ranking, Rated, reasons_of


@dataclass(frozen=True)
class Config:
    """The control texts."""

    # the words before which good responses are learned; also used when the result is
    good: str = "Give a good answer."
    # the words before which bad responses are learned
    bad: str = "Give a bad answer."
    # where they stand: a line before the last user message, or in the system message
    place: Literal["user", "system"] = "user"
    # levels of score instead of good and bad: all rankings' responses in so many equal parts (0)
    quantiles: int = 0
    # the words of a level, 1 to --quantiles; the highest is also used when the result is
    level: str = "Quality {level} of {levels}."

    def words(self, level: int) -> str:
        """The control text of a level, from 1."""
        return self.level.format(level=level, levels=self.quantiles)


def check(config: Config) -> None:
    """Raise a UserError for control texts that tell nothing apart."""
    if config.quantiles:
        _check_levels(config)
    for name in ("good", "bad"):
        if not getattr(config, name).strip():
            raise UserError(f"the control text --{name} is empty", "give it some words")
    if config.good.strip() == config.bad.strip():
        raise UserError("--good and --bad are the same text", "they must differ")


def _check_levels(config: Config) -> None:
    if config.quantiles < 2:
        raise UserError(f"quantiles = {config.quantiles}", "2 levels or more; 0: good and bad")
    if (config.good, config.bad) != (Config.good, Config.bad):
        raise UserError("--good and --bad are no words of quantiles", "--level 'Grade {level}.'")
    try:
        differ = config.words(1) != config.words(2)
    except (KeyError, IndexError, ValueError) as reason:
        raise UserError(f"--level {config.level!r}: {reason!r}", "{level} and {levels}") from None
    if not differ:
        raise UserError(f"--level {config.level!r} is the same for all levels", "add {level}")


def check_data(rows: Sequence[Any], config: Config) -> None:
    """Raise a UserError when the rows tell nothing apart."""
    if not config.quantiles:
        check_rows(rows, config)
    elif len({score for row in rows for score in row.scores}) < 2:
        raise UserError("all responses have the same score", "there is nothing to tell apart")


def levels(scores: Sequence[float], count: int) -> list[int]:
    """The level of each score, from 1 to ``count``: which of so many equal parts of all scores it
    is in. Equal scores have one level, that of their middle."""
    ordered = np.sort(scores)
    ranks = (np.searchsorted(ordered, scores) + np.searchsorted(ordered, scores, "right")) / 2
    return [1 + min(count - 1, int(count * rank / len(scores))) for rank in ranks]


def _rated(rows: Sequence[Ranking], config: Config) -> list[tuple[Rated, str]]:
    """Each response by itself with the words of its level; the levels are those of these rows."""
    single = [(row, place) for row in rows for place in range(len(row.responses))]
    each = levels([score for row in rows for score in row.scores], config.quantiles)
    told = []
    for (row, place), level in zip(single, each, strict=True):
        good, reasons = level == config.quantiles, reasons_of(row, place)
        rated = Rated(row.prompt, row.responses[place], good, row.source, reasons)
        told.append((rated, config.words(level)))
    return told


def encode_rows(
    rows: Sequence[Any], tokenizer: TokenizerLike, limit: int, config: Config
) -> list[Example | TooLong]:
    """Each response with its own control text in the prompt."""
    if config.quantiles:
        told = _rated(rows, config)
    else:
        told = [(row, config.good if row.good else config.bad) for row in rows]
    texts = {text for _, text in told}
    readers = {text: Controlled(tokenizer, Control(text, config.place)) for text in texts}
    return [one for row, text in told for one in encode_each([row], readers[text], limit, config)]


def loss(config: Config) -> Loss:
    """Sum of -log p over the tokens of all responses; the unit is a token."""

    def nll(policy: Policy, batch: Batch) -> tuple[mx.array, dict[str, mx.array]]:
        logps, owners = token_logps(policy, batch)
        good = mx.array([float(example.meta["good"]) for example in batch.examples])[owners]
        metrics = {"nll": -logps.sum(), "good/nll": -(good * logps).sum(), "good": good.sum()}
        return -logps.sum(), metrics

    return nll


def derived(metrics: dict[str, float]) -> dict[str, float]:
    """The mean NLL a token, and that of good and of bad responses by themselves."""
    nll, good, share = metrics["nll"], metrics["good/nll"], metrics["good"]
    shown = {name: value for name, value in metrics.items() if not name.startswith("good")}
    parts = {"nll/good": (good, share), "nll/bad": (nll - good, 1 - share)}
    return shown | {name: part / n for name, (part, n) in parts.items() if n > 1e-9}


METHOD = Method(
    name="conditional",
    config=Config,
    record=Rated,
    loss=loss,
    unit="tokens",
    needs="responses rated good or bad (pairs count as one of each); rankings for --quantiles",
    check=check,
    check_rows=check_data,
    other_record=lambda config: Ranking if config.quantiles else None,
    encode=encode_rows,
    control=lambda config: Control(
        config.words(config.quantiles) if config.quantiles else config.good, config.place
    ),
    derived=derived,
)
