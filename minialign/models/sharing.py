"""A second model on the weights of a first: nothing is read again, and memory holds them once."""

from typing import Any

import mlx.nn as nn

from minialign.models.control import Controlled
from minialign.models.load import Model


def bare_copy(model: Model) -> Model:
    """Copy a model without its adapter: the modules are new and the arrays shared, so an adapter
    that is put on one is not on the other."""
    tokenizer: Any = model.tokenizer
    if isinstance(tokenizer, Controlled):
        tokenizer = tokenizer.tokenizer
    module = _twin(model.module, {}).eval()
    return Model(model.name, model.path, module, tokenizer, model.config, model.fingerprint)


def _twin(value: Any, made: dict[int, Any]) -> Any:
    """Copy a module or what a module holds, arrays shared; ``made`` has the copies so far, by
    id."""
    if isinstance(value, nn.Module):
        while "lora_b" in value:  # the layer behind an adapter
            value = value.linear if "linear" in value else value.embedding
        if id(value) not in made:
            made[id(value)] = twin = value.__class__.__new__(value.__class__)
            own = {k: set(v) if isinstance(v, set) else v for k, v in vars(value).items()}
            vars(twin).update(own)
            dict.update(twin, {key: _twin(part, made) for key, part in value.items()})
        return made[id(value)]
    if isinstance(value, list | tuple):
        return type(value)(_twin(part, made) for part in value)
    if type(value) is dict:
        return {key: _twin(part, made) for key, part in value.items()}
    return value
