"""GGUF import: exact where it can be, checked against other implementations of the same file."""

import json
import struct
from pathlib import Path
from typing import Any

import gguf
import mlx.core as mx
import numpy as np
import pytest
from gguf.quants import dequantize, quantize
from support.numpy_llama import NumpyLlama
from support.places import ROOT
from support.tiny_gguf import write_tiny_gguf

from minialign.errors import UserError
from minialign.models.gguf.config import llama3_scaling
from minialign.models.gguf.file import Tensor, read_gguf
from minialign.models.gguf.weights import exact_form, unpermute
from minialign.models.load import load
from minialign.models.module import load_module
from minialign.models.sources.fetch import import_model

FIXTURE = json.loads((ROOT / "tests" / "fixtures" / "llama_cpp.json").read_text())
BPE: dict[str, Any] = FIXTURE["bpe"]["vocabulary"] | {"pre": "smollm"}
SPM: dict[str, Any] = FIXTURE["spm"]["vocabulary"]
IDS = [1, 50, 300, 7, 7, 421, 99, 0, 5, 612]


def logprobs_of(path: Path, ids: list[int]) -> np.ndarray:
    module, _ = load_module(path)
    from minialign import cpu

    logits = cpu.prepare(module)(mx.array([ids]))[0].astype(mx.float32)
    return np.array(logits - mx.logsumexp(logits, axis=-1, keepdims=True))


@pytest.mark.parametrize("kind", ["Q4_0", "Q4_1", "Q8_0"])
def test_simple_types_are_moved_without_loss(kind: str) -> None:
    """MLX's dequantized values are the gguf package's, bit for bit in float32."""
    random = np.random.default_rng(0)
    values = random.normal(0, 1, (6, 96)).astype(np.float32)
    its_kind = gguf.GGMLQuantizationType[kind]
    packed = quantize(values, its_kind)
    form = exact_form(Tensor("t", kind, (6, 96), packed.reshape(6, -1)))
    bits = 8 if kind == "Q8_0" else 4
    ours = mx.dequantize(
        mx.array(form["weight"]),
        mx.array(form["scales"]).astype(mx.float32),
        mx.array(form["biases"]).astype(mx.float32),
        group_size=32,
        bits=bits,
    )
    expected = dequantize(packed, its_kind)
    np.testing.assert_allclose(np.array(ours), expected, atol=2e-6, rtol=1e-6)


def test_simple_types_equal_mlx_own_reader(tmp_path: Path) -> None:
    """``mx.load`` of the same file gives the same packed integers, scales and biases."""
    for kind in ("Q4_0", "Q4_1", "Q8_0"):
        path = tmp_path / f"{kind}.gguf"
        write_tiny_gguf(path, BPE, kind=kind)
        theirs = mx.load(str(path))
        tensor = read_gguf(path).tensors["blk.1.ffn_down.weight"]
        for key, array in exact_form(tensor).items():
            other = np.array(theirs[f"blk.1.ffn_down.{key}"])
            np.testing.assert_array_equal(array, other, err_msg=f"{kind} {key}")


def test_unpermute_inverts_llama_cpp_conversion() -> None:
    heads, rows = 3, np.arange(24 * 2).reshape(24, 2)
    # convert_hf_to_gguf.py: LlamaModel.permute
    permuted = rows.reshape(heads, 2, 4, 2).swapaxes(1, 2).reshape(24, 2)
    assert not (permuted == rows).all()
    np.testing.assert_array_equal(unpermute(permuted, heads), rows)


@pytest.mark.parametrize(
    ("architecture", "kind", "tied"),
    [
        ("llama", "Q4_0", True),
        ("llama", "Q4_1", False),
        ("llama", "Q8_0", True),
        ("llama", "F16", False),
        ("llama", "F32", True),
        ("llama", "BF16", True),
        ("qwen2", "Q4_1", True),
        ("qwen3", "Q8_0", False),
    ],
)
def test_log_probs_equal_numpy(
    tmp_path: Path, home: Path, architecture: str, kind: str, tied: bool
) -> None:
    path = tmp_path / "tiny.gguf"
    write_tiny_gguf(path, BPE, architecture=architecture, kind=kind, tied=tied)
    ours = logprobs_of(import_model(path), IDS)
    expected = NumpyLlama(path).logprobs(IDS)
    np.testing.assert_allclose(ours, expected, atol=2e-4)


