"""Makes a loaded model run on the native kernels: swaps modules, hooks the model file's functions.

Imported only when the extension is loaded.
"""

import mlx.nn as nn

from minialign.cpu import hooks, modules, pure
from minialign.cpu.weights import supported


def prepare(model: nn.Module) -> nn.Module:
    """Use native classes where the kernels apply, the pure path's float32 weights elsewhere."""
    pure.prepare(model, supported)
    modules.swap(model)
    hooks.install(model)
    return model
