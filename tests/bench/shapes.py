"""Larger models by their shape alone: Llama-3.2-1B and -3B with random 4-bit weights, made here.

    python tests/bench/shapes.py --shape 3b --side decode      one answer, and the memory it takes
    python tests/bench/shapes.py --shape 3b --side dpo         a step on 2 pairs of 512 tokens
    python tests/bench/shapes.py --shape 1b --side context     a token's time behind 64 to 4,096

``share`` is what one answer reads (each weight once a token) of what two threads can read at all.
The files are kept in a temporary folder (0.8 and 2.0 GB).
"""

import json
import time
from dataclasses import replace
from pathlib import Path

from measuring import arguments, report
from prepare import _cache

SHAPES = {
    "1b": {"hidden_size": 2048, "num_hidden_layers": 16, "intermediate_size": 8192,
           "num_attention_heads": 32, "num_key_value_heads": 8, "head_dim": 64},
    "3b": {"hidden_size": 3072, "num_hidden_layers": 28, "intermediate_size": 8192,
           "num_attention_heads": 24, "num_key_value_heads": 8, "head_dim": 128},
}  # fmt: skip
GROUP = 64


def folder(shape: str, tokenizer_of: str) -> Path:
    """An MLX folder of that shape; the tokenizer is another model's."""
    import shutil

    import mlx.core as mx
    import mlx.nn as nn
    from mlx.utils import tree_flatten
    from mlx_lm.models.llama import Model, ModelArgs

    from minialign.models.sources.fetch import ensure

    path = _cache("shape", (shape, GROUP))
    if (path / "config.json").exists():
        return path
    path.mkdir(exist_ok=True)
    config = {
        "model_type": "llama", "vocab_size": 128256, "rms_norm_eps": 1e-5, "rope_theta": 500000.0,
        "max_position_embeddings": 8192, "tie_word_embeddings": True, **SHAPES[shape],
    }  # fmt: skip
    module = Model(ModelArgs.from_dict(config))
    nn.quantize(module, group_size=GROUP, bits=4)
    weights = {}
    for name, value in tree_flatten(module.parameters()):  # lazy: only shapes are looked at
        if name.endswith(".weight") and value.dtype == mx.uint32:
            weights[name] = mx.random.randint(0, 2**31 - 1, value.shape).astype(mx.uint32)
        elif name.endswith(".scales"):
            weights[name] = mx.full(value.shape, 2e-3, mx.float16)
        elif name.endswith(".biases"):
            weights[name] = mx.full(value.shape, -1.5e-2, mx.float16)
        else:
            weights[name] = mx.ones(value.shape, mx.float16)
        mx.eval(weights[name])
    mx.save_safetensors(str(path / "model.safetensors"), weights, metadata={"format": "mlx"})
    for file in ensure(tokenizer_of).glob("*token*"):
        shutil.copy(file, path)
    quantization = {"group_size": GROUP, "bits": 4, "mode": "affine"}
    text = json.dumps({**config, "architectures": ["LlamaForCausalLM"],
                       "quantization": quantization})  # fmt: skip
    (path / "config.json").write_text(text, encoding="utf-8")
    return path


def decode(given, path: Path) -> None:
    """One answer, greedy."""
    from minialign.engine import Engine
    from minialign.machine.bench import Endless, decode_rate, random_ids
    from minialign.machine.roofline import machine
    from minialign.models.load import load

    model = load(str(path))
    engine = Engine(replace(model, tokenizer=Endless(model.tokenizer)))
    prompts = random_ids(1000, 1, 16)
    rate = max(decode_rate(engine, prompts, given.tokens) for _ in range(3))
    size = (path / "model.safetensors").stat().st_size
    report(f"{given.shape} decode 1", rate, "tokens/s", weights=size)
    share = rate * size / machine().bandwidth
    report(f"{given.shape} decode 1: share of the bandwidth", share, "")


def context(given, path: Path) -> None:
    """The time of a token, for several lengths of what is before it."""
    from minialign.engine import Engine
    from minialign.machine.bench import Endless, decode_rate, random_ids
    from minialign.models.load import load

    model = load(str(path))
    engine = Engine(replace(model, tokenizer=Endless(model.tokenizer)))
    for length in (64, 1024, 2048, 4096):
        prompts = random_ids(1000, 1, length)
        rate = decode_rate(engine, prompts, given.tokens)
        engine.forget()
        report(f"{given.shape} a token behind {length}", 1000 / rate, "ms")


def dpo(given, path: Path) -> None:
    """A step on 2 pairs of 512 tokens (half of them prompt), LoRA rank 8 on all linear layers."""
    import mlx.core as mx

    from minialign.learn.batch import Example, collate
    from minialign.learn.checkpointing import checkpoint_layers
    from minialign.learn.fit import Updates, adamw, fit, joined
    from minialign.learn.policy import make_policy
    from minialign.machine.bench import random_ids
    from minialign.methods import METHODS
    from minialign.models.adapter import Lora, attach
    from minialign.models.load import load

    model = load(str(path))
    policy = make_policy(model)
    attach(model.module, Lora(rank=8, scale=2.0))
    checkpoint_layers(model.module)
    rows = random_ids(1000, 6, 256)
    examples = [Example(p, [c, r], [[1] * 256] * 2) for p, c, r in (rows[:3], rows[3:])]
    batch = collate(examples)
    batch.extra["reference"] = mx.full((4,), -2000.0)
    method = METHODS["dpo"]
    optimizer = adamw((0.9, 0.999), 0.0)
    optimizer.init(joined(policy.trainable.trainable_parameters()))
    start = time.perf_counter()
    loss, updates = method.loss(method.config()), Updates(lambda step: 1e-5, method.weight, last=1)
    for step in fit(policy, loss, iter([[batch]]), optimizer, updates):
        seconds = time.perf_counter() - start
        report(f"{given.shape} dpo step", seconds, "s/step", loss=step.loss)


def main() -> None:
    """Measure one thing of one shape."""
    parser = arguments(__doc__, ["decode", "dpo", "context"])
    parser.add_argument("--shape", choices=SHAPES, default="3b")
    parser.add_argument("--tokens", type=int, default=24, help="of an answer (24)")
    given = parser.parse_args()
    path = folder(given.shape, given.model)
    {"decode": decode, "dpo": dpo, "context": context}[given.side](given, path)


if __name__ == "__main__":
    main()
