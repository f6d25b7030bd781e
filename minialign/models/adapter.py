"""LoRA adapters in mlx-lm's own format, to the letter.

``adapters.safetensors`` holds only ``*.lora_a``, ``*.lora_b`` (and ``*.m`` for DoRA), and
``adapter_config.json`` what mlx-lm's ``load_adapters`` reads, so that ``mlx_lm.generate``,
``mlx_lm.fuse`` and ``mlx_lm.server`` use a run's folder as it is.
"""

import contextlib
import hashlib
import math
import operator
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx.nn as nn
from mlx.utils import tree_flatten

from minialign import cpu
from minialign.durable import read_object, to_disk, write_json
from minialign.errors import UserError
from minialign.run_folder import Run

LEAVES = ("lora_a", "lora_b", "m")
WEIGHTS, CONFIG = "adapters.safetensors", "adapter_config.json"


@dataclass(frozen=True)
class Lora:
    """Which low-rank updates to train. ``scale`` is alpha / rank; rsLoRA (Kalajdzievski 2023,
    arXiv:2312.03732) makes it alpha / sqrt(rank)."""

    kind: str = "lora"  # or "dora"
    rank: int = 8
    scale: float = 2.0
    dropout: float = 0.0
    num_layers: int = -1  # the last n blocks; -1: all
    keys: tuple[str, ...] | None = None  # module names within a block; None: every linear layer
    rslora: bool = False

    def effective_scale(self) -> float:
        """The factor on the low-rank product, as it is stored in the adapter's config."""
        return self.scale * math.sqrt(self.rank) if self.rslora else self.scale


def _parameters(lora: Lora) -> dict[str, Any]:
    own = {"rank": lora.rank, "scale": lora.effective_scale(), "dropout": lora.dropout}
    return own if lora.keys is None else {**own, "keys": list(lora.keys)}


def check_lora(module: nn.Module, lora: Lora) -> None:
    """Raise a UserError when ``keys`` name no layer, or there are fewer blocks than
    ``num_layers``."""
    blocks = len(module.layers)
    if lora.num_layers > blocks:
        raise UserError(f"num_layers = {lora.num_layers}, but the model has {blocks} layers")
    if lora.keys is not None:
        parts = [item for layer in module.layers for item in layer.named_modules()]
        known = {name for name, part in parts if isinstance(part, nn.Linear | nn.QuantizedLinear)}
        for key in lora.keys:
            if key not in known and key not in dict(module.named_modules()):
                hint = f"known: {', '.join(sorted(known))}"
                raise UserError(f"keys: no layer is named {key!r}", hint)


def attach(module: nn.Module, lora: Lora) -> None:
    """Freeze the model and add fresh adapters to it, in place (the update starts at zero). Dropout
    is off until the model's ``train()``. Raises what ``check_lora`` does."""
    from mlx_lm.tuner.utils import linear_to_lora_layers  # mlx_lm takes 2 s to import

    check_lora(module, lora)
    module.freeze()
    linear_to_lora_layers(module, lora.num_layers, _parameters(lora), use_dora=lora.kind == "dora")
    cpu.adapted(module)
    module.eval()


def named_arrays(tree: Any) -> dict[str, mx.array]:
    """The arrays of a tree of parameters by their dotted names."""
    return dict(tree_flatten(tree))  # type: ignore[arg-type]


def adapter_weights(module: nn.Module) -> dict[str, mx.array]:
    """The adapter's arrays by name."""
    arrays = named_arrays(module.trainable_parameters())
    return {name: value for name, value in arrays.items() if name.rsplit(".", 1)[-1] in LEAVES}


def save_weights(path: Path, weights: dict[str, mx.array]) -> None:
    """Write a safetensors file so that it is never seen half-written."""
    draft = path.with_name(f".{path.stem}.tmp.safetensors")
    mx.save_safetensors(str(draft), weights, metadata={"format": "mlx"})
    to_disk(draft)
    os.replace(draft, path)


def load_arrays(path: Path) -> dict[str, mx.array]:
    """The arrays of a safetensors file by name.

    Raises:
        UserError: when it is missing or damaged.
    """
    try:
        return dict(mx.load(str(path)))  # type: ignore[arg-type]
    except (RuntimeError, ValueError, OSError) as reason:
        raise UserError(f"{path} cannot be read: {reason}") from None


