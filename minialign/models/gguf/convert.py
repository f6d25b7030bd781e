"""Turn a GGUF file into a model folder in MLX layout."""

from collections import Counter
from pathlib import Path
from statistics import mode
from typing import Any

from minialign.errors import UserError
from minialign.models.gguf.config import config_of
from minialign.models.gguf.file import read_gguf
from minialign.models.gguf.tokenizer import write_tokenizer
from minialign.models.gguf.weights import GROUP, weights
from minialign.models.layout import Shards, need_space, write_json
from minialign.progress import Tell


def convert_gguf(
    path: Path, folder: Path, bits: int | None = None, progress: Tell | None = None
) -> dict[str, Any]:
    """Write config, weights and tokenizer of a GGUF file into the existing ``folder``.

    Returns facts for the folder's record: the architecture and the types in the file.

    Raises:
        UserError: damaged or unsupported file; no space.
    """
    gguf = read_gguf(path)
    need_space(folder, path.stat().st_size * (2 if bits is None else 1))
    try:
        config = config_of(gguf)
        write_tokenizer(gguf, folder)
    except (ValueError, TypeError, KeyError, IndexError, ZeroDivisionError) as reason:
        fix = "get the file again, or convert the model again with a current llama.cpp"
        raise UserError(f"{path}: its metadata makes no sense: {reason!r}", fix) from reason
    shards = Shards(folder)
    bits_of: dict[str, int] = {}
    for done, (module, arrays, used) in enumerate(weights(gguf, bits), 1):
        for leaf, array in arrays.items():
            shards.add(f"{module}.{leaf}", array)
        if used is not None:
            bits_of[module] = used
        if progress:
            progress("converting", done, len(gguf.tensors))
    _check_complete(path, config, shards)
    shards.finish()
    if bits_of:
        usual = mode(bits_of.values())
        config["quantization"] = {"group_size": GROUP, "bits": usual} | {
            module: {"group_size": GROUP, "bits": used}
            for module, used in bits_of.items()
            if used != usual
        }
    write_json(folder / "config.json", config)
    ids = {key: config[key] for key in config if key.endswith("_token_id")}
    write_json(folder / "generation_config.json", ids)
    return {
        "architecture": gguf.architecture,
        "types": dict(Counter(tensor.kind for tensor in gguf.tensors.values())),
        "license": str(gguf.metadata.get("general.license", "")),
    }


def _check_complete(path: Path, config: dict[str, Any], shards: Shards) -> None:
    """Every layer that the config promises is there."""
    names = shards.names()
    for layer in range(config["num_hidden_layers"]):
        for part in ("self_attn.q_proj", "self_attn.o_proj", "mlp.down_proj", "input_layernorm"):
            if f"model.layers.{layer}.{part}.weight" not in names:
                raise UserError(f"{path}: no weights for {part} of layer {layer}", "get it again")
