"""The one training loop. Every method's loss goes through ``fit``; nobody copies it.

``fit`` is a generator of steps: the command line prints them, a run logs them, a test collects
them, and closing it stops the training. Evaluation, checkpoints and progress live with its callers.
"""

import itertools
import math
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import mlx.optimizers as optim
from mlx.utils import tree_map, tree_unflatten

from minialign import cpu
from minialign.errors import UserError
from minialign.learn.batch import Batch
from minialign.learn.checkpointing import checkpointed
from minialign.learn.forward import packed
from minialign.learn.policy import Policy
from minialign.models.adapter import load_arrays, named_arrays, save_weights

JOINED = 1 << 18  # numbers in one vector of the optimizer: more would be more memory at its peak

# (policy, batch) -> (sum of the loss over the batch's units, sums of metrics over the same units)
Loss = Callable[[Policy, Batch], tuple[mx.array, dict[str, mx.array]]]


@dataclass(frozen=True)
class Step:
    """One update: means over its units (trained tokens, or pairs), and what it cost."""

    step: int  # counts from 1
    loss: float
    metrics: dict[str, float]
    tokens: int  # tokens read by the forward pass, padding left out
    padding: float  # the share of what was computed that was padding
    grad_norm: float  # before clipping
    learning_rate: float
    seconds: float


class Diverged(Exception):
    """The loss or a gradient is NaN or infinite at a step. The weights are the last that are known
    to be good: those after step ``good``, whose loss was finite."""

    def __init__(self, step: int, what: str, good: int):
        super().__init__(f"{what} is not finite at step {step}")
        self.step, self.good = step, good


def schedule(kind: str, peak: float, warmup: int, total: int) -> Callable[[int], float]:
    """Learning rate of step 1, 2, …: linear warm-up, then "constant", "linear" or "cosine" to 0."""

    def rate(step: int) -> float:
        if step <= warmup:
            return peak * step / max(warmup, 1)
        done = (step - warmup - 1) / max(total - warmup, 1)
        if kind == "linear":
            return peak * max(0.0, 1 - done)
        if kind == "cosine":
            return peak * 0.5 * (1 + math.cos(math.pi * min(1.0, done)))
        return peak

    return rate


def adamw(betas: Sequence[float], weight_decay: float) -> optim.AdamW:
    """AdamW with bias correction (Loshchilov & Hutter 2019, arXiv:1711.05101)."""
    return optim.AdamW(
        learning_rate=0.0, betas=list(betas), weight_decay=weight_decay, bias_correction=True
    )


def _groups(tree: Any) -> dict[str, list[tuple[str, mx.array]]]:
    """(name, array) of every array of a tree in the order of their names, in groups of one type."""
    groups: dict[str, list[tuple[str, mx.array]]] = {}
    sizes: dict[str, int] = {}
    for name, value in sorted(named_arrays(tree).items()):
        kind = str(value.dtype).rpartition(".")[2]
        sizes[kind] = sizes.get(kind, 0) + value.size
        groups.setdefault(f"{kind}-{sizes[kind] // JOINED}", []).append((name, value))
    return groups


def joined(tree: Any) -> dict[str, mx.array]:
    """The arrays of a tree of parameters or gradients put together to a few long vectors, which is
    what the optimizer works on: its dozen operations on hundreds of small arrays, one after the
    other, take longer than the numbers in them."""
    return {
        group: mx.concatenate([value.reshape(-1) for _, value in arrays])
        for group, arrays in _groups(tree).items()
    }


def _parted(vectors: dict[str, mx.array], like: Any) -> Any:
    """What ``joined`` put together taken apart again: a tree with ``like``'s names and shapes."""
    named = []
    for group, arrays in _groups(like).items():
        ends = list(itertools.accumulate(value.size for _, value in arrays))
        parts = mx.split(vectors[group], ends[:-1])
        named += [
            (name, part.reshape(value.shape))
            for (name, value), part in zip(arrays, parts, strict=True)
        ]
    return tree_unflatten(named)


