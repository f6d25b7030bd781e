"""From logits to the next token, for all rows of a batch at once, on the host: in NumPy, or on a
plain CPU natively where no filter is set.

Every random number of a sample comes from its own seed and never from its batch or the machine's
state, so a sample can be drawn again alone. One inverse-CDF draw a token needs one uniform number
and one ``exp`` over the vocabulary; NumPy's is several times faster than MLX's on a CPU.
"""

import numpy as np

from minialign import cpu
from minialign.errors import UserError
from minialign.sampling import Sampling

BLOCK = 256  # tokens that are summed before they are cumulated


def sample_seed(seed: int, prompt_index: int, sample_index: int) -> int:
    """The seed of one sample of a batch of prompts: 53 bits, so that JSON keeps it exactly.

    The first sample of the first prompt keeps ``seed`` itself, so generating one answer with
    a sample's seed gives that sample again.
    """
    if prompt_index == sample_index == 0:
        return seed
    state = np.random.SeedSequence([seed % 2**64, prompt_index, sample_index])
    return int(state.generate_state(1, np.uint64)[0] >> np.uint64(11))


def uniforms(seed: int, count: int) -> np.ndarray:
    """``count`` uniform numbers in [0, 1), float64; more of them begin with the same ones."""
    return np.random.default_rng(seed % 2**64).random(count)


def choose(
    logits: np.ndarray, sampling: Sampling, uniform: np.ndarray, seen: np.ndarray | None = None
) -> np.ndarray:
    """The next token of every row.

    Args:
        logits: (B, V) float32.
        sampling: the settings, the same for all rows.
        uniform: (B,) numbers in [0, 1), one a row (unused when greedy).
        seen: (B, V) bool, the tokens each row has generated; None when there is no penalty.

    Returns:
        (B,) token ids, int64. A row's token does not depend on the other rows.
    """
    if seen is not None and sampling.repetition_penalty != 1:
        penalty = np.float32(sampling.repetition_penalty)
        penalised = np.where(logits > 0, logits / penalty, logits * penalty)
        logits = np.where(seen, penalised, logits)
    if not sampling.greedy and not sampling.filtered:
        drawn = cpu.draw(logits, sampling.temperature, uniform)
        if drawn is not None:
            _check_numbers(bool((drawn >= 0).all()))
            return drawn
    peak = logits.max(axis=1, keepdims=True)
    _check_numbers(bool(np.isfinite(peak).all()))
    if sampling.greedy:
        return logits.argmax(axis=1)
    weights = logits - peak
    kept = _filter(weights, sampling)
    with np.errstate(over="ignore"):  # a temperature near 0 leaves only the most likely token
        weights /= np.float32(max(sampling.temperature, 1e-30))
    np.exp(weights, out=weights)  # in place: new pages cost as much as the numbers
    if kept is not None:
        weights *= kept
    return _draw(weights, uniform)


def _check_numbers(good: bool) -> None:
    if not good:
        fix = "its weights or the adapter's are damaged; the run that trained it may have diverged"
        raise UserError("the model's logits are not numbers (NaN or infinite)", fix)


def _draw(weights: np.ndarray, uniform: np.ndarray) -> np.ndarray:
    """The token whose share of the row's cumulated weights holds the row's uniform number; (B,).

    First the block of tokens is found, then the token in it: only sums of blocks are cumulated.
    """
    rows = np.arange(len(weights))
    if rest := -weights.shape[1] % BLOCK:
        weights = np.pad(weights, ((0, 0), (0, rest)))
    blocks = weights.reshape(len(weights), -1, BLOCK)
    mass = np.cumsum(blocks.sum(axis=2), axis=1, dtype=np.float64)
    total = mass[:, -1]
    point = np.minimum(uniform * total, np.nextafter(total, 0))
    block = (mass <= point[:, None]).sum(axis=1)
    below = np.where(block > 0, mass[rows, block - 1], 0.0)
    inner = blocks[rows, block]
    place = (np.cumsum(inner, axis=1, dtype=np.float64) <= (point - below)[:, None]).sum(axis=1)
    last = BLOCK - 1 - (inner[:, ::-1] > 0).argmax(axis=1)  # rounding must not go beyond it
    return block * BLOCK + np.minimum(place, last)


def _filter(scores: np.ndarray, sampling: Sampling) -> np.ndarray | None:
    """(B, V) bool: the tokens that pass top-p, min-p and top-k (ties at the edge pass together);
    None when no filter is set. ``scores`` are logits whose maximum is 0 in each row."""
    size = scores.shape[1]
    edges = []
    if sampling.min_p > 0:
        edges.append(np.full((len(scores), 1), np.log(sampling.min_p), scores.dtype))
    if 0 < sampling.top_k < size:
        place = size - sampling.top_k
        edges.append(np.partition(scores, place, axis=1)[:, place : place + 1])
    kept = scores >= np.max(edges, axis=0) if edges else None
    if sampling.top_p < 1:
        nucleus = _nucleus(np.exp(scores), sampling.top_p)
        kept = nucleus if kept is None else kept & nucleus
    return kept


def _nucleus(weights: np.ndarray, top_p: float) -> np.ndarray:
    """(B, V) bool: the smallest set of the largest weights that holds ``top_p`` of each row's sum.

    Tokens below (1 - top_p) / V of the sum hold less than 1 - top_p together, so none of them is
    in the set: only the others, mostly a few hundred, are sorted.
    """
    total = weights.sum(axis=1, dtype=np.float64, keepdims=True)
    candidate = weights >= total * ((1 - top_p) / weights.shape[1])
    counts = candidate.sum(axis=1)
    values = weights[candidate]  # row after row
    row = np.repeat(np.arange(len(weights)), counts)
    place = np.arange(len(values)) - np.repeat(np.cumsum(counts) - counts, counts)
    largest = np.zeros((len(weights), counts.max()), weights.dtype)
    largest[row, place] = values
    largest = -np.sort(-largest, axis=1)
    before = np.cumsum(largest, axis=1, dtype=np.float64) - largest
    last = np.clip((before < top_p * total).sum(axis=1) - 1, 0, counts - 1)
    return weights >= np.take_along_axis(largest, last[:, None], axis=1)
