"""mlx-lm's LoRALinear with its three products fused into one native operation.

Imports mlx-lm's tuner, which is slow: it is imported only after an adapter was attached.
"""

import weakref
from collections.abc import Iterable
from types import ModuleType

import mlx.core as mx
import mlx.nn as nn
from mlx_lm.tuner import lora as mlx_lm_lora

from minialign.cpu import extension
from minialign.cpu.device import on_cpu
from minialign.cpu.modules import Linear, QuantizedLinear
from minialign.cpu.weights import supported, weight_of

_native: ModuleType = extension.load()[0]  # type: ignore[assignment]  # set: see __init__.py

NATIVE = (Linear, QuantizedLinear)


class LoRALinear(mlx_lm_lora.LoRALinear):
    """x -> linear(x) + scale * (x @ lora_a) @ lora_b; parameters exactly as mlx-lm's."""

    def _fuses(self, x: mx.array) -> bool:
        """Whether the native operation computes exactly what the stock layer would."""
        # No gradient for the base weight in this operation: where it is trained, the stock way.
        trains = bool(self.linear.trainable_parameters())
        drops = self.dropout.training and self.dropout._p_1 < 1
        return (
            on_cpu()
            and type(self.linear) in NATIVE
            and supported(self.linear)
            and not drops
            and not trains
            and x.dtype == self.lora_a.dtype == self.lora_b.dtype == mx.float32
        )

    def _layer(self) -> tuple:
        """Return the layer as the native operation takes it."""
        return (self.lora_a, self.lora_b, self.scale, *weight_of(self.linear))

    def __call__(self, x: mx.array) -> mx.array:
        if not self._fuses(x):
            return super().__call__(x)
        y = self._siblings.product(self, x)
        return y + self.linear["bias"] if "bias" in self.linear else y


class Siblings:
    """Layers that are called with the same input one after the other (q, k and v; gate and up).

    What they have in common is done once: the first of them that is called makes the products of
    all in one operation, and the others find theirs. Whoever has got other weights since makes its
    own; layers that are called with different inputs after all are siblings no longer.
    """

    def __init__(self, layers: Iterable[LoRALinear] = ()) -> None:
        self._layers = [weakref.ref(layer) for layer in layers]  # they have this: no cycle
        # By a layer's id: what its product was made of, and the product.
        self._ready: dict[int, tuple[_MadeOf, mx.array]] = {}

    def product(self, layer: LoRALinear, x: mx.array) -> mx.array:
        """Compute x @ w^T + scale * (x @ a) @ b for one of the layers."""
        if ready := self._ready.pop(id(layer), None):
            made_of, y = ready
            if made_of.still(x, layer):
                return y
        if self._ready:
            self._layers, self._ready = [], {}
        others = [other for ref in self._layers if (other := ref()) is not None]
        taken = [layer]
        if any(other is layer for other in others):  # not so in a copy
            same = [other for other in others if other.lora_a.shape[0] == x.shape[-1]]
            taken += [other for other in same if other is not layer and other._fuses(x)]
        y, *rest = _native.lora_linears(x, [one._layer() for one in taken])
        made = zip(taken[1:], rest, strict=True)
        self._ready = {id(one): (_MadeOf(x, one), product) for one, product in made}
        return y


class _MadeOf:
    """An input and a layer as they were when a product was made of them. A change in place leaves
    a Python array the same object; a copy that shares its memory shows it."""

    def __init__(self, x: mx.array, layer: LoRALinear) -> None:
        arrays, self._numbers = _split(x, layer)
        self._arrays = _native.copies(arrays)

    def still(self, x: mx.array, layer: LoRALinear) -> bool:
        arrays, numbers = _split(x, layer)
        return numbers == self._numbers and _native.same(arrays, self._arrays)


def _split(x: mx.array, layer: LoRALinear) -> tuple[list[mx.array], list]:
    parts = (x, *layer._layer())
    arrays = [part for part in parts if isinstance(part, mx.array)]
    return arrays, [part for part in parts if not isinstance(part, mx.array)]


# Layers of one module that mlx-lm's files, but for one or two, call with the same input.
TOGETHER = (("q_proj", "k_proj", "v_proj"), ("gate_proj", "up_proj"))


def prepare(model: nn.Module) -> None:
    """Give mlx-lm's adapted layers a native class where the layer below has one, in place, and
    make siblings of those that read the same input."""
    for _, module in model.named_modules():
        if type(module) is mlx_lm_lora.LoRALinear and type(module.linear) in NATIVE:
            module.__class__ = LoRALinear
            module._siblings = Siblings()
    for _, module in model.named_modules():
        for names in TOGETHER:
            layers = [module[name] for name in names if type(module.get(name)) is LoRALinear]
            siblings = Siblings(layers)
            for layer in layers:
                layer._siblings = siblings
