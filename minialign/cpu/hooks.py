"""Puts the native attention and SwiGLU behind the names that mlx-lm's model files call.

Those files import ``scaled_dot_product_attention`` and ``swiglu`` by name, so the names are
replaced in the module that defines the prepared model's classes, and nowhere else. What is put
there decides at each call: the kernel on the CPU device for inputs it knows, else the function
that stood there before.
"""

import functools
import sys
from collections.abc import Callable
from types import ModuleType
from typing import Any

import mlx.core as mx
import mlx.nn as nn

from minialign.cpu import extension
from minialign.cpu.device import on_cpu

_native: ModuleType = extension.load()[0]  # type: ignore[assignment]  # set: see __init__.py


def _float32_on_cpu(*arrays: Any) -> bool:
    return on_cpu() and all(
        isinstance(array, mx.array) and array.dtype == mx.float32 for array in arrays
    )


def _attention(stock: Callable) -> Callable:
    @functools.wraps(stock)
    def scaled_dot_product_attention(
        queries: mx.array,
        keys: mx.array,
        values: mx.array,
        cache: Any,
        scale: float,
        mask: mx.array | str | None,
        sinks: mx.array | None = None,
    ) -> mx.array:
        packed = getattr(cache, "packed", False)  # (T, H, 1, D): tokens of one row, see packing.py
        if packed:
            queries, keys, values = (x.transpose(2, 1, 0, 3) for x in (queries, keys, values))
        supported = (
            _float32_on_cpu(queries, keys, values)
            and sinks is None
            and not hasattr(cache, "bits")  # a quantized cache
            and queries.ndim == keys.ndim == values.ndim == 4
            and keys.shape == values.shape
            and (isinstance(mask, mx.array) or mask in (None, "causal"))
        )
        if not supported:
            output = stock(queries, keys, values, cache=cache, scale=scale, mask=mask, sinks=sinks)
        elif isinstance(mask, mx.array):
            if mask.dtype not in (mx.bool_, mx.float32):
                mask = mask.astype(mx.float32)
            output = _native.attention(queries, keys, values, scale=scale, mask=mask)
        else:
            output = _native.attention(queries, keys, values, scale=scale, causal=mask == "causal")
        return output.transpose(2, 1, 0, 3) if packed else output

    return scaled_dot_product_attention


def _swiglu(stock: Callable) -> Callable:
    @functools.wraps(stock)
    def swiglu(gate: mx.array, x: mx.array) -> mx.array:
        if _float32_on_cpu(gate, x) and gate.shape == x.shape:
            return _native.swiglu(gate, x)
        return stock(gate, x)

    return swiglu


# Where mlx-lm defines a function, and what to put in its place.
HOOKS: dict[tuple[str, str], Callable[[Callable], Callable]] = {
    ("mlx_lm.models.base", "scaled_dot_product_attention"): _attention,
    ("mlx_lm.models.activations", "swiglu"): _swiglu,
}


def install(model: nn.Module) -> None:
    """Replace the hooked names in the files that define the model's classes (idempotent)."""
    files = {type(module).__module__ for _, module in model.named_modules()}
    for (home, name), native in HOOKS.items():
        stock = getattr(sys.modules.get(home), name, None)
        if stock is None:
            continue
        for file in map(sys.modules.get, files):
            if file is not None and getattr(file, name, None) is stock:
                setattr(file, name, native(stock))  # type: ignore[arg-type]
