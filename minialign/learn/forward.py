"""Hidden states and log-probs of k responses behind one prompt, the prompt computed once.

The prompt's keys and values are recorded in one forward pass, and the responses run behind them in
a second, with positions that go on from the prompt's length. Both passes are ordinary arrays of one
graph, so gradients flow through the shared prompt: the sum over its responses, as if each had been
computed alone. Where prompts are too short to pay, each response runs with its own copy. With the
native attention both passes are one without any padding: see ``packing``.

mlx-lm's model classes are used as they are; this is written against their cache protocol
(``offset``, ``update_and_fetch``, ``make_mask``).
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import mlx.core as mx
import mlx.nn as nn
from mlx.utils import tree_flatten, tree_unflatten

from minialign import cpu
from minialign.learn import packing
from minialign.learn.batch import Batch, Example, collate
from minialign.learn.selected_logps import selected_logps

# Sharing pays when it leaves out at least this share of the tokens.
WORTH = 0.12


class Recorder:
    """A cache that starts empty and keeps the keys and values of one pass: (B, H, P, D) each."""

    offset = 0

    def __init__(self) -> None:
        self.keys: mx.array | None = None
        self.values: mx.array | None = None

    def update_and_fetch(self, keys: mx.array, values: mx.array) -> tuple[mx.array, mx.array]:
        self.keys, self.values = keys, values
        return keys, values

    def make_mask(
        self, length: int, return_array: bool = False, window_size: int | None = None
    ) -> Any:
        if not return_array and (window_size is None or length <= window_size):
            return "causal"
        rows, columns = mx.arange(length)[:, None], mx.arange(length)[None]
        mask = columns <= rows
        return mask if window_size is None else mask & (rows < columns + window_size)

    def parts(self) -> tuple[mx.array, ...]:
        """The arrays that a checkpointed layer must be given."""
        return ()


class Behind:
    """A cache that holds each row's prompt (right-padded) and is read by one more pass.

    Args:
        keys, values: (N, H, P, D), already one row a response.
        lengths: (N,) tokens of each row's prompt; what lies behind them is padding.
    """

    def __init__(self, keys: mx.array, values: mx.array, lengths: mx.array):
        self.prefix = (keys, values)
        self.offset = lengths

    def update_and_fetch(self, keys: mx.array, values: mx.array) -> tuple[mx.array, mx.array]:
        return (
            mx.concatenate([self.prefix[0], keys], axis=2),
            mx.concatenate([self.prefix[1], values], axis=2),
        )

    def make_mask(
        self, length: int, return_array: bool = False, window_size: int | None = None
    ) -> mx.array:
        """(N, 1, R, P + R), true where a response's token may look."""
        width = self.prefix[0].shape[2]
        lengths = self.offset[:, None, None]
        rows = mx.arange(length)[None, :, None]
        own = mx.broadcast_to(
            mx.arange(length)[None, None] <= rows, (lengths.shape[0], length, length)
        )
        columns = mx.arange(width)[None, None]
        prompt = mx.broadcast_to(columns < lengths, (lengths.shape[0], length, width))
        if window_size is not None:
            prompt = prompt & (lengths + rows < columns + window_size)
            own = own & (rows < mx.arange(length)[None, None] + window_size)
        return mx.concatenate([prompt, own], axis=-1)[:, None]

    def parts(self) -> tuple[mx.array, ...]:
        return self.prefix


@dataclass
class Policy:
    """A model as training and scoring see it.

    ``trainable`` is the tree that gradients are taken of: the module with its adapter, or a
    container of it and a head.
    """

    module: nn.Module
    backbone: Any  # (inputs, cache=) -> hidden states (B, T, D)
    head: Any  # hidden (N, D) -> logits (N, V)
    trainable: nn.Module
    reward: Any = None  # hidden (N, D) -> reward (N,), for methods with a reward head
    share_prompts: bool = True
    gradient: bool = True  # whether a backward pass follows
    packs: bool | None = None  # whether the model reads packed rows; None: not tried yet
    shared: int = field(default=0)  # batches that shared their prompts, for the report
    separate: int = field(default=0)
    computed: int = field(default=0)  # tokens that went through the model, padding included
    needed: int = field(default=0)  # the same without padding

    @property
    def layers(self) -> int:
        """How many blocks, and so how many caches."""
        return len(self.module.layers)