@dataclass(frozen=True)
class Updates:
    """Which updates ``fit`` makes, and how.

    Attributes:
        rate: learning rate by step (1, 2, …).
        weight: how many units (trained tokens, pairs) a batch's loss is a sum of.
        clip: largest global norm of the gradient; 0 clips nothing.
        first, last: the numbers of the first and last step; a resumed run does not start at 1.
        seed: of dropout.
    """

    rate: Callable[[int], float]
    weight: Callable[[Batch], float]
    clip: float = 1.0
    first: int = 1
    last: int | None = None
    seed: int = 0

    def numbers(self) -> Iterable[int]:
        """The numbers of the steps."""
        return (
            itertools.count(self.first) if self.last is None else range(self.first, self.last + 1)
        )


def fit(
    policy: Policy,
    loss: Loss,
    batches: Iterator[list[Batch]],
    optimizer: optim.Optimizer,
    updates: Updates,
) -> Iterator[Step]:
    """Train ``policy.trainable`` in place and yield a ``Step`` after each update.

    Args:
        optimizer: of vectors as ``joined`` makes them.
        batches: lists of micro-batches; each list is one update. Sums are divided by the total
            weight of the list, so accumulation equals one large batch exactly.

    Raises:
        Diverged: when the loss or the gradient is not finite. The weights are then untouched, or
            those before the last update when it was this update that broke them.
    """
    value_and_grad = nn.value_and_grad(policy.trainable, lambda batch: loss(policy, batch))
    kept: list[Any] = []  # the weights before the last update, until it is known to be good
    with cpu.training_memory(lean=checkpointed(policy.module)) as tidy:
        for step in updates.numbers():
            policy.trainable.train()
            micro = next(batches)
            start, counts = time.perf_counter(), replace(policy.counts)
            # Dropout depends on the step alone: a resumed run draws what the first would have.
            mx.random.seed((updates.seed * 1_000_003 + step) % 2**63)
            units = sum(map(updates.weight, micro))
            sums, gradient = _summed_gradient(policy, value_and_grad, micro, kept, tidy)
            mean, norm = _clipped(joined(gradient), units, updates.clip)
            del gradient
            _check_finite(policy, sums["loss"], norm, step, kept)
            optimizer.learning_rate = rate = updates.rate(step)
            kept.append(_update(policy, optimizer, mean))
            del mean  # not needed while the next step runs
            tidy()
            means = {name: value / units for name, value in sums.items()}
            yield Step(
                step=step,
                loss=means.pop("loss"),
                metrics=means,
                tokens=sum(example.tokens for batch in micro for example in batch.examples),
                padding=policy.counts.padding(since=counts),
                grad_norm=norm,
                learning_rate=rate,
                seconds=time.perf_counter() - start,
            )


def _summed_gradient(
    policy: Policy,
    value_and_grad: Callable[[Batch], Any],
    micro: list[Batch],
    kept: list[Any],
    tidy: Callable[[], None],
) -> tuple[dict[str, float], Any]:
    """(sums of the loss, "loss", and of its metrics; the sum of the gradients) of one update."""
    sums: dict[str, float] = {}
    gradient = None
    for number, batch in enumerate(micro, 1):
        packed(policy, batch)  # tried here: the gradient would keep all that the trial makes
        (value, parts), grads = value_and_grad(batch)
        _add(sums, value, parts)
        if number == len(micro) and math.isfinite(sums["loss"]):
            kept.clear()  # the last update was good; not needed while gradients are computed
        tidy()
        mx.eval(grads)  # one graph a micro-batch: memory is that of one
        gradient = grads if gradient is None else tree_map(mx.add, gradient, grads)
        mx.eval(gradient)  # the summands go
    return sums, gradient


