"""What tells two sets of weights apart: a digest of a model and its adapter."""

import hashlib

import mlx.core as mx
import numpy as np

from minialign.engine import Engine
from minialign.engine.open import base_of
from minialign.models import adapter as adapters
from minialign.models import control
from minialign.models.control import Controlled
from minialign.models.module import fingerprint
from minialign.models.names import DEFAULT
from minialign.models.sources.fetch import ensure
from minialign.models.tokens.tokenizer import Tokenizer
from minialign.progress import Tell


def weights_of(model: str | None, adapter: str | None, progress: Tell | None = None) -> list[str]:
    """What tells the answers of ``open_engine(model, adapter)`` from another's: its weights as they
    are on disk, its template, its control text. The model is fetched, but not loaded.

    Raises:
        UserError: there is no such model or adapter.
    """
    folder = adapters.resolve_adapter(adapter) if adapter is not None else None
    path = ensure(model or base_of(adapter) or DEFAULT, progress)
    template, adapted, words = Tokenizer.load(path).template_hash, "", None
    if folder is not None:
        adapted = _hash(
            adapters.load_arrays(folder / adapters.WEIGHTS), adapters.read_lora(folder).scale
        )
        words = control.read(folder)
    return [fingerprint(path), adapted, repr(words), template]


def weights_of_engine(engine: Engine) -> list[str]:
    """What ``weights_of`` says, of an engine whose adapter may be in training."""
    tokenizer, module = engine.tokenizer, engine.model.module
    words = tokenizer.control if isinstance(tokenizer, Controlled) else None
    scales = [part.scale for part in adapters.adapter_modules(module)]
    adapted = _hash(adapters.adapter_weights(module), scales[0]) if scales else ""
    return [engine.model.fingerprint, adapted, repr(words), tokenizer.template_hash]


def _hash(adapter: dict[str, mx.array], scale: float) -> str:
    digest = hashlib.sha256(f"{float(scale)}".encode())
    for name, value in sorted(adapter.items()):
        digest.update(name.encode() + np.array(value.astype(mx.float32)).tobytes())
    return digest.hexdigest()
