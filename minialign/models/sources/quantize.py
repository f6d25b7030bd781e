"""Quantize a model folder on import, and copy one."""

from pathlib import Path
from typing import Any

import mlx.nn as nn
from mlx.utils import tree_flatten

from minialign.errors import UserError
from minialign.models import layout
from minialign.models.module import load_module
from minialign.models.weights_file import read_config
from minialign.progress import Tell

GROUP = 32  # weights that share a scale


def quantize_folder(source: Path, folder: Path, bits: int, progress: Tell | None = None) -> None:
    """Write ``source`` quantized into the existing ``folder``, in groups of 32; embeddings and the
    output layer keep 8 bits. That is what good GGUF files do, and it matters in small models: the
    loss of SmolLM2-135M rises by 0.12 nats, and by 0.20 with 4 bits and groups of 64 throughout.

    One layer at a time is in full precision in memory.

    Raises:
        UserError: quantized already, damaged, or of an architecture mlx_lm does not have.
    """
    config = read_config(source)
    if config.get("quantization") or config.get("quantization_config"):
        fix = "leave out --bits, or start from its full-precision version"
        raise UserError(f"{source}: this model is quantized already", fix)
    weight_bytes = sum(path.stat().st_size for path in source.glob("model*.safetensors"))
    layout.need_space(folder, weight_bytes // 2)
    module, _ = load_module(source)
    decide = getattr(module, "quant_predicate", None)
    overrides: dict[str, Any] = {}

    def choose(path: str, layer: nn.Module) -> bool | dict[str, Any]:
        if not hasattr(layer, "to_quantized") or layer.weight.shape[-1] % GROUP:
            return False
        choice = decide(path, layer) if decide else True
        ends = isinstance(layer, nn.Embedding) or path.endswith("lm_head")
        if choice is True and bits < 8 and ends:
            choice = {"group_size": GROUP, "bits": 8}
        if isinstance(choice, dict):
            overrides[path] = choice
        return choice

    nn.quantize(module, group_size=GROUP, bits=bits, class_predicate=choose)
    layout.copy_folder(source, folder, weights=False)
    arrays: Any = tree_flatten(module.parameters())
    shards = layout.Shards(folder)
    for done, (name, array) in enumerate(arrays, 1):
        shards.add(name, array)
        if progress:
            progress(f"quantizing to {bits} bits", done, len(arrays))
    shards.finish()
    config["quantization"] = {"group_size": GROUP, "bits": bits} | overrides
    layout.write_json(folder / "config.json", config)
