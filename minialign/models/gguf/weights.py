"""GGUF tensors as MLX weights: names, the RoPE permutation, and the quantized forms.

Q4_0, Q4_1 and Q8_0 are affine with groups of 32, which is MLX's own form, so their integers and
scales are moved as they are, with no loss. Every other type is dequantized by the ``gguf`` package
and stored in 16 bits, or quantized again to MLX's 4 or 8 bits.
"""

from collections.abc import Iterator
from functools import partial
from typing import Any

import mlx.core as mx
import numpy as np

from minialign.errors import UserError
from minialign.models.gguf.file import GGUF, Tensor

GROUP = 32  # values that share a scale, in ggml's simple types and in MLX
EXACT = {"Q4_0": 4, "Q4_1": 4, "Q8_0": 8}  # bits of the types that are moved without loss
PLAIN = ("F32", "F16", "BF16", "F64")

# architectures whose tensors are renamed one to one: (attn_q, attn_k stored permuted)
ARCHITECTURES = {"llama": True, "qwen2": False, "qwen3": False}

NAMES = {
    "token_embd": "model.embed_tokens",
    "output_norm": "model.norm",
    "output": "lm_head",
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "attn_q_norm": "self_attn.q_norm",
    "attn_k_norm": "self_attn.k_norm",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}


def mlx_name(name: str) -> str | None:
    """``blk.3.attn_q.weight`` -> ``model.layers.3.self_attn.q_proj.weight``; None if unknown."""
    stem, _, leaf = name.rpartition(".")
    layer = ""
    if stem.startswith("blk."):
        _, number, stem = stem.split(".", 2)
        layer = f"model.layers.{number}."
    return f"{layer}{NAMES[stem]}.{leaf}" if stem in NAMES else None


def unpermute(rows: np.ndarray, heads: int) -> np.ndarray:
    """Undo llama.cpp's reordering of the rows of q and k, (heads * d, …) in and out.

    The file has each head's two RoPE halves interleaved (0, d/2, 1, d/2 + 1, …); MLX's layout,
    like Hugging Face's, has one half after the other.
    """
    split = rows.reshape(heads, rows.shape[0] // heads // 2, 2, *rows.shape[1:])
    return split.swapaxes(1, 2).reshape(rows.shape)


def exact_form(tensor: Tensor) -> dict[str, np.ndarray]:
    """MLX's packed (weight, scales, biases) of a Q4_0, Q4_1 or Q8_0 tensor of shape (out, in).

    MLX's value is scale * q + bias with q unsigned: Q4_0 is d (q - 8), Q4_1 is d q + m, and Q8_0
    is d q with q signed, so d (q + 128) - 128 d.
    """
    blocks = tensor.data.reshape(tensor.data.shape[0], tensor.shape[-1] // GROUP, -1)
    scales = np.ascontiguousarray(blocks[..., :2]).view(np.float16)[..., 0]
    if tensor.kind == "Q4_1":
        biases = np.ascontiguousarray(blocks[..., 2:4]).view(np.float16)[..., 0]
    else:
        biases = scales * np.float16(-128 if tensor.kind == "Q8_0" else -8)
    if tensor.kind == "Q8_0":
        packed = blocks[..., 2:] ^ 0x80
    else:
        nibbles = blocks[..., 4 if tensor.kind == "Q4_1" else 2 :]
        ordered = np.concatenate([nibbles & 15, nibbles >> 4], axis=-1)
        packed = ordered[..., ::2] | (ordered[..., 1::2] << 4)
    weight = np.ascontiguousarray(packed).reshape(len(blocks), -1).view(np.uint32)
    return {"weight": weight, "scales": scales, "biases": biases}


def dequantize_tensor(tensor: Tensor) -> np.ndarray:
    """The tensor's values in float32, in its shape."""
    from gguf.constants import GGMLQuantizationType
    from gguf.quants import dequantize

    try:
        values = dequantize(tensor.data, GGMLQuantizationType[tensor.kind])
    except NotImplementedError:
        said = f"tensor {tensor.name!r} is of type {tensor.kind}, which cannot be read here"
        fix = "use a Q4_0, Q4_1, Q8_0, Q4_K, Q6_K or F16 version of the model"
        raise UserError(said, fix) from None
    return np.asarray(values, np.float32).reshape(tensor.shape)


def bits_for(kind: str) -> int:
    """The bits for a type that has no exact form: 4 for types below 4.6 bits a weight, else 8."""
    from gguf.constants import GGML_QUANT_SIZES, GGMLQuantizationType

    block, width = GGML_QUANT_SIZES[GGMLQuantizationType[kind]]
    return 4 if 8 * width / block < 4.6 else 8


def _half(values: np.ndarray) -> np.ndarray:
    """float16 where the range allows it, else float32 as it is."""
    return values.astype(np.float16) if np.abs(values).max(initial=0) < 65504 else values


def _quantize(values: np.ndarray, bits: int) -> dict[str, mx.array]:
    weight, scales, biases = mx.quantize(mx.array(values), group_size=GROUP, bits=bits)
    scales, biases = scales.astype(mx.float16), biases.astype(mx.float16)
    return {"weight": weight, "scales": scales, "biases": biases}


def weights(
    gguf: GGUF, bits: int | None = None
) -> Iterator[tuple[str, dict[str, mx.array], int | None]]:
    """(MLX module name, its arrays by leaf name, bits or None) of every module, one at a time.

    ``bits`` quantizes 16- and 32-bit matrices, and any matrix that has more bits now; without it
    they stay in 16 bits, and types with no exact form go to 4 or 8 bits, whichever is nearer.
    """
    heads = int(gguf.get("attention.head_count"))
    heads_of = {"attn_q": heads, "attn_k": int(gguf.get("attention.head_count_kv", heads))}
    for name, tensor in gguf.tensors.items():
        target = mlx_name(name)
        if target is None:
            if name == "rope_freqs.weight":
                continue  # read by the config
            known = f"is not part of a {gguf.architecture} model known here"
            fix = "use the model's safetensors: minialign models pull ORG/REPO"
            raise UserError(f"{gguf.path}: tensor {name!r} {known}", fix)
        module, _, leaf = target.rpartition(".")
        permuted = heads_of.get(name.split(".")[-2]) if ARCHITECTURES[gguf.architecture] else None
        reorder = partial(unpermute, heads=permuted) if permuted else np.asarray
        own = EXACT.get(tensor.kind)
        wanted = bits
        if len(tensor.shape) != 2 or leaf != "weight" or tensor.shape[-1] % GROUP:
            wanted = None
        elif tensor.kind not in PLAIN:
            wanted = min(bits or 8, own or bits_for(tensor.kind))
        arrays: dict[str, Any]
        if wanted is None:
            arrays = {leaf: mx.array(_half(reorder(dequantize_tensor(tensor))))}
        elif wanted == own:
            arrays = {key: mx.array(reorder(rows)) for key, rows in exact_form(tensor).items()}
        else:
            arrays = _quantize(reorder(dequantize_tensor(tensor)), wanted)
        yield module, arrays, wanted
