"""Decoding a Llama-type model one native call a token: the whole transformer step at once.

Through MLX's graph a token of a small model costs more in building the graph than in computing
it. ``Decoder`` reads the weights of a prepared model where they lie (4-bit stays 4-bit, LoRA
included) and keeps keys and values of its own, in pages that rows share as far as their past is
the same. It is *not* a trainer and builds no graph; it is float32 throughout.

A decoder reads the model's arrays at the time it is made: make a new one after the adapter or
the weights have changed (it copies almost nothing).
"""

import math
from collections.abc import Callable, Sequence
from types import ModuleType
from typing import Any

import mlx.core as mx
import mlx.nn as nn

from minialign.cpu import extension
from minialign.cpu.device import on_cpu
from minialign.cpu.modules import readable_weight

_native: ModuleType = extension.load()[0]  # type: ignore[assignment]  # set: see __init__.py

# In the order of Decoder::Part.
PROJECTIONS = [f"self_attn.{name}_proj" for name in ("q", "k", "v", "o")]
PROJECTIONS += [f"mlp.{name}_proj" for name in ("gate", "up", "down")]
# Files of mlx-lm whose attention and MLP are exactly these seven (Mistral's is Llama's).
ARCHITECTURES = ("mlx_lm.models.llama", "mlx_lm.models.qwen2")


def _at(module: nn.Module, path: str) -> nn.Module:
    for name in path.split("."):
        module = module[name]
    return module


def _parts(module: nn.Module) -> tuple | None:
    """Read (weight, bias, lora_a, lora_b, scale) of a linear layer or a LoRA layer, or None."""
    a = b = None
    scale = 0.0
    if "lora_a" in module and "lora_b" in module and "m" not in module:
        a, b, scale = module.lora_a, module.lora_b, float(module.scale)
        if a.dtype != mx.float32 or b.dtype != mx.float32:
            return None
        module = module.linear
    weight = readable_weight(module)
    return None if weight is None else (weight, module.get("bias"), a, b, scale)


def _head_width(attention: nn.Module) -> int:
    return _parts(attention.q_proj)[0][0].shape[0] // attention.n_heads  # type: ignore[index]


def _rope(module: nn.Module) -> tuple[list[float], float, bool] | None:
    """Read (inverse frequencies, scale, traditional) of a rotary embedding; None if unknown."""
    if isinstance(module, nn.RoPE):
        half = module.dims // 2
        step = math.log(module.base) / half
        return [math.exp(-i * step) for i in range(half)], module.scale, module.traditional
    if any(base.__name__ == "Llama3RoPE" for base in type(module).__mro__):
        freqs: list[float] = module._freqs.astype(mx.float32).tolist()  # type: ignore[assignment]
        return [1 / f for f in freqs], 1.0, module.traditional
    return None


def _obstacle(model: nn.Module) -> str | None:
    """Say why the decoder cannot run this model, or None."""
    if not on_cpu():
        return "the default device is not the CPU"
    if type(model).__module__ not in ARCHITECTURES:
        return f"{type(model).__module__} is not one of {', '.join(ARCHITECTURES)}"
    if readable_weight(model.model.embed_tokens) is None:
        return "the embedding"
    if not model.args.tie_word_embeddings and (
        readable_weight(model.lm_head) is None or "bias" in model.lm_head
    ):
        return "the output head"
    for i, layer in enumerate(model.layers):
        if getattr(layer, "use_sliding", False):
            return f"layer {i} attends to a sliding window"
        for path in PROJECTIONS:
            if _parts(_at(layer, path)) is None:
                return f"layer {i}, {path}: {type(_at(layer, path)).__name__}"
        width = _head_width(layer.self_attn)
        if width % 16:
            return f"heads are {width} wide, not a multiple of 16"
        if _rope(layer.self_attn.rope) is None:
            return f"the rotary embedding {type(layer.self_attn.rope).__name__}"
    return None


class Decoder:
    """Rows of tokens that grow one token a ``step``; the model must be prepared (cpu.prepare).

    Raises:
        ValueError: when ``supports(model)`` is false.
    """

    @staticmethod
    def supports(model: nn.Module) -> bool:
        """Whether the native step computes exactly what this model does."""
        return _obstacle(model) is None

    def __init__(self, model: nn.Module) -> None:
        if reason := _obstacle(model):
            raise ValueError(f"the native decoder cannot run this model: {reason}")
        self.model = model
        attention = model.layers[0].self_attn
        heads = attention.n_heads, attention.n_kv_heads, _head_width(attention)
        numbers = model.args.rms_norm_eps, attention.scale, *_rope(attention.rope)  # type: ignore[misc]
        self._core = _native.Decoder(*heads, *numbers)
        calls: list[tuple[Callable[..., None], tuple[Any, ...]]] = []
        for i, layer in enumerate(model.layers):
            norms = (layer.input_layernorm.weight, layer.post_attention_layernorm.weight)
            calls.append((self._core.add_layer, norms))
            for part, path in enumerate(PROJECTIONS):
                weight, bias, a, b, lora_scale = _parts(_at(layer, path))  # type: ignore[misc]
                calls.append((self._core.set_linear, (i, part, *weight, bias, a, b, lora_scale)))
        embedding: tuple[Any, ...] = readable_weight(model.model.embed_tokens)  # type: ignore[assignment]
        tied = model.args.tie_word_embeddings
        head = embedding if tied else readable_weight(model.lm_head)
        calls.append((self._core.set_embedding, embedding))
        calls.append((self._core.set_head, (model.model.norm.weight, *head)))  # type: ignore[misc]
        ready = _ready([arguments for _, arguments in calls])
        for (call, _), arguments in zip(calls, ready, strict=True):
            call(*arguments)

    @property
    def lengths(self) -> list[int]:
        """Tokens each row holds so far."""
        return self._core.lengths

    def __len__(self) -> int:
        return len(self._core.lengths)

    def load_prefix(
        self, keys: Sequence[mx.array], values: Sequence[mx.array], rows: int = 1
    ) -> None:
        """Add ``rows`` rows with this past: one (1 or rows, key heads, length, width) a layer.

        Keys have their rotary positions applied, as an mlx-lm cache holds them. A past of one row
        is stored once and shared by all the new rows.
        """
        keys = [k.astype(mx.float32) for k in keys]
        values = [v.astype(mx.float32) for v in values]
        mx.eval(keys, values)
        self._core.add_rows(rows, keys, values)

    def step(self, tokens: Sequence[int]) -> mx.array:
        """Append one token to every row; returns the next ones' logits (rows, vocabulary)."""
        return self._core.step(list(tokens))

    def keep(self, rows: Sequence[int]) -> None:
        """Keep the rows at these places, in this order; naming one twice forks it."""
        self._core.keep(list(rows))


def _ready(lists: Sequence[Sequence[Any]]) -> list[list[Any]]:
    """Make the arrays in these lists evaluated and contiguous, as the native side reads them: all
    at once, since each ``eval`` costs as much as many arrays."""
    ready = [[mx.contiguous(v) if isinstance(v, mx.array) else v for v in one] for one in lists]
    mx.eval([v for one in ready for v in one if isinstance(v, mx.array)])
    return ready
