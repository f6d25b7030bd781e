"""Folders of runs with random weights, as if they had been trained."""

import json
from pathlib import Path
from typing import Any

import mlx.core as mx

from minialign.models.adapter import Lora, attach, save_adapter
from minialign.models.head import RewardHead, save_head
from minialign.models.load import load


def make_adapter(folder: Path, model: Path, seed: int, **config: Any) -> Path:
    """A run's folder with a random adapter on the model; ``config`` is the run's."""
    folder.mkdir(parents=True)
    bare = load(str(model))
    mx.random.seed(seed)
    attach(bare.module, Lora(rank=4))
    for _, part in bare.module.named_modules():
        if "lora_b" in part:
            part.lora_b = mx.random.normal(part.lora_b.shape) * 0.05
    save_adapter(folder, bare.module, Lora(rank=4), str(model))
    if config:
        (folder / "config.json").write_text(json.dumps({"model": str(model), **config}))
    return folder


def make_reward(folder: Path, model: Path) -> Path:
    """A run with a random reward head beside its adapter."""
    make_adapter(folder, model, 5, method="reward")
    head = RewardHead(64)
    mx.random.seed(6)
    head.weight = mx.random.normal((64,))
    head.bias = mx.array([0.25])
    save_head(folder, head)
    return folder
