"""Write tiny random GGUF files with the ``gguf`` package, and the texts tokenizers are tried on."""

from pathlib import Path
from typing import Any

import gguf
import numpy as np

CORPUS = [
    "The quick brown fox jumps over the lazy dog.",
    " leading space,  two spaces,   three,\ttab\t\ttabs",
    "trailing space ",
    "line\nbreaks\n\nand\r\nwindows\r\n\r\n  indented\n   \n\t\n",
    "I'm you're we'll they'd I've it's DON'T WE'LL 'S 's",
    "def f(x):\n    return {k: v**2 for k, v in x.items() if v != 0}  # comment\n",
    "<div class='a'>&nbsp;</div>\n/* C */ int main(void) { return 0x1F; }",
    "1 12 123 1234 12345 3.14159 1,000,000 2026-11-22 5e-4 ½ Ⅷ ² ٣٤ 一二三",
    "Straße naïve café ÅÄÖ ñ œuvre ﬁ",
    "cafe\u0301 A\u030a combining",
    "Привет, мир! Καλημέρα κόσμε. שלום עולם مرحبا بالعالم नमस्ते दुनिया",
    "你好，世界。今天天气很好！日本語のテキスト、カタカナ。한국어 텍스트",
    "🙂 👨‍👩‍👧 🏳️‍🌈 👍🏽 emoji🙂in🙂words ❤️",
    "non\u00a0breaking\u3000ideographic\u2003em\u200bzero\u2028line\u2029para\u0085next",
    "punct!?...--—–“quotes”‘single’«guillemets»$€£¥ @#%^&*()_+=~`|\\",
    "snake_case camelCase SCREAMING_CASE kebab-case a.b.c http://example.com/?q=1&r=2",
    "<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n",
    "text<|endoftext|>text <|im_end|> x",
    "\x00\x01\x7f control \ufeffbom",
    "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa bbbbbbbbbbbbbb          c",
    "",
    " ",
    "  ",
    "\n",
    "▁under▁ <0x0A> <s> </s>",
]


def _random_blocks(random: np.random.Generator, shape: tuple[int, ...], kind: str) -> np.ndarray:
    """Random blocks of a K-quant with small scales (the package dequantizes but cannot quantize
    these)."""
    block, width = gguf.GGML_QUANT_SIZES[gguf.GGMLQuantizationType[kind]]
    rows = int(np.prod(shape)) // block
    blocks = random.integers(0, 256, (rows, width), dtype=np.uint8)
    halves = {"Q4_K": [0, 2], "Q5_K": [0, 2], "Q6_K": [208]}[kind]
    for start in halves:
        scale = random.uniform(0.5, 1.0, (rows, 1)).astype(np.float16) * np.float16(2e-4)
        blocks[:, start : start + 2] = scale.view(np.uint8)
    return blocks.reshape(*shape[:-1], -1)


def write_tiny_gguf(
    path: Path,
    vocabulary: dict[str, Any],
    *,
    architecture: str = "llama",
    kind: str = "F16",
    embedding_kind: str | None = None,
    tied: bool = True,
    seed: int = 0,
    width: int = 64,
    rope_factors: np.ndarray | None = None,
    **metadata: Any,
) -> dict[str, np.ndarray]:
    """A random two-layer model; returns the values its tensors hold, by GGUF name. F32 values
    fit in 16 bits, as those of real models do.

    ``vocabulary`` has ``model`` ("gpt2" or "llama"), ``tokens``, ``types`` and ``merges`` or
    ``scores``, and maybe ``pre`` and special ids; ``kind`` is the type of the layer's matrices.
    """
    from gguf.quants import dequantize, quantize

    random = np.random.default_rng(seed)
    writer = gguf.GGUFWriter(str(path), architecture)
    writer.add_block_count(2)
    writer.add_context_length(256)
    writer.add_embedding_length(width)
    writer.add_feed_forward_length(2 * width)
    writer.add_head_count(4)
    writer.add_head_count_kv(2)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_freq_base(10000.0)
    writer.add_rope_dimension_count(width // 4)
    writer.add_tokenizer_model(vocabulary["model"])
    writer.add_token_list(vocabulary["tokens"])
    writer.add_token_types(vocabulary["types"])
    if "merges" in vocabulary:
        writer.add_token_merges(vocabulary["merges"])
        writer.add_tokenizer_pre(vocabulary.get("pre", "gpt-2"))
    if "scores" in vocabulary:
        writer.add_token_scores(vocabulary["scores"])
    for role in ("bos", "eos", "unk", "pad"):
        if role in vocabulary:
            getattr(writer, f"add_{role}_token_id")(vocabulary[role])
    for key, value in metadata.items():
        getattr(writer, f"add_{key}")(value)
    values: dict[str, np.ndarray] = {}

    def add(name: str, shape: tuple[int, ...], kind: str = "F32", middle: float = 0.0) -> None:
        data = (middle + random.normal(0, 0.1, shape)).astype(np.float16).astype(np.float32)
        its_kind = gguf.GGMLQuantizationType[kind]
        packed = _random_blocks(random, shape, kind) if "_K" in kind else quantize(data, its_kind)
        values[name] = dequantize(packed, its_kind).reshape(shape)
        writer.add_tensor(name, packed, raw_dtype=its_kind)

    vocab_size, kv = len(vocabulary["tokens"]), width // 2
    add("token_embd.weight", (vocab_size, width), embedding_kind or kind)
    add("output_norm.weight", (width,), middle=1.0)
    if not tied:
        add("output.weight", (vocab_size, width), kind)
    if rope_factors is not None:
        writer.add_tensor("rope_freqs.weight", rope_factors.astype(np.float32))
        values["rope_freqs.weight"] = rope_factors
    for layer in range(2):
        block = f"blk.{layer}."
        add(block + "attn_norm.weight", (width,), middle=1.0)
        add(block + "ffn_norm.weight", (width,), middle=1.0)
        for name, rows in (("attn_q", width), ("attn_k", kv), ("attn_v", kv)):
            add(f"{block}{name}.weight", (rows, width), kind)
            if architecture == "qwen2":
                add(f"{block}{name}.bias", (rows,))
        if architecture == "qwen3":
            add(block + "attn_q_norm.weight", (width // 4,), middle=1.0)
            add(block + "attn_k_norm.weight", (width // 4,), middle=1.0)
        add(block + "attn_output.weight", (width, width), kind)
        add(block + "ffn_gate.weight", (2 * width, width), kind)
        add(block + "ffn_up.weight", (2 * width, width), kind)
        add(block + "ffn_down.weight", (width, 2 * width), kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return values
