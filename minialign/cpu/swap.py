"""Makes a loaded model run on the native kernels: swaps modules, hooks the model file's functions.

Imported only when the extension is loaded.
"""

import mlx.core as mx
import mlx.nn as nn
from mlx.utils import tree_unflatten

from minialign.cpu import hooks, modules, pure
from minialign.cpu.weights import supported

QUANTIZED = (nn.QuantizedLinear, nn.QuantizedEmbedding)


def prepare(model: nn.Module) -> nn.Module:
    """Use native classes where the kernels apply, the pure path's float32 weights elsewhere."""
    unreadable = [
        (name, pure.dequantize(module))
        for name, module in model.named_modules()
        if isinstance(module, QUANTIZED)
        and not supported(module)
        and getattr(module, "mode", "affine") == "affine"
    ]
    if unreadable:
        model.update_modules(tree_unflatten(unreadable))
    for _, module in model.named_modules():
        kept = ("scales", "biases") if isinstance(module, QUANTIZED) else ()
        for name, value in module.items():
            if not isinstance(value, mx.array) or name in kept or name.startswith("_"):
                continue
            if mx.issubdtype(value.dtype, mx.floating):
                module[name] = value.astype(mx.float32)
    modules.swap(model)
    hooks.install(model)
    mx.eval(model.parameters())
    return model
