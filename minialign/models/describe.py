"""What is known of a model: from its folder when it is here, else from the catalogue."""

from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from minialign import cpu
from minialign.errors import UserError, nearest
from minialign.models import names, weights_file
from minialign.models.library import Installed, folder_bytes, installed
from minialign.models.sources.fetch import find, is_hub_id
from minialign.models.tokens.tokenizer import Tokenizer

SIZES = ("params", "disk_bytes", "run_bytes", "train_bytes")


def overview() -> list[dict[str, Any]]:
    """One row a model: the named ones, then those that were imported or pulled by hub id."""
    known = names.catalog()
    here = {entry.name: entry for entry in installed()}
    others = {name: names.Name(name, here[name].source) for name in here if name not in known}
    rows = []
    for name, named in (known | others).items():
        row = asdict(_here(named)) | {"installed": name in here, "path": None}
        rows.append(row | (_sizes(here[name], named) if name in here else {}))
    return rows


def _here(named: names.Name) -> names.Name:
    """The model with the memory that it takes on this machine."""
    return names.with_memory(named, cpu.kept_bits())


def _look_into(path: Path, named: names.Name) -> tuple[names.Name, dict[str, Any]]:
    """(a model that is in a folder, by what its files say; its config)."""
    config = weights_file.read_config(path)
    stored = replace(
        named,
        params=weights_file.parameters(path),
        disk_bytes=folder_bytes(path),
        bits=(config.get("quantization") or {}).get("bits"),
    )
    return _here(stored), config


def _sizes(entry: Installed, named: names.Name) -> dict[str, Any]:
    values: dict[str, Any] = {"path": str(entry.path), "disk_bytes": entry.disk_bytes}
    try:
        stored, _ = _look_into(entry.path, named)
    except (UserError, OSError, ValueError):  # damaged: listed, so that it can be removed
        return values | {"note": "damaged: remove it and get it again"}
    return values | {key: getattr(stored, key) for key in ("params", "run_bytes", "train_bytes")}


def describe(model: str) -> dict[str, Any]:
    """Everything about a model, as one JSON object.

    Raises:
        UserError: neither a known name nor here; damaged.
    """
    known = names.catalog().get(model)
    path = find(model)
    if path is None and known is None:
        everything = {*names.catalog(), *(entry.name for entry in installed())}
        fix = "minialign models list shows the names"
        if is_hub_id(model):
            fix = f"minialign models pull {model}"
        raise UserError(f"the model {model!r} is not here: {nearest(model, everything)}", fix)
    facts: dict[str, Any] = {"name": model, "installed": path is not None}
    if known is not None:
        facts |= {"source": known.source, "note": known.note}
    if path is None:
        assert known is not None
        there = _here(known)
        return facts | {key: getattr(there, key) for key in ("bits", *SIZES)}
    weights_file.check_folder(path)
    entry = next((one for one in installed() if one.path == path), None)
    if entry is not None:
        told = [key for key in ("revision", "license", "types", "time") if entry.record.get(key)]
        facts |= {"source": entry.source} | {key: entry.record[key] for key in told}
    stored, config = _look_into(path, known or names.Name(model, ""))
    text = config.get("text_config") or config
    tokenizer = Tokenizer.load(path)
    ids = sorted(tokenizer.eos_ids)
    return facts | {
        "path": str(path),
        "architecture": config.get("model_type"),
        "bits": stored.bits,
        "group_size": (config.get("quantization") or {}).get("group_size"),
        **{key: getattr(stored, key) for key in SIZES},
        "layers": text.get("num_hidden_layers"),
        "hidden_size": text.get("hidden_size"),
        "heads": text.get("num_attention_heads"),
        "kv_heads": text.get("num_key_value_heads"),
        "context": text.get("max_position_embeddings"),
        "vocabulary": tokenizer.vocab_size,
        "end_tokens": [tokenizer.fast.id_to_token(index) for index in ids],
        "chat_template": tokenizer.template is not None,
    }
