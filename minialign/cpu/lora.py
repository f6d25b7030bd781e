"""mlx-lm's LoRALinear with its three products fused into one native operation.

Imports mlx-lm's tuner, so it is imported only when an adapter is attached.
"""

import weakref
from collections.abc import Iterable

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
        layer._siblings = Siblings()
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

    def _layer(self) -> tuple:
        """The layer as the native operation takes it."""
        return (self.lora_a, self.lora_b, self.scale, *modules.weight_of(self.linear))

    def __call__(self, x: mx.array) -> mx.array:
        if not self._fuses(x):
            return super().__call__(x)
        y = self._siblings.product(self, x)
        return y + self.linear["bias"] if "bias" in self.linear else y


class Siblings:
    """Layers that are called with the same input one after the other (q, k and v; gate and up).

    What they have in common is done once: the first of them that is called makes the products of
    all in one operation, and the others find theirs. Whoever is called with another input, or has
    got other weights since, makes its own.
    """

    def __init__(self, layers: Iterable[LoRALinear] = ()) -> None:
        self._layers = [weakref.ref(layer) for layer in layers]  # they have this: no cycle
        self._input: mx.array | None = None
        self._ready: dict[int, tuple[tuple, mx.array]] = {}  # by the layer's id

    def product(self, layer: LoRALinear, x: mx.array) -> mx.array:
        """x @ w^T + scale * (x @ a) @ b of one of the layers."""
        if self._input is x:
            made_of, y = self._ready.pop(id(layer), ((), x))
            if not self._ready:
                self._input = None
            if list(map(id, made_of)) == list(map(id, layer._layer())):
                return y
        others = [other for ref in self._layers if (other := ref()) is not None]
        taken = [layer]
        if any(other is layer for other in others):  # not so in a copy
            taken += [other for other in others if other is not layer and other._fuses(x)]
        parts = [one._layer() for one in taken]
        y, *rest = _native.lora_linears(x, parts)  # type: ignore[union-attr]
        made = zip(taken[1:], parts[1:], rest, strict=True)
        self._ready = {id(one): (part, product) for one, part, product in made}
        self._input = x if rest else None
        return y


# Names within one module of mlx-lm's files: whoever has them calls them with the same input.
TOGETHER = (("q_proj", "k_proj", "v_proj"), ("gate_proj", "up_proj"))


def bring_together(model: nn.Module) -> None:
    """Make siblings of the adapted layers that read the same input."""
    for _, module in model.named_modules():
        for names in TOGETHER:
            layers = [module[name] for name in names if type(module.get(name)) is LoRALinear]
            siblings = Siblings(layers)
            for layer in layers:
                layer._siblings = siblings
