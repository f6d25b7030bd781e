"""SLiC-HF: sequence likelihood calibration on preference pairs.

Zhao et al. 2023 (arXiv:2305.10425) eq. 1: max(0, delta - log pi(y+) + log pi(y-)) - lambda log
pi(y_ref), on summed log-probs. On pairs as they are this is SLiC-HF-direct; on pairs of the SFT
policy's own samples, labelled by a reward, it is SLiC-HF-sample-rank.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import mlx.core as mx

from minialign.errors import UserError
from minialign.formats.kinds import digest, turn_into
from minialign.learn import losses
from minialign.learn.batch import Batch, Example, TokenizerLike, TooLong
from minialign.learn.fit import Loss
from minialign.learn.forward import response_logps
from minialign.learn.policy import Policy
from minialign.methods.method import encode_each, encode_texts, require
from minialign.methods.pairs import pair_method, pair_metrics
from minialign.methods.reference_texts import reference_texts
from minialign.records import Demonstration, Pair


@dataclass(frozen=True)
class Config:
    """SLiC's own settings."""

    # how far the chosen log-prob (summed) must lie above the rejected one
    delta: float = 1.0
    # lambda, the weight of the summed NLL of the chosen or of a reference text (0: none)
    nll_weight: float = 0.1
    # files of demonstrations whose answers are the reference texts, found by their prompt;
    # without files, and for a prompt that is not in them, it is the chosen response
    sft_data: tuple[str, ...] = ()


def check(config: Config) -> None:
    """Raise a UserError for values outside the loss's domain."""
    require(config, from_0=("delta", "nll_weight"))
    if config.sft_data and not config.nll_weight:
        raise UserError("--sft-data has no weight", "--nll-weight 0.1")


def check_rows(rows: Sequence[Pair], config: Config) -> None:
    """Raise a UserError when reference texts are wanted and no pair has one."""
    texts = reference_texts(config.sft_data)
    if config.sft_data and not any(digest(row.prompt) in texts for row in rows):
        raise UserError("no prompt of the pairs is in --sft-data", "the same prompts are needed")


def encode_rows(
    rows: Sequence[Pair], tokenizer: TokenizerLike, limit: int, config: Config
) -> list[Example | TooLong]:
    """Examples of chosen and rejected, and with ``sft_data`` the reference text as a third."""
    if not config.sft_data:
        return encode_each(rows, tokenizer, limit, config)
    known, coded = reference_texts(config.sft_data), []
    for row in rows:
        third = known.get(digest(row.prompt)) or turn_into(row, Demonstration)[0]
        texts = [row.chosen, row.rejected, third.messages[-1]["content"]]
        reasons = (row.finish_reasons or ["stop"] * 2) + (third.finish_reasons or ["stop"])
        coded.append(encode_texts(row, texts, reasons, tokenizer, limit, {}))
    return coded


def loss(config: Config) -> Loss:
    """The sum over pairs, with TRL's metric names; a reward is a summed log-prob."""

    def calibration(policy: Policy, batch: Batch) -> tuple[mx.array, dict[str, mx.array]]:
        logps, counts = response_logps(policy, batch)
        shape = (batch.size, -1)
        each = logps.reshape(shape)
        rank = losses.slic_rank(each[:, 0], each[:, 1], config.delta)
        nll = -each[:, 2 if config.sft_data else 0]
        two, lengths = each[:, :2].reshape(-1), counts.reshape(shape)[:, :2].reshape(-1)
        parts = {"rank": rank.sum(), "nll/reference": nll.sum()}
        values = rank + config.nll_weight * nll
        return values.sum(), pair_metrics(two, two, lengths) | parts

    return calibration


METHOD = pair_method(
    name="slic", config=Config, loss=loss, check=check, check_rows=check_rows, encode=encode_rows
)
