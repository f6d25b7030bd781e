"""mlx-lm's LoRALinear with its three products fused into one native operation.

Imports mlx-lm's tuner, so it is imported only when an adapter is attached.
"""

import mlx.core as mx
import mlx.nn as nn
from mlx_lm.tuner import lora as mlx_lm_lora

from minialign.cpu import extension, modules

_native = extension.load()[0]


class LoRALinear(mlx_lm_lora.LoRALinear):
    """x -> linear(x) + scale * (x @ lora_a) @ lora_b; parameters exactly as mlx-lm's."""

    @staticmethod
    def from_base(
        linear: nn.Module, r: int = 8, dropout: float = 0.0, scale: float = 20.0
    ) -> "LoRALinear":
        """mlx-lm's layer around ``linear``, with this class's forward pass."""
        layer = mlx_lm_lora.LoRALinear.from_base(
            linear,  # type: ignore[arg-type]
            r=r,
            dropout=dropout,
            scale=scale,
        )
        layer.__class__ = LoRALinear
        return layer

    def _fuses(self, x: mx.array) -> bool:
        """Whether the native operation computes exactly what the stock layer would."""
        # No gradient for the base weight in this operation: where it is trained, the stock way.
        trains = bool(self.linear.trainable_parameters())
        drops = self.dropout.training and self.dropout._p_1 < 1
        return (
            mx.default_device().type == mx.DeviceType.cpu
            and type(self.linear) in (modules.QuantizedLinear, modules.Linear)
            and modules.supported(self.linear)
            and not drops
            and not trains
            and x.dtype == self.lora_a.dtype == self.lora_b.dtype == mx.float32
        )

    def __call__(self, x: mx.array) -> mx.array:
        if not self._fuses(x):
            return super().__call__(x)
        weight = modules.weight_of(self.linear)
        y = _native.lora_linear(x, self.lora_a, self.lora_b, self.scale, *weight)  # type: ignore[union-attr]
        return y + self.linear["bias"] if "bias" in self.linear else y
