"""Load a model folder into memory, ready for this machine's processor."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx.nn as nn

from minialign import cpu
from minialign.models.adapter import load_adapter, resolve_adapter
from minialign.models.layout import Fetching
from minialign.models.module import fingerprint, load_module
from minialign.models.sources.fetch import ensure
from minialign.models.tokens.tokenizer import Tokenizer


@dataclass
class Model:
    """A loaded model: a stock mlx_lm module after ``cpu.prepare``, its tokenizer, its identity."""

    name: str
    path: Path
    module: nn.Module
    tokenizer: Tokenizer
    config: dict[str, Any]
    fingerprint: str  # of weights and config


def load(
    model: str,
    adapter: str | Path | None = None,
    progress: Fetching | None = None,
) -> Model:
    """Load a model by name, hub id, folder or GGUF file, fetching it when absent.

    ``adapter`` is a run's name or folder, or an adapter's folder; ``progress`` is called with
    (what, done, total) while the model is fetched.

    Raises:
        UserError: not to be had, damaged, or of an architecture mlx_lm does not have.
    """
    path = ensure(model, progress)
    tokenizer = Tokenizer.load(path)
    module, config = load_module(path)
    cpu.activate()
    cpu.prepare(module)
    if adapter is not None:
        load_adapter(module, resolve_adapter(adapter))
    mx.eval(module.parameters())
    return Model(model, path, module, tokenizer, config, fingerprint(path))