def _add(sums: dict[str, float], loss: mx.array, metrics: dict[str, mx.array]) -> None:
    """Add a batch to the sums; the loss is "loss", whatever a metric is named."""
    mx.eval(loss, metrics)
    for name, part in {**metrics, "loss": loss}.items():
        sums[name] = sums.get(name, 0.0) + float(part)


def _clipped(
    gradient: dict[str, mx.array], units: float, most: float
) -> tuple[dict[str, mx.array], float]:
    """(the mean gradient of a sum over ``units``, cut to norm ``most``; its norm before)."""
    gradient = tree_map(lambda g: g / units, gradient)
    squares = [mx.square(value).sum() for value in gradient.values()]
    norm = float(mx.sqrt(mx.stack(squares).sum()))
    if most and norm > most:
        gradient = tree_map(lambda g: g * (most / norm), gradient)
    return gradient, norm


def _check_finite(policy: Policy, loss: float, norm: float, step: int, kept: list[Any]) -> None:
    """Raise ``Diverged`` unless loss and gradient are finite, with the last good weights."""
    if not math.isfinite(loss) and kept:
        policy.trainable.update(kept[0])
        raise Diverged(step, "the loss", good=step - 2)
    if not math.isfinite(loss) or not math.isfinite(norm):
        what = "the gradient" if math.isfinite(loss) else "the loss"
        raise Diverged(step, what, good=step - 1)


def _update(policy: Policy, optimizer: optim.Optimizer, gradient: dict[str, mx.array]) -> Any:
    """Make one update of the weights in place; returns those before it."""
    before = policy.trainable.trainable_parameters()
    weights = optimizer.apply_gradients(gradient, joined(before))
    for group, vector in weights.items():  # one after the other takes less memory
        mx.eval(vector, optimizer.state[group])
    policy.trainable.update(_parted(weights, before))
    mx.eval(policy.trainable.trainable_parameters(), optimizer.state)
    return before


def evaluate(
    policy: Policy, loss: Loss, batches: Iterable[Batch], weight: Callable[[Batch], float]
) -> Iterator[tuple[int, dict[str, float]]]:
    """Means of the loss ("loss") and its metrics, without dropout or gradient.

    Yields (examples so far, means so far) after each batch; the last is the result.
    """
    units, done = 0.0, 0
    sums: dict[str, float] = {}
    with policy.reading():
        for batch in batches:
            value, parts = loss(policy, batch)
            units += weight(batch)
            done += batch.size
            _add(sums, value, parts)
            yield done, {name: total / units for name, total in sums.items()}


def save_state(folder: Path, policy: Policy, optimizer: optim.Optimizer) -> None:
    """Write what resuming needs: trained weights and the optimizer's state, exactly."""
    weights = named_arrays(policy.trainable.trainable_parameters())
    save_weights(folder / "trainable.safetensors", weights)
    save_weights(folder / "optimizer.safetensors", named_arrays(optimizer.state))


def load_state(folder: Path, policy: Policy, optimizer: optim.Optimizer) -> None:
    """Put back what ``save_state`` wrote.

    Raises:
        UserError: when a file is missing or of another model.
    """
    weights = load_arrays(folder / "trainable.safetensors")
    state = load_arrays(folder / "optimizer.safetensors")
    expected = named_arrays(policy.trainable.trainable_parameters())
    if {k: v.shape for k, v in expected.items()} != {k: v.shape for k, v in weights.items()}:
        raise UserError(f"the checkpoint {folder} is of another model or other LoRA settings")
    policy.trainable.update(tree_unflatten(list(weights.items())))
    optimizer.init(joined(policy.trainable.trainable_parameters()))
    if named_arrays(optimizer.state).keys() != state.keys():
        fix = "finish that run with the version that began it, or start a new one"
        raise UserError(f"the checkpoint {folder} was written by an older minialign", fix)
    optimizer.state = tree_unflatten(list(state.items()))
    mx.eval(policy.trainable.trainable_parameters(), optimizer.state)
