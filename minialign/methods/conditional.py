"""Conditional tokens: learn from good and bad responses alike, told apart by words in the prompt.

Korbak et al. 2023 (arXiv:2302.08582) section 2, "conditional training", and Lu et al. 2022, Quark
(arXiv:2205.13636) with two levels and no KL term: NLL of every response behind a control text that
says how good it is; when the result is used, the prompt has the good one. The text is plain words
rather than new tokens, so quantized embeddings serve as they are.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import mlx.core as mx

from minialign.batch import Batch, Example, TokenizerLike, TooLong
from minialign.control import Control, Controlled
from minialign.errors import UserError
from minialign.forward import Policy, token_logps
from minialign.methods.method import Method, encode_each
from minialign.methods.ratings import check_rows
from minialign.records import Rated
from minialign.train import Loss


@dataclass(frozen=True)
class Config:
    """The control texts."""

    # the words before which good responses are learned; also used when the result is
    good: str = "Give a good answer."
    # the words before which bad responses are learned
    bad: str = "Give a bad answer."
    # where they stand: a line before the last user message, or in the system message
    place: Literal["user", "system"] = "user"


def check(config: Config) -> None:
    """Raise a UserError for control texts that tell nothing apart."""
    for name in ("good", "bad"):
        if not getattr(config, name).strip():
            raise UserError(f"the control text --{name} is empty", "give it some words")
    if config.good.strip() == config.bad.strip():
        raise UserError("--good and --bad are the same text", "they must differ")


def encode_rows(
    rows: Sequence[Rated], tokenizer: TokenizerLike, limit: int, config: Config
) -> list[Example | TooLong]:
    """Each row with its own control text in the prompt."""
    by_good = {
        good: Controlled(tokenizer, Control(text, config.place))
        for good, text in ((True, config.good), (False, config.bad))
    }
    return [found for row in rows for found in encode_each([row], by_good[row.good], limit, config)]


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
    needs="responses rated good or bad (pairs count as one of each)",
    check=check,
    check_rows=check_rows,
    encode=encode_rows,
    control=lambda config: Control(config.good, config.place),
    derived=derived,
)
