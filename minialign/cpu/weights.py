"""Weights as the kernels take them: which of them they can read, and their parts in order."""

import mlx.core as mx
import mlx.nn as nn


def supported(module: nn.Module) -> bool:
    """Whether the kernels can read a linear layer's or an embedding's weight as it is stored."""
    if not isinstance(module, nn.QuantizedLinear | nn.QuantizedEmbedding):
        return module.weight.dtype == mx.float32 and module.weight.ndim == 2
    return (
        getattr(module, "mode", "affine") == "affine"
        and module.bits in (4, 8)
        and module.group_size in (32, 64, 128)
        and module.weight.ndim == 2
        and "biases" in module
        and module.scales.dtype in (mx.float32, mx.float16, mx.bfloat16)
    )


def weight_of(module: nn.Module) -> tuple:
    """Return the weight as the kernels take it: words, scales, biases, group size, bits."""
    if "scales" not in module:
        return (module["weight"], None, None, 0, 32)
    arrays = (module["weight"], module["scales"], module["biases"])
    return (*arrays, module.group_size, module.bits)
