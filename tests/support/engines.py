"""Engines on the tiny model, and what mlx_lm itself says."""

import mlx.core as mx

from minialign.engine import Engine, Sampling
from minialign.models.load import Model

GREEDY = Sampling(temperature=0, max_tokens=24)
TEXTS = [
    "the quick brown fox",
    "yes",
    "no no no no no",
    "jumps over the lazy dog and then the dog jumps over the fox. " * 3,
    "héllo 🦊 wörld",
]


def theirs(model: Model, prompt: list[int], count: int) -> list[int]:
    """Greedy tokens of mlx_lm's own loop, end tokens not minded."""
    from mlx_lm.generate import generate_step

    steps = generate_step(mx.array(prompt), model.module, max_tokens=count)
    return [int(token) for token, _ in steps]


def streamed(engine: Engine, prompt: list[int], sampling: Sampling, seed: int = 0) -> list[int]:
    return [piece.id for piece in engine.stream(prompt, sampling, seed)]