def save_adapter(folder: Path, module: nn.Module, lora: Lora, base: str) -> None:
    """Write the adapter and its config into ``folder``; ``base`` is the model's name or path."""
    config = {
        "fine_tune_type": lora.kind,
        "num_layers": len(module.layers) if lora.num_layers <= 0 else lora.num_layers,
        "lora_parameters": _parameters(lora),
        "model": base,
    }
    save_weights(folder / WEIGHTS, adapter_weights(module))
    write_json(folder / CONFIG, config)


def resolve_adapter(name_or_path: str | Path) -> Path:
    """The folder of an adapter: a run by name, or any folder in mlx-lm's format.

    Raises:
        UserError: when there is none.
    """
    path = Path(name_or_path).expanduser()
    if not (path / CONFIG).exists():
        path = Run.open(name_or_path).path
    if not all((path / name).exists() for name in (WEIGHTS, CONFIG)):
        fix = f"train it further: minialign runs resume {path.name}"
        raise UserError(f"{path} has no adapter yet", fix)
    return path


def read_lora(folder: Path) -> Lora:
    """The ``Lora`` that an adapter folder was trained with.

    Raises:
        UserError: when its config is damaged, or of something that is no adapter.
    """
    try:
        config = read_object(folder / CONFIG)
        kind = config.get("fine_tune_type", "lora")
        parameters = config["lora_parameters"]
        keys = parameters.get("keys")
        lora = Lora(
            kind=kind,
            rank=operator.index(parameters["rank"]),
            scale=1.0 * parameters["scale"],
            dropout=1.0 * parameters.get("dropout", 0.0),
            num_layers=operator.index(config["num_layers"]),
            keys=None if keys is None else tuple(keys),
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as reason:
        fix = "it needs fine_tune_type (lora or dora), num_layers and lora_parameters"
        raise UserError(f"{folder / CONFIG} is no adapter config: {reason!r}", fix) from None
    if kind not in ("lora", "dora"):
        raise UserError(f"{folder}: fine_tune_type {kind!r}", "only lora and dora are adapters")
    return lora


def load_adapter(module: nn.Module, folder: Path) -> Lora:
    """Attach the adapter of ``folder`` to a bare model, in place; returns its settings.

    Raises:
        UserError: when it is damaged or belongs to a model of another shape.
    """
    lora = read_lora(folder)
    attach(module, lora)
    load_weights(module, folder / WEIGHTS)
    return lora


def load_weights(module: nn.Module, path: Path) -> None:
    """Put saved adapter arrays into the attached adapters.

    Raises:
        UserError: when names or shapes differ.
    """
    weights = load_arrays(path)
    expected = adapter_weights(module)
    other = "the adapter belongs to another base model"
    for name in sorted(set(expected) ^ set(weights)):
        where = "is not in the file" if name in expected else "is in no layer of this model"
        raise UserError(f"{path}: {name} {where}", other)
    for name, value in weights.items():
        if value.shape != (needed := expected[name].shape):
            said = f"{path}: {name} has shape {value.shape}, the model needs {needed}"
            raise UserError(said, other)
    module.load_weights(list(weights.items()), strict=False)
    mx.eval(module.trainable_parameters())


def adapter_modules(module: nn.Module) -> list[nn.Module]:
    """The layers that carry an adapter."""
    return [part for _, part in module.named_modules() if "lora_b" in part]


@contextlib.contextmanager
def adapter_off(module: nn.Module) -> Iterator[None]:
    """Within it the model is its base: the low-rank updates count for nothing.

    For LoRA the scale is set to 0; DoRA also renormalises, so there ``m`` is the base's own norms.
    """
    changed: list[tuple[nn.Module, float, mx.array | None]] = []
    try:
        for part in adapter_modules(module):
            magnitude = part.get("m")
            changed.append((part, part.scale, magnitude))
            part.scale = 0.0
            if magnitude is not None:
                weight = part._dequantized_weight()
                part.m = mx.linalg.norm(weight.astype(mx.float32), axis=1).astype(magnitude.dtype)
        yield
    finally:
        for part, scale, magnitude in changed:
            part.scale = scale
            if magnitude is not None:
                part.m = magnitude


def adapter_hash(folder: Path | None) -> str:
    """A hash of an adapter's files; "" for none."""
    if folder is None:
        return ""
    files = (folder / name for name in (WEIGHTS, CONFIG))
    return hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()
