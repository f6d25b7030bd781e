"""A model's folder becomes a module: weights, head, fingerprint."""

import glob
import hashlib
import json
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx.nn as nn

from minialign import home
from minialign.durable import read_object
from minialign.errors import UserError
from minialign.models.layout import sha256
from minialign.models.weights_file import check_folder, read_config


def load_module(path: Path) -> tuple[nn.Module, dict[str, Any]]:
    """The module of a model folder, weights not yet read, and its config. No code of the model's
    is run.

    Raises:
        UserError: damaged files, or an architecture mlx_lm does not have.
    """
    from mlx_lm.utils import load_model  # mlx_lm takes 2 s to import

    check_folder(path)
    try:
        with _escape_wildcards(path) as safe:
            module, config = load_model(safe, lazy=True, trust_remote_code=False)
    except FileNotFoundError as reason:
        raise UserError(f"{path}: {reason}", "a model folder needs model*.safetensors") from None
    except (ValueError, KeyError, TypeError, AttributeError, RuntimeError) as reason:
        raise _explain(path, reason) from reason
    return module.eval(), config


@contextmanager
def _escape_wildcards(path: Path) -> Iterator[Path]:
    """``path``, or a link to it when it has letters that mlx_lm would take for a pattern."""
    if glob.escape(str(path)) == str(path):
        yield path
        return
    with tempfile.TemporaryDirectory() as folder:
        link = Path(folder) / "model"
        link.symlink_to(path.resolve(), target_is_directory=True)
        yield link


def _explain(path: Path, reason: Exception) -> UserError:
    text = " ".join(str(reason).split())
    try:
        kind = read_config(path).get("model_type")
    except (OSError, ValueError, AttributeError):
        kind = None
    if "not supported" in text or isinstance(reason, AttributeError):
        fix = "supported is what mlx_lm supports: llama, mistral, qwen2, qwen3, gemma3, phi3, …"
        return UserError(f"{path}: models of type {kind!r} are not supported", fix)
    if "custom module" in text:
        return UserError(f"{path}: this model brings its own code, which is never run here")
    if "safetensor" in text.lower() or isinstance(reason, RuntimeError):
        return UserError(f"{path}: damaged weights: {text[:300]}", "get the model again")
    if isinstance(reason, KeyError | TypeError):
        return UserError(f"{path / 'config.json'}: it lacks or has wrong values: {text[:300]}")
    return UserError(f"{path}: weights and config do not fit together: {text[:300]}")


class TiedHead(nn.Module):
    """An embedding used as the output layer."""

    def __init__(self, embedding: nn.Module):
        super().__init__()
        self.embedding = embedding

    def __call__(self, hidden: mx.array) -> mx.array:
        """Hidden (…, D) to logits (…, V)."""
        return self.embedding.as_linear(hidden)


def split_head(module: nn.Module) -> tuple[Any, Any] | None:
    """(backbone, head): ``backbone(ids, cache=None)`` gives the final hidden (B, T, D) and
    ``head`` maps hidden to logits. None when the logits are not ``head(hidden)`` (soft-capping,
    scaling…), which is tried on a few tokens."""
    owner = getattr(module, "language_model", module)
    backbone = getattr(owner, "model", None)
    if backbone is None:
        return None
    head = getattr(owner, "lm_head", None)
    if head is None:
        embedding = getattr(backbone, "embed_tokens", None)
        if embedding is None or not hasattr(embedding, "as_linear"):
            return None
        head = TiedHead(embedding)
    probe = mx.array([[0, 1, 2, 3]])
    try:
        logits, ours = module(probe), head(backbone(probe))
    except (TypeError, ValueError, AttributeError):
        return None
    if logits.shape != ours.shape or not mx.allclose(logits, ours, rtol=1e-3, atol=1e-3).item():
        return None
    return backbone, head


def fingerprint(path: Path) -> str:
    """SHA-256, first 16 digits, of config and weights; remembered by size and time of the files."""
    files = sorted(filter(Path.exists, [*path.glob("model*.safetensors"), path / "config.json"]))
    stamp = [[f.name, f.stat().st_size, f.stat().st_mtime_ns] for f in files]
    memory = home.home() / "cache" / "fingerprints.json"
    try:
        known = read_object(memory)
    except (OSError, ValueError):
        known = {}
    entry = known.get(str(path.resolve()))
    if entry and entry.get("files") == stamp:
        return entry["fingerprint"]
    digests = b"".join(bytes.fromhex(sha256(file)) for file in files)
    value = hashlib.sha256(digests).hexdigest()[:16]
    known[str(path.resolve())] = {"files": stamp, "fingerprint": value}
    try:
        part = home.folder("cache") / f"fingerprints.{id(known)}.part"
        part.write_text(json.dumps(known, indent=1), encoding="utf-8")
        part.replace(memory)
    except OSError:
        pass  # a read-only home: it is computed again next time
    return value
