"""Look into safetensors files without loading them: what they hold, and whether they are whole.

Format: 8 bytes with the length of a JSON header, the header, the data.
https://huggingface.co/docs/safetensors
"""

import json
import math
import struct
from pathlib import Path
from typing import Any

from minialign.errors import UserError


def read_header(path: Path) -> dict[str, dict[str, Any]]:
    """Array name: {"dtype", "shape", "data_offsets"} of a safetensors file.

    Raises:
        UserError: cut short or damaged.
    """
    again = "get the model again: this file is incomplete or damaged"
    size = path.stat().st_size
    with path.open("rb") as stream:
        start = stream.read(8)
        length = struct.unpack("<Q", start)[0] if len(start) == 8 else 0
        if not 0 < length <= min(size - 8, 100_000_000):
            raise UserError(f"{path}: not a safetensors file, or cut short ({size} bytes)", again)
        try:
            header = json.loads(stream.read(length))
            header.pop("__metadata__", None)
            end = max((entry["data_offsets"][1] for entry in header.values()), default=0)
        except (ValueError, KeyError, TypeError, IndexError, AttributeError):
            raise UserError(f"{path}: its header cannot be read", again) from None
    if 8 + length + end > size:
        raise UserError(f"{path}: {size} bytes, of {8 + length + end}", again)
    return header


def read_config(folder: Path) -> dict[str, Any]:
    """A model folder's ``config.json``."""
    return json.loads((folder / "config.json").read_text(encoding="utf-8"))


def is_whole(folder: Path) -> bool:
    """Whether a model folder has its config and all the weight files that its index names."""
    index = folder / "model.safetensors.index.json"
    if not (folder / "config.json").exists():
        return False
    if index.exists():
        try:
            names = set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values())
        except (ValueError, KeyError, AttributeError):
            return False
        return all((folder / name).exists() for name in names)
    return any(folder.glob("model*.safetensors"))


def check_folder(folder: Path) -> None:
    """Raise UserError unless ``folder`` is a model folder with all its weights."""
    if not (folder / "config.json").exists():
        fix = "a model folder holds config.json, model*.safetensors and a tokenizer"
        raise UserError(f"{folder}: there is no config.json in it", fix)
    files = sorted(folder.glob("model*.safetensors"))
    if not files:
        pickles = [*folder.glob("*.bin"), *folder.glob("*.pt"), *folder.glob("*.pth")]
        raise UserError(
            f"{folder}: there is no model*.safetensors in it"
            + (f", only {pickles[0].name}, a pickle, which can run code" if pickles else ""),
            "pickles are never read here: save the model as safetensors"
            " (save_pretrained(…, safe_serialization=True)), or find a safetensors version",
        )
    if not is_whole(folder):
        said = f"{folder}: weight files that model.safetensors.index.json names are missing"
        raise UserError(said, f"{len(files)} are here; get the model again")
    for file in files:
        read_header(file)


def parameters(folder: Path) -> int:
    """How many parameters a model folder has; a quantized one counts as before quantizing."""
    count = 0
    for file in sorted(folder.glob("model*.safetensors")):
        header = read_header(file)
        for name, entry in header.items():
            stem, _, leaf = name.rpartition(".")
            size = math.prod(entry["shape"])
            if leaf in ("scales", "biases") and f"{stem}.weight" in header:
                continue
            if leaf == "weight" and f"{stem}.scales" in header and entry["dtype"] == "U32":
                size = size * 32 // _bits(folder, stem)
            count += size
    return count


def _bits(folder: Path, module: str) -> int:
    quantization = read_config(folder).get("quantization", {})
    own = quantization.get(module)
    return int((own if isinstance(own, dict) else quantization).get("bits", 4))
