"""What is known of a model: from its folder when it is here, else from the catalogue."""

import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from minialign import cpu
from minialign.errors import UserError, nearest
from minialign.models import names, weights_file
from minialign.models.sources import fetch
from minialign.models.tokens.tokenizer import Tokenizer


def overview() -> list[dict[str, Any]]:
    """One row a model: the named ones, then those that were imported or pulled by hub id."""
    known = names.catalog()
    here = {entry.name: entry for entry in fetch.installed()}
    rows = []
    for name, named in known.items():
        row = asdict(_here(named)) | {"installed": name in here, "path": None}
        if name in here:
            row |= _sizes(here[name], named)
        rows.append(row)
    for name, entry in here.items():
        if name not in known:
            named = names.Name(name, entry.source)
            rows.append(asdict(named) | {"installed": True} | _sizes(entry, named))
    return rows


def _here(named: names.Name) -> names.Name:
    """The model with the memory that it takes on this machine."""
    return names.with_memory(named, cpu.kept_bits())


def _found(path: Path, named: names.Name) -> tuple[names.Name, dict[str, Any]]:
    """(a model that is in a folder, by what its files say; its config)."""
    config = json.loads((path / "config.json").read_text(encoding="utf-8"))
    stored = replace(
        named,
        params=weights_file.parameters(path),
        disk_bytes=fetch.folder_bytes(path),
        bits=(config.get("quantization") or {}).get("bits"),
    )
    return _here(stored), config


def _sizes(entry: fetch.Installed, named: names.Name) -> dict[str, Any]:
    values: dict[str, Any] = {"path": str(entry.path), "disk_bytes": entry.disk_bytes}
    try:
        found, _ = _found(entry.path, named)
    except (UserError, OSError, ValueError):  # damaged: listed, so that it can be removed
        return values | {"note": "damaged: remove it and get it again"}
    return values | {key: getattr(found, key) for key in ("params", "run_bytes", "train_bytes")}


def describe(model: str) -> dict[str, Any]:
    """Everything about a model, as one JSON object.

    Raises:
        UserError: neither a known name nor here; damaged.
    """
    known = names.catalog().get(model)
    path = fetch.find(model)
    if path is None and known is None:
        everything = {*names.catalog(), *(entry.name for entry in fetch.installed())}
        raise UserError(
            f"the model {model!r} is not here: {nearest(model, everything)}",
            f"minialign models pull {model}"
            if fetch.is_hub_id(model)
            else "minialign models list shows the names",
        )
    facts: dict[str, Any] = {"name": model, "installed": path is not None}
    if known is not None:
        facts |= {"source": known.source, "note": known.note}
    if path is None:
        assert known is not None
        there = _here(known)
        return facts | {
            key: getattr(there, key)
            for key in ("bits", "params", "disk_bytes", "run_bytes", "train_bytes")
        }
    weights_file.check_folder(path)
    entry = next((found for found in fetch.installed() if found.path == path), None)
    if entry is not None:
        facts |= {"source": entry.source} | {
            key: entry.record[key]
            for key in ("revision", "license", "types", "time")
            if entry.record.get(key)
        }
    found, config = _found(path, known or names.Name(model, ""))
    text = config.get("text_config") or config
    tokenizer = Tokenizer.load(path)
    ids = sorted(tokenizer.eos_ids)
    return facts | {
        "path": str(path),
        "architecture": config.get("model_type"),
        "bits": found.bits,
        "group_size": (config.get("quantization") or {}).get("group_size"),
        "params": found.params,
        "disk_bytes": found.disk_bytes,
        "run_bytes": found.run_bytes,
        "train_bytes": found.train_bytes,
        "layers": text.get("num_hidden_layers"),
        "hidden_size": text.get("hidden_size"),
        "heads": text.get("num_attention_heads"),
        "kv_heads": text.get("num_key_value_heads"),
        "context": text.get("max_position_embeddings"),
        "vocabulary": tokenizer.vocab_size,
        "end_tokens": [tokenizer.fast.id_to_token(index) for index in ids],
        "chat_template": tokenizer.template is not None,
    }
