"""Activations that are computed again instead of kept."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import mlx.core as mx
import mlx.nn as nn
from mlx.utils import tree_flatten, tree_unflatten

from minialign import cpu
from minialign.learn import packing
from minialign.learn.prompt_cache import Behind, Recorder


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