def plain_cache(module: nn.Module) -> bool:
    """Whether every layer's cache is of plain keys and values, which sharing needs."""
    if not hasattr(module, "make_cache"):
        return True
    kinds = {type(cache).__name__ for cache in module.make_cache()}
    return kinds <= {"KVCache", "RotatingKVCache"}


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
    return -(-max(example.length for example in batch.examples) // 16) * 16


def _separate_hidden(policy: Policy, batch: Batch) -> tuple[mx.array, mx.array]:
    rows, width = batch.responses.shape
    owners = [i for i, example in enumerate(batch.examples) for _ in example.responses]
    joined = [
        batch.examples[owner].prompt + response
        for owner, response in zip(
            owners, (r for example in batch.examples for r in example.responses), strict=True
        )
    ]
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
    policy.shared += share
    policy.separate += not share
    needed = packing.unpadded(batch, share)
    policy.needed += needed
    if packs:
        policy.computed += needed
        return packing.hidden(policy.backbone, policy.layers, batch, share)
    if share:
        policy.computed += batch.prompts.size + batch.responses.size
        return _shared_hidden(policy, batch)
    policy.computed += batch.responses.shape[0] * _joined_width(batch)
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


def token_logps(policy: Policy, batch: Batch) -> tuple[mx.array, mx.array]:
    """(log-probs of the trained tokens (M,), which response each is of (M,)), float32."""
    predicting, _ = response_hidden(policy, batch)
    width = batch.responses.shape[1]
    flat = [
        row * width + column
        for row, mask in enumerate(m for example in batch.examples for m in example.masks)
        for column, trained in enumerate(mask)
        if trained
    ]
    where = mx.array(flat)
    logps = selected_logps(
        predicting.reshape(-1, predicting.shape[-1])[where],
        policy.head,
        batch.responses.reshape(-1)[where],
        gradient=policy.gradient,
    )
    return logps, where // width


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


def checkpointed(module: nn.Module) -> bool:
    """Whether its blocks are recomputed in the backward pass."""
    return type(module.layers[0]).__name__.startswith("Checkpointed")


def checkpoint_layers(module: nn.Module) -> None:
    """Recompute each block in the backward pass instead of keeping its activations, in place.

    A block's recorded keys and values are outputs of the recomputed function and its prefix an
    input, so gradients flow through a shared prompt too.
    """
    cpu.return_memory()
    for layer in module.layers:
        kind = type(layer)
        if not kind.__name__.startswith("Checkpointed"):
            layer.__class__ = type(
                f"Checkpointed{kind.__name__}", (kind,), {"__call__": _checkpointed(kind)}
            )


def _drops(layer: nn.Module) -> bool:
    return layer.training and any(
        isinstance(module, nn.Dropout) and module._p_1 < 1 for module in layer.modules()
    )


def _draw() -> int:
    number: Any = mx.random.randint(0, 2**31 - 1).item()
    return number


@contextmanager
def _drawing(seed: int | None) -> Iterator[None]:
    """Random numbers of this seed inside; outside they go on with others, whatever was drawn."""
    if seed is None:
        yield
        return
    after = _draw()
    mx.random.seed(seed)
    yield
    mx.random.seed(after)


def _checkpointed(kind: type) -> Any:
    def call(layer: nn.Module, x: mx.array, mask: Any = None, cache: Any = None) -> mx.array:
        def block(parameters: dict, x: mx.array, *parts: mx.array) -> tuple[mx.array, ...]:
            inner: Any = cache
            if isinstance(cache, Behind):
                inner = Behind(parts[0], parts[1], cache.offset)
            elif isinstance(cache, Recorder):
                inner = Recorder()
            before = layer.trainable_parameters()
            layer.update(parameters)
            with _drawing(seed):
                out = kind.__call__(layer, x, mask, inner)
            layer.update(before)
            recorded = (inner.keys, inner.values) if isinstance(inner, Recorder) else ()
            return (out, *recorded)

        if cache is not None and not isinstance(cache, Recorder | Behind | packing.Row):
            return kind.__call__(layer, x, mask, cache)
        parts = cache.parts() if isinstance(cache, Recorder | Behind) else ()
        seed = _draw() if _drops(layer) else None  # dropout is the same when it runs again
        result = recomputed(block)(layer.trainable_parameters(), x, *parts)
        if isinstance(cache, Recorder):
            cache.keys, cache.values = result[1:]
        return result[0]

    return call


def recomputed(function: Any) -> Any:
    """``function`` of two or more trees, its gradient computed from them alone, as
    ``mx.checkpoint`` does.

    MLX's own computes a block anew as soon as its outputs are there, which may be long before the
    gradient by them is; here the one waits for the other, so that one block is held at a time.
    """
    outer = mx.custom_function(function)

    @outer.vjp
    def backward(primals: Any, cotangents: Any, outputs: Any) -> Any:
        names, values = zip(*tree_flatten(primals), strict=True)

        def flat(*values: mx.array) -> list[mx.array]:
            tree: Any = tree_unflatten(list(zip(names, values, strict=True)))
            return list(function(*tree))

        later = mx.depends(list(values), list(cotangents))
        _, gradients = mx.vjp(flat, later, list(cotangents))
        return tree_unflatten(list(zip(names, gradients, strict=True)))

    return outer
