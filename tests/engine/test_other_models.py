"""The engine on models other than the tiny one."""

import json
from pathlib import Path
from typing import Any

import mlx.core as mx
import pytest
from support.engines import GREEDY, streamed, theirs

from minialign.engine import Engine, Sampling
from minialign.models.load import load


def _variant(folder: Path, tiny_model: Path, config: dict[str, Any], module: Any) -> Path:
    """A model folder of another architecture with the tiny tokenizer."""
    from mlx.utils import tree_flatten

    folder.mkdir()
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (folder / name).write_bytes((tiny_model / name).read_bytes())
    (folder / "config.json").write_text(json.dumps(config))
    mx.save_safetensors(
        str(folder / "model.safetensors"),
        dict(tree_flatten(module.parameters())),
        metadata={"format": "mlx"},
    )
    return folder


def test_sliding_windows_run_row_by_row_with_the_models_own_cache(
    tiny_model, tmp_path, home, prompts
):
    from mlx_lm.models import llama

    config = json.loads((tiny_model / "config.json").read_text())
    del config["quantization"]
    config |= {"layer_types": ["full_attention", "sliding_attention"], "sliding_window": 8}
    module = llama.Model(llama.ModelArgs.from_dict(config))
    model = load(str(_variant(tmp_path / "sliding", tiny_model, config, module)))
    engine = Engine(model)
    assert engine._root.most == 1
    found = list(engine.generate(prompts, GREEDY, n=2))
    assert len(found) == 10
    for c in found:
        expected = theirs(model, prompts[c.prompt_index], 24)
        assert c.ids == expected[: len(c.ids)]
        assert len(c.ids) == 24 or c.ids[-1] in model.tokenizer.eos_ids
    longer = prompts[3] + streamed(engine, prompts[3], GREEDY) + prompts[0]
    assert streamed(engine, longer, GREEDY) == streamed(Engine(model), longer, GREEDY)


def test_a_model_that_cannot_take_ragged_batches_is_noticed(tiny_model, tmp_path, home, prompts):
    from mlx_lm.models import gpt_bigcode

    config = {
        "model_type": "gpt_bigcode", "n_embd": 32, "n_head": 2, "n_layer": 2, "n_inner": 64,
        "n_positions": 256, "layer_norm_epsilon": 1e-5, "vocab_size": 320,
    }  # fmt: skip
    mx.random.seed(3)
    module = gpt_bigcode.Model(gpt_bigcode.ModelArgs.from_dict(config))
    model = load(str(_variant(tmp_path / "bigcode", tiny_model, config, module)))
    engine = Engine(model)
    assert engine._batch_root.most == 1
    assert engine.context == 256
    for c in engine.generate(prompts, GREEDY):
        assert c.ids == theirs(model, prompts[c.prompt_index], 24)[: len(c.ids)]


@pytest.mark.model
def test_the_embedded_model_answers_the_same_in_any_batch(embedded_model):
    engine = Engine(load(str(embedded_model)))
    texts = ["What is the capital of France?", "Write a poem about the sea 🌊.", "Name a fruit."]
    prompts = [engine.tokenizer.render([{"role": "user", "content": text}], True) for text in texts]
    greedy = Sampling(temperature=0, max_tokens=8)
    said = ""
    for sampling in (greedy, Sampling(temperature=0.9, top_p=0.95, max_tokens=8)):
        for c in engine.generate(prompts, sampling, n=2 if sampling.temperature else 1, seed=3):
            if c.prompt_index != 1 or c.sample_index:  # a short, a long, and one of two answers
                assert c.ids == streamed(engine, prompts[c.prompt_index], sampling, c.seed)
            if sampling is greedy and c.prompt_index == 0:
                said = c.text
    assert "Paris" in said
