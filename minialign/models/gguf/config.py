"""A GGUF file's metadata as the ``config.json`` of a Hugging Face or MLX model."""

from typing import Any

import numpy as np

from minialign.errors import UserError
from minialign.models.gguf.file import GGUF
from minialign.models.gguf.weights import ARCHITECTURES, dequantize_tensor


def check_architecture(gguf: GGUF) -> None:
    """Raise UserError unless this is a dense model of a known architecture, in one file."""
    if gguf.architecture not in ARCHITECTURES:
        raise UserError(
            f"{gguf.path}: GGUF architecture {gguf.architecture!r} is not supported",
            f"supported: {', '.join(ARCHITECTURES)} (Llama, Mistral, SmolLM, TinyLlama, Qwen); for"
            " others use the model's safetensors: minialign models pull ORG/REPO",
        )
    if gguf.get("expert_count"):
        said = f"{gguf.path}: this is a mixture of experts, which is not supported from GGUF"
        raise UserError(said, "use the model's safetensors: minialign models pull ORG/REPO")
    if int(gguf.metadata.get("split.count", 1)) > 1:
        said = f"this is one part of a GGUF file in {gguf.metadata['split.count']} parts"
        fix = "join them first: llama-gguf-split --merge FIRST_PART JOINED.gguf"
        raise UserError(f"{gguf.path}: {said}", fix)
    if "token_embd.weight" not in gguf.tensors:
        raise UserError(f"{gguf.path}: no tensor 'token_embd.weight'", "is this a vocabulary only?")


def llama3_scaling(factors: np.ndarray, base: float, dims: int) -> dict[str, Any]:
    """The ``rope_scaling`` whose frequency factors, (dims / 2,), these are.

    llama.cpp stores the factors of Llama 3.1's scaling ready made and not its parameters. Those
    published so far share low and high frequency factors 1 and 4 and 8,192 original positions;
    that guess is checked against the file.
    """
    factor = float(factors.max())
    wavelengths = 2 * np.pi * base ** (np.arange(0, dims, 2) / dims)
    smooth = (8192 / wavelengths - 1.0) / (4.0 - 1.0)
    within = np.where(wavelengths < 8192 / 4, 1.0, 1 / ((1 - smooth) / factor + smooth))
    expected = np.where(wavelengths > 8192, factor, within)
    if factors.shape != expected.shape or not np.allclose(factors, expected, rtol=1e-3):
        said = "the RoPE frequency factors of this GGUF file are not those of Llama 3.1"
        raise UserError(said, "use the model's safetensors: minialign models pull ORG/REPO")
    return {
        "rope_type": "llama3",
        "factor": factor,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 8192,
    }


def _rope_scaling(gguf: GGUF, base: float, head_dim: int) -> dict[str, Any] | None:
    if "rope_freqs.weight" in gguf.tensors:
        factors = dequantize_tensor(gguf.tensors["rope_freqs.weight"])
        return llama3_scaling(factors.reshape(-1), base, head_dim)
    kind = gguf.get("rope.scaling.type", "none")
    factor = float(gguf.get("rope.scaling.factor", 0) or gguf.get("rope.scale_linear", 0) or 0)
    if kind == "none" and not factor:
        return None
    if kind in ("linear", "none"):
        return {"rope_type": "linear", "factor": factor}
    if kind == "yarn":
        length = int(gguf.get("rope.scaling.original_context_length") or gguf.get("context_length"))
        return {"rope_type": "yarn", "factor": factor, "original_max_position_embeddings": length}
    raise UserError(f"{gguf.path}: RoPE scaling {kind!r} is not supported")


def config_of(gguf: GGUF) -> dict[str, Any]:
    """The model's ``config.json``, without its ``quantization``.

    Raises:
        UserError: an unsupported architecture, or a key that it needs is missing.
    """
    check_architecture(gguf)

    def needed(key: str) -> Any:
        value = gguf.get(key)
        if value is None:
            fix = "convert the model again with a current llama.cpp"
            raise UserError(f"{gguf.path}: no {gguf.architecture}.{key} in its metadata", fix)
        return value

    heads = int(needed("attention.head_count"))
    width = int(needed("embedding_length"))
    head_dim = int(gguf.get("attention.key_length") or width // heads)
    rotated = int(gguf.get("rope.dimension_count") or head_dim)
    if rotated != head_dim:
        raise UserError(f"{gguf.path}: RoPE on {rotated} of {head_dim} dimensions is not supported")
    base = float(gguf.get("rope.freq_base", 10000.0))
    config: dict[str, Any] = {
        "architectures": [f"{gguf.architecture.title()}ForCausalLM"],
        "model_type": gguf.architecture,
        "hidden_size": width,
        "num_hidden_layers": int(needed("block_count")),
        "intermediate_size": int(needed("feed_forward_length")),
        "num_attention_heads": heads,
        "num_key_value_heads": int(gguf.get("attention.head_count_kv") or heads),
        "head_dim": head_dim,
        "rms_norm_eps": round(float(needed("attention.layer_norm_rms_epsilon")), 12),
        "rope_theta": base,
        "max_position_embeddings": int(gguf.get("context_length", 2048)),
        "vocab_size": gguf.tensors["token_embd.weight"].shape[0],
        "tie_word_embeddings": "output.weight" not in gguf.tensors,
        "torch_dtype": "float16",
    }
    if gguf.architecture == "llama":
        config["attention_bias"] = "blk.0.attn_q.bias" in gguf.tensors
        config["mlp_bias"] = "blk.0.ffn_up.bias" in gguf.tensors
        config["hidden_act"] = "silu"
    if scaling := _rope_scaling(gguf, base, head_dim):
        config["rope_scaling"] = scaling
    for ours, theirs in (("bos", "bos"), ("eos", "eos"), ("pad", "padding")):
        if (token := gguf.metadata.get(f"tokenizer.ggml.{theirs}_token_id")) is not None:
            config[f"{ours}_token_id"] = int(token)
    return config