def test_mixed_types_get_their_own_bits(tmp_path: Path, home: Path) -> None:
    path = tmp_path / "mixed.gguf"
    write_tiny_gguf(path, BPE, kind="Q4_0", embedding_kind="Q8_0")
    folder = import_model(path)
    quantization = json.loads((folder / "config.json").read_text())["quantization"]
    assert quantization == {
        "group_size": 32,
        "bits": 4,
        "model.embed_tokens": {"group_size": 32, "bits": 8},
    }
    np.testing.assert_allclose(logprobs_of(folder, IDS), NumpyLlama(path).logprobs(IDS), atol=2e-4)


@pytest.mark.parametrize(("kind", "bits"), [("Q4_K", 4), ("Q5_K", 8), ("Q6_K", 8), ("Q5_0", 8)])
def test_other_types_are_quantized_again(tmp_path: Path, home: Path, kind: str, bits: int) -> None:
    path = tmp_path / "k.gguf"
    values = write_tiny_gguf(path, BPE, kind=kind, embedding_kind="Q8_0", width=256)
    folder = import_model(path)
    config = json.loads((folder / "config.json").read_text())
    assert config["quantization"]["bits"] == bits
    arrays = mx.load(str(folder / "model.safetensors"))
    name = "model.layers.0.mlp.up_proj"
    ours = mx.dequantize(
        arrays[f"{name}.weight"],
        arrays[f"{name}.scales"].astype(mx.float32),
        arrays[f"{name}.biases"].astype(mx.float32),
        group_size=32,
        bits=bits,
    )
    expected = values["blk.0.ffn_up.weight"]
    spread = np.ptp(expected.reshape(-1, 32), axis=-1).max()
    assert np.abs(np.array(ours) - expected).max() < spread / (2**bits - 1)


def test_bits_quantizes_and_lowers(tmp_path: Path, home: Path) -> None:
    path = tmp_path / "half.gguf"
    write_tiny_gguf(path, BPE, kind="F16")
    plain = json.loads((import_model(path, "plain") / "config.json").read_text())
    assert "quantization" not in plain
    eight = json.loads((import_model(path, "eight", 8) / "config.json").read_text())
    assert eight["quantization"] == {"group_size": 32, "bits": 8}
    write_tiny_gguf(tmp_path / "q8.gguf", BPE, kind="Q8_0")
    lowered = import_model(tmp_path / "q8.gguf", "lowered", 4)
    assert json.loads((lowered / "config.json").read_text())["quantization"]["bits"] == 4


def test_stock_mlx_lm_loads_it(tmp_path: Path, home: Path) -> None:
    """The folder is plain MLX layout: logits, token ids and template are the same there."""
    import mlx_lm

    template = "{% for m in messages %}<|im_start|>{{ m.content }}<|im_end|>{% endfor %}"
    path = tmp_path / "tiny.gguf"
    write_tiny_gguf(path, BPE, kind="Q4_1", chat_template=template)
    folder = import_model(path)
    module, tokenizer = mlx_lm.load(str(folder))[:2]
    logits = module(mx.array([IDS]))[0].astype(mx.float32)
    theirs = np.array(logits - mx.logsumexp(logits, axis=-1, keepdims=True))
    np.testing.assert_allclose(logprobs_of(folder, IDS), theirs, atol=2e-2)
    loaded = load(str(folder))
    messages = [{"role": "user", "content": "12 hello,  world"}]
    assert loaded.tokenizer.render(messages, False) == tokenizer.apply_chat_template(messages)
    assert set(tokenizer.eos_token_ids) <= loaded.tokenizer.eos_ids


