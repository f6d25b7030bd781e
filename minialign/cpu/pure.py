"""The CPU path without native kernels: float32 weights, so that every matmul is a BLAS call.

MLX's own ``quantized_matmul`` is scalar on the CPU and half precision is emulated there (some
hundred times slower than a float32 BLAS call), so the weights are dequantized once, at load.
"""

from collections.abc import Callable
from typing import Any

import mlx.core as mx
import mlx.nn as nn
from mlx.utils import tree_map_with_path, tree_unflatten

QUANTIZED = (nn.QuantizedLinear, nn.QuantizedEmbedding)


def _dequantize(module: nn.QuantizedLinear | nn.QuantizedEmbedding) -> nn.Module:
    """Make the layer with float32 weights that a quantized one stands for."""
    scales = module.scales.astype(mx.float32)
    biases = module.get("biases", mx.zeros_like(module.scales)).astype(mx.float32)
    how: dict[str, Any] = {name: getattr(module, name) for name in ("group_size", "bits", "mode")}
    weight = mx.dequantize(module.weight, scales, biases, **how)
    plain: nn.Module
    if isinstance(module, nn.QuantizedEmbedding):
        plain = nn.Embedding(1, 1)
    else:
        plain = nn.Linear(1, 1, bias="bias" in module)
        if "bias" in module:
            plain.bias = module.bias
    plain.weight = weight
    return plain


def prepare(
    model: nn.Module, readable: Callable[[nn.Module], bool] = lambda module: False
) -> nn.Module:
    """Dequantize every affine quantized layer that is not ``readable`` as it is, and cast all
    floating weights to float32, but for the scales of layers that stay quantized."""
    replaced, kept = [], set()
    for name, module in model.named_modules():
        if not isinstance(module, QUANTIZED):
            continue
        if getattr(module, "mode", "affine") == "affine" and not readable(module):
            replaced.append((name, _dequantize(module)))
        else:
            kept |= {f"{name}.scales", f"{name}.biases"}
    if replaced:
        model.update_modules(tree_unflatten(replaced))

    def to_float32(path: str, value: mx.array) -> mx.array:
        floating = mx.issubdtype(value.dtype, mx.floating) and path not in kept
        return value.astype(mx.float32) if floating else value

    model.update(tree_map_with_path(to_float32, model.parameters()))
    mx.eval(model.parameters())
    return model
