"""Hidden states and log-probs of k responses behind one prompt, the prompt computed once.

The prompt's keys and values are recorded in one forward pass, and the responses run behind them in
a second, with positions that go on from the prompt's length. Both passes are ordinary arrays of one
graph, so gradients flow through the shared prompt: the sum over its responses, as if each had been
computed alone. Where prompts are too short to pay, each response runs with its own copy. With the
native attention both passes are one without any padding: see ``packing``.

mlx-lm's model classes are used as they are; this is written against their cache protocol
(``offset``, ``update_and_fetch``, ``make_mask``).
"""

import mlx.core as mx
import numpy as np

from minialign import cpu
from minialign.learn import packing
from minialign.learn.batch import Batch, Example, collate, round_up
from minialign.learn.policy import Policy, plain_cache
from minialign.learn.prompt_cache import Behind, Recorder
from minialign.learn.selected_logps import selected_logps

# Sharing pays when it leaves out at least this share of the tokens.
WORTH = 0.12


def sharing_saves(batch: Batch) -> float:
    """The share of tokens that computing each prompt once leaves out, 0 to 1."""
    rows, width = batch.responses.shape
    longest = max(example.length for example in batch.examples)
    together = batch.prompts.size + rows * width
    return 1 - together / (rows * max(longest, 1))


def _shared_hidden(policy: Policy, batch: Batch) -> tuple[mx.array, mx.array]:
    recorders = [Recorder() for _ in range(policy.layers)]
    prompt = policy.backbone(batch.prompts, cache=recorders)
    owners, lengths = batch.prompt_of, batch.prompt_lengths[batch.prompt_of]
    caches = [
        Behind(recorder.keys[owners], recorder.values[owners], lengths)  # type: ignore[index]
        for recorder in recorders
    ]
    hidden = policy.backbone(batch.responses, cache=caches)
    # The state that predicts a response's first token is its prompt's last.
    first = prompt[owners, lengths - 1][:, None]
    return mx.concatenate([first, hidden[:, :-1]], axis=1), hidden


def _joined_width(batch: Batch) -> int:
    return round_up(max(example.length for example in batch.examples), 16)


def _separate_hidden(policy: Policy, batch: Batch) -> tuple[mx.array, mx.array]:
    rows, width = batch.responses.shape
    joined = [one.prompt + response for one in batch.examples for response in one.responses]
    longest = _joined_width(batch)
    inputs = mx.array([ids + [0] * (longest - len(ids)) for ids in joined])
    hidden = policy.backbone(inputs)
    lengths = batch.prompt_lengths[batch.prompt_of][:, None]
    at = mx.minimum(lengths + mx.arange(width)[None], longest - 1)
    rows_index = mx.arange(rows)[:, None]
    return hidden[rows_index, at - 1], hidden[rows_index, at]


def response_hidden(policy: Policy, batch: Batch) -> tuple[mx.array, mx.array]:
    """Hidden states of the responses, (N, R, D) twice: those that predict each token, and those at
    each token. What lies on padding is arbitrary."""
    packs = packed(policy, batch)
    saves = _unpadded_saves(batch) if packs else sharing_saves(batch)
    share = policy.share_prompts and saves >= WORTH
    counts, needed = policy.counts, packing.unpadded(batch, share)
    counts.shared += share
    counts.separate += not share
    counts.needed += needed
    if packs:
        counts.computed += needed
        return packing.hidden(policy.backbone, policy.layers, batch, share)
    if share:
        counts.computed += batch.prompts.size + batch.responses.size
        return _shared_hidden(policy, batch)
    counts.computed += batch.responses.shape[0] * _joined_width(batch)
    return _separate_hidden(policy, batch)


def _unpadded_saves(batch: Batch) -> float:
    return 1 - packing.unpadded(batch, True) / max(packing.unpadded(batch, False), 1)


def packed(policy: Policy, batch: Batch) -> bool:
    """Whether this batch goes through the model as one row without padding."""
    if packing.unpadded(batch, False) > packing.MOST or not cpu.native():
        return False
    if policy.packs is None:
        policy.packs = plain_cache(policy.module) and _packing_agrees(policy)
    return policy.packs


def _packing_agrees(policy: Policy) -> bool:
    """Whether a packed row gives what separate ones give, tried on a few tokens."""
    one, two = [5, 6, 7, 8], [9, 10, 11]
    batch = collate(
        [Example(one, [two, one], [[1] * 3, [1] * 4]), Example(two, [one[:2]], [[1] * 2])]
    )
    training = policy.module.training
    policy.module.eval()
    try:
        expected, _ = _separate_hidden(policy, batch)
        found, _ = packing.hidden(policy.backbone, policy.layers, batch, True)
    except (TypeError, ValueError, AttributeError, IndexError, RuntimeError):
        return False
    finally:
        policy.module.train(training)
    real = batch.mask[..., None]
    apart = mx.abs((expected - found) * real).max()
    return bool(apart <= 1e-3 * mx.abs(expected * real).max())


def trained_states(policy: Policy, batch: Batch) -> tuple[mx.array, mx.array, mx.array]:
    """(hidden states that predict the trained tokens (M, D), these tokens (M,), which response each
    is of (M,))."""
    predicting, _ = response_hidden(policy, batch)
    where = mx.array(np.flatnonzero(np.array(batch.mask)).astype(np.int32))
    states = predicting.reshape(-1, predicting.shape[-1])[where]
    return states, batch.responses.reshape(-1)[where], where // batch.responses.shape[1]


def token_logps(policy: Policy, batch: Batch) -> tuple[mx.array, mx.array]:
    """(log-probs of the trained tokens (M,), which response each is of (M,)), float32."""
    states, tokens, owners = trained_states(policy, batch)
    return selected_logps(states, policy.head, tokens, gradient=policy.gradient), owners


def response_logps(policy: Policy, batch: Batch) -> tuple[mx.array, mx.array]:
    """(sum of log-probs of each response's trained tokens (N,), their number (N,)), float32."""
    logps, owners = token_logps(policy, batch)
    sums = mx.zeros((batch.responses.shape[0],)).at[owners].add(logps)
    return sums, batch.mask.sum(axis=1)


def last_hidden(policy: Policy, batch: Batch) -> mx.array:
    """The hidden state at each response's last token, (N, D)."""
    _, hidden = response_hidden(policy, batch)
    lengths = [len(response) for example in batch.examples for response in example.responses]
    return hidden[mx.arange(len(lengths)), mx.array(lengths) - 1]
