"""Load a model folder into memory, ready for this machine's processor."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx.nn as nn

from minialign import cpu
from minialign.models.adapter import load_adapter, resolve_adapter
from minialign.models.control import Control, Controlled
from minialign.models.control import read as read_control
from minialign.models.module import fingerprint, load_module
from minialign.models.sources.fetch import ensure
from minialign.models.tokens.tokenizer import Tokenizer
from minialign.progress import Tell


@dataclass
class Model:
    """A loaded model: a stock mlx_lm module after ``cpu.prepare``, its tokenizer, its identity."""

    name: str
    path: Path
    module: nn.Module
    tokenizer: Tokenizer | Controlled
    config: dict[str, Any]
    fingerprint: str  # of weights and config

    def put_control(self, adapter: Path) -> Control | None:
        """Put the control text of an adapter's folder, if it has one, into every prompt that the
        tokenizer renders from now on."""
        words = read_control(adapter)
        if words:
            self.tokenizer = Controlled(self.tokenizer, words)
        return words


def load(model: str, adapter: str | Path | None = None, progress: Tell | None = None) -> Model:
    """Load a model by name, hub id, folder or GGUF file, fetching it when absent.

    ``adapter`` is a run's name or folder, or an adapter's folder, whose control text, if it has
    one, then stands in every prompt; ``progress`` is called with (what, done, total) while the
    model is fetched.

    Raises:
        UserError: not to be had, damaged, or of an architecture mlx_lm does not have.
    """
    path = ensure(model, progress)
    tokenizer = Tokenizer.load(path)
    module, config = load_module(path)
    cpu.activate()
    cpu.prepare(module)
    loaded = Model(model, path, module, tokenizer, config, fingerprint(path))
    if adapter is not None:
        folder = resolve_adapter(adapter)
        load_adapter(module, folder)
        loaded.put_control(folder)
    mx.eval(module.parameters())
    return loaded