def llama3_factors(factor: float, dims: int, base: float = 500000.0) -> np.ndarray:
    """As llama.cpp's convert_hf_to_gguf.py computes ``rope_freqs.weight``."""
    factors = []
    for frequency in 1.0 / (base ** (np.arange(0, dims, 2) / dims)):
        wavelength = 2 * np.pi / frequency
        if wavelength < 8192 / 4:
            factors.append(1.0)
        elif wavelength > 8192:
            factors.append(factor)
        else:
            smooth = (8192 / wavelength - 1) / (4 - 1)
            factors.append(1 / ((1 - smooth) / factor + smooth))
    return np.array(factors)


@pytest.mark.parametrize("factor", [8.0, 32.0])
def test_llama3_rope_factors_become_rope_scaling(factor: float) -> None:
    scaling = llama3_scaling(llama3_factors(factor, 64), 500000.0, 64)
    assert scaling["factor"] == factor
    with pytest.raises(UserError, match=r"Llama 3\.1"):
        llama3_scaling(llama3_factors(factor, 64) * 1.1, 500000.0, 64)


def test_llama3_rope_equals_numpy(tmp_path: Path, home: Path) -> None:
    path = tmp_path / "llama3.gguf"
    factors = llama3_factors(8.0, 64, 10000.0)
    write_tiny_gguf(path, BPE, kind="F32", width=256, rope_factors=factors)
    folder = import_model(path)
    assert json.loads((folder / "config.json").read_text())["rope_scaling"]["factor"] == 8.0
    ids = (IDS * 12)[:110]  # far enough for the slow frequencies to matter
    np.testing.assert_allclose(logprobs_of(folder, ids), NumpyLlama(path).logprobs(ids), atol=2e-4)


def test_unsupported_architecture_names_the_supported(tmp_path: Path, home: Path) -> None:
    path = tmp_path / "falcon.gguf"
    write_tiny_gguf(path, BPE, architecture="falcon")
    with pytest.raises(UserError, match="'falcon' is not supported") as error:
        import_model(path)
    assert "llama, qwen2, qwen3" in error.value.hint
    assert not list((home / "models").iterdir())


def test_damaged_files_are_named(tmp_path: Path, home: Path) -> None:
    path = tmp_path / "good.gguf"
    write_tiny_gguf(path, BPE, kind="Q4_0")
    good = path.read_bytes()
    bad = tmp_path / "bad.gguf"
    cases = {
        "not a GGUF file": b"hello" + good,
        "version 99": good[:4] + struct.pack("<I", 99) + good[8:],
        "ends at byte": good[:-5000],
        "inside its header": good[:2000],
        "damaged GGUF": good[:30] + b"\xff" * 8 + good[38:],
    }
    for text, data in cases.items():
        bad.write_bytes(data)
        with pytest.raises(UserError, match=text):
            import_model(bad, "bad")
    for size in range(8, len(good) - 64, len(good) // 40):  # any cut is a UserError
        bad.write_bytes(good[:size])
        with pytest.raises(UserError):
            import_model(bad, "bad")
    assert not list((home / "models").iterdir())


def test_missing_layer_is_found(tmp_path: Path, home: Path) -> None:
    path = tmp_path / "short.gguf"
    write_tiny_gguf(path, BPE, kind="Q4_0")
    data = path.read_bytes()
    key = b"llama.block_count"
    at = data.index(key) + len(key) + 4
    path.write_bytes(data[:at] + struct.pack("<I", 5) + data[at + 4 :])
    with pytest.raises(UserError, match="layer 2"):
        import_model(path)


def test_flipped_bytes_never_crash(tmp_path: Path, home: Path) -> None:
    """A damaged header is a UserError, or harmless; never another exception."""
    path = tmp_path / "good.gguf"
    write_tiny_gguf(path, SPM, kind="Q4_0")
    good = path.read_bytes()
    random = np.random.default_rng(1)
    positions = [*random.integers(8, 1200, 60), *random.integers(8, len(good) // 3, 20)]
    refused = 0
    for position in positions:
        bad = bytearray(good)
        bad[position] ^= int(random.integers(1, 256))
        path.write_bytes(bad)
        try:
            import_model(path, f"m{position}")
        except UserError:
            refused += 1
    assert refused > 10
