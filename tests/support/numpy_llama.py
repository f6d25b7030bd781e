"""An independent copy of the forward pass: float64 NumPy on the GGUF file itself.

It shares no code with minialign or MLX: the ``gguf`` package reads and dequantizes, and RoPE is
applied as llama.cpp does, on the rows as they are stored (interleaved pairs for llama, halves for
qwen). Architectures: llama, qwen2, qwen3.
"""

from pathlib import Path

import gguf
import numpy as np
from gguf.quants import dequantize


class NumpyLlama:
    """The model of a GGUF file."""

    def __init__(self, path: Path):
        reader = gguf.GGUFReader(str(path))
        architecture = self._field(reader, "general.architecture")

        def get(key: str, default: float | None = None):
            return self._field(reader, f"{architecture}.{key}", default)

        self.weights = {
            tensor.name: dequantize(tensor.data, tensor.tensor_type).astype(np.float64)
            for tensor in reader.tensors
        }
        self.layers = get("block_count")
        self.heads = get("attention.head_count")
        self.kv_heads = get("attention.head_count_kv", self.heads)
        self.eps = get("attention.layer_norm_rms_epsilon")
        self.base = get("rope.freq_base", 10000.0)
        self.interleaved = architecture == "llama"

    @staticmethod
    def _field(reader: gguf.GGUFReader, key: str, default=None):
        field = reader.get_field(key)
        return default if field is None else field.contents()

    def norm(self, x: np.ndarray, name: str) -> np.ndarray:
        scale = 1 / np.sqrt((x**2).mean(-1, keepdims=True) + self.eps)
        return x * scale * self.weights[name + ".weight"]

    def linear(self, x: np.ndarray, name: str) -> np.ndarray:
        return x @ self.weights[name + ".weight"].T + self.weights.get(name + ".bias", 0.0)

    def rope(self, x: np.ndarray) -> np.ndarray:
        """x: (T, heads, d)."""
        length, _, dims = x.shape
        angles = np.arange(length)[:, None] / self.base ** (np.arange(0, dims, 2) / dims)
        if "rope_freqs.weight" in self.weights:
            angles = angles / self.weights["rope_freqs.weight"]
        cos, sin = np.cos(angles)[:, None], np.sin(angles)[:, None]
        if self.interleaved:
            first, second = x[..., ::2], x[..., 1::2]
        else:
            first, second = x[..., : dims // 2], x[..., dims // 2 :]
        turned = first * cos - second * sin, first * sin + second * cos
        if self.interleaved:
            return np.stack(turned, axis=-1).reshape(x.shape)
        return np.concatenate(turned, axis=-1)

    def attention(self, x: np.ndarray, block: str) -> np.ndarray:
        length = len(x)
        q = self.linear(x, block + "attn_q").reshape(length, self.heads, -1)
        k = self.linear(x, block + "attn_k").reshape(length, self.kv_heads, -1)
        v = self.linear(x, block + "attn_v").reshape(length, self.kv_heads, -1)
        if block + "attn_q_norm.weight" in self.weights:
            q, k = self.norm(q, block + "attn_q_norm"), self.norm(k, block + "attn_k_norm")
        q, k = self.rope(q), self.rope(k)
        repeat = self.heads // self.kv_heads
        k, v = np.repeat(k, repeat, axis=1), np.repeat(v, repeat, axis=1)
        scores = np.einsum("qhd,khd->hqk", q, k) / np.sqrt(q.shape[-1])
        scores = np.where(np.tri(length, dtype=bool), scores, -np.inf)
        weights = np.exp(scores - scores.max(-1, keepdims=True))
        weights /= weights.sum(-1, keepdims=True)
        return self.linear(np.einsum("hqk,khd->qhd", weights, v).reshape(length, -1),
                           block + "attn_output")  # fmt: skip

    def logprobs(self, ids: list[int]) -> np.ndarray:
        """(T, V): log-probs of the token after each position."""
        x = self.weights["token_embd.weight"][ids]
        for layer in range(self.layers):
            block = f"blk.{layer}."
            x = x + self.attention(self.norm(x, block + "attn_norm"), block)
            hidden = self.norm(x, block + "ffn_norm")
            gate = self.linear(hidden, block + "ffn_gate")
            up = self.linear(hidden, block + "ffn_up")
            x = x + self.linear(gate / (1 + np.exp(-gate)) * up, block + "ffn_down")
        x = self.norm(x, "output_norm")
        head = "output" if "output.weight" in self.weights else "token_embd"
        logits = self.linear(x, head)
        peak = logits.max(-1, keepdims=True)
        return logits - peak - np.log(np.exp(logits - peak).sum(-1, keepdims=True))
