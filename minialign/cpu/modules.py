"""Modules of mlx.nn with native forward and backward passes, swapped in place at load.

Each class here derives from the mlx.nn class it replaces and adds no state: parameter names and
arrays stay as they were, 4-bit weights stay 4-bit, and whoever asks ``isinstance(layer,
nn.QuantizedLinear)``, as mlx-lm's LoRA and fuse do, gets the same answer. On any device but the
CPU, and for types the kernels do not know, each falls back to the class it replaces.
"""

import sys
from types import ModuleType

import mlx.core as mx
import mlx.nn as nn

from minialign.cpu import extension
from minialign.cpu.device import on_cpu
from minialign.cpu.weights import supported, weight_of

_native: ModuleType = extension.load()[0]  # type: ignore[assignment]  # set: see __init__.py


def _usable(module: nn.Module) -> bool:
    """Look in each call: a float32 weight may be cast or replaced after the swap."""
    return on_cpu() and supported(module)


def _product(x: mx.array, module: nn.Module) -> mx.array:
    if x.dtype == mx.float32:
        return _native.linear(x, *weight_of(module))
    return _native.linear(x.astype(mx.float32), *weight_of(module)).astype(x.dtype)


def _forward(module: nn.Module, x: mx.array) -> mx.array:
    y = _product(x, module)
    return y + module["bias"] if "bias" in module else y


class QuantizedLinear(nn.QuantizedLinear):
    """x (..., K) -> (..., N) with a 4- or 8-bit weight that is decoded inside the product."""

    def __call__(self, x: mx.array) -> mx.array:
        return _forward(self, x) if on_cpu() else super().__call__(x)


class Linear(nn.Linear):
    """x (..., K) -> (..., N) with a float32 weight, which may be trained."""

    def __call__(self, x: mx.array) -> mx.array:
        return _forward(self, x) if _usable(self) else super().__call__(x)


class QuantizedEmbedding(nn.QuantizedEmbedding):
    """Rows of a quantized table as float32; ``as_linear`` is the tied output head."""

    def __call__(self, x: mx.array) -> mx.array:
        return _native.gather_rows(x, *weight_of(self)) if on_cpu() else super().__call__(x)

    def as_linear(self, x: mx.array) -> mx.array:
        return _product(x, self) if on_cpu() else super().as_linear(x)


class Embedding(nn.Embedding):
    """A float32 table whose ``as_linear`` is native; looking rows up is MLX's own."""

    def as_linear(self, x: mx.array) -> mx.array:
        return _product(x, self) if _usable(self) else super().as_linear(x)


class RMSNorm(nn.RMSNorm):
    """x / rms(x) * weight over the last dimension."""

    def __call__(self, x: mx.array) -> mx.array:
        if not on_cpu() or x.dtype != mx.float32 or self["weight"].dtype != mx.float32:
            return super().__call__(x)
        return _native.rms_norm(x, self["weight"], self.eps)


def _rotates(x: mx.array) -> bool:
    return on_cpu() and x.dtype == mx.float32 and x.ndim == 4


class RoPE(nn.RoPE):
    """Rotary positions of x (B, H, L, D); ``offset`` an int, or an array with one a row."""

    def __call__(self, x: mx.array, offset: int | mx.array = 0) -> mx.array:
        if not _rotates(x):
            return super().__call__(x, offset)  # type: ignore[arg-type]
        how = {"traditional": self.traditional, "base": self.base, "scale": self.scale}
        return _native.rope(x, self.dims, offset=offset, **how)


def _llama3_rope(stock: type) -> type:
    """Make the native class for mlx-lm's Llama3RoPE, which scales the frequencies."""

    def rotate(self: nn.Module, x: mx.array, offset: int | mx.array = 0) -> mx.array:
        if not _rotates(x):
            return stock.__call__(self, x, offset)
        how = {"traditional": self.traditional, "freqs": self._freqs}
        return _native.rope(x, self.dims, offset=offset, **how)

    return type("Llama3RoPE", (stock,), {"__call__": rotate})


REPLACEMENTS: dict[type, type] = {
    nn.QuantizedLinear: QuantizedLinear,
    nn.QuantizedEmbedding: QuantizedEmbedding,
    nn.Linear: Linear,
    nn.Embedding: Embedding,
    nn.RMSNorm: RMSNorm,
    nn.RoPE: RoPE,
}
WITH_WEIGHT = (QuantizedLinear, QuantizedEmbedding, Linear, Embedding)


def swap(model: nn.Module) -> None:
    """Give every module that the kernels support its native class, in place."""
    rope_file = sys.modules.get("mlx_lm.models.rope_utils")
    if rope_file is not None and rope_file.Llama3RoPE not in REPLACEMENTS:
        REPLACEMENTS[rope_file.Llama3RoPE] = _llama3_rope(rope_file.Llama3RoPE)
    for _, module in model.named_modules():
        native_class = REPLACEMENTS.get(type(module))
        if native_class is None or (native_class in WITH_WEIGHT and not supported(module)):
            continue
        module.__class__ = native_class


def readable_weight(module: object) -> tuple | None:
    """Read the weight of a module that has a native class, or None if the kernels cannot."""
    if type(module) not in WITH_WEIGHT and type(module) not in (nn.Linear, nn.Embedding):
        return None
    return weight_of(module) if supported(module) else None  # type: ignore[arg-type]


def head_weight(head: object) -> tuple | None:
    """Read the weight of an output head, or None: a linear layer without bias, or the bound
    ``as_linear`` of an embedding.
    """
    module = getattr(head, "__self__", head)
    if isinstance(module, nn.Module) and "bias" in module:
        return None
    return readable_weight(module)
