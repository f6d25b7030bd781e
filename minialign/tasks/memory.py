"""How much memory a training run will need, before it starts, and what to change to make it fit."""

import dataclasses
import os
import resource
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import mlx.core as mx
import mlx.nn as nn

from minialign import cpu, packing
from minialign.batch import Example
from minialign.errors import UserError
from minialign.forward import WORTH
from minialign.methods import Method
from minialign.models.adapter import Lora, named_arrays
from minialign.models.load import Model
from minialign.tasks.reference import TOKENS as REFERENCE_TOKENS
from minialign.tasks.settings import Settings

FLOAT = 4
# The interpreter, MLX and the tokenizer, before any weight is loaded.
PROCESS = 150e6
# MLX's CPU backend runs ahead: the temporaries of about this many blocks exist at once.
AT_WORK = 4


@dataclass(frozen=True)
class Need:
    """Bytes: the weights as they are in memory, the adapter with its optimizer, the activations."""

    weights: float
    adapter: float
    activations: float

    @property
    def total(self) -> float:
        """The peak of the process."""
        return PROCESS + self.weights + self.adapter + self.activations


@dataclass(frozen=True)
class _Shape:
    """What the formulas read of a model's config."""

    hidden: int
    ffn: int
    kv: int  # width of the keys of all heads, and of the values
    heads: int
    layers: int
    vocabulary: int

    @staticmethod
    def of(model: Model) -> "_Shape":
        config = {**model.config, **(model.config.get("text_config") or {})}
        hidden, heads = config["hidden_size"], config["num_attention_heads"]
        head = config.get("head_dim") or hidden // heads
        return _Shape(
            hidden=hidden,
            ffn=config.get("intermediate_size") or 4 * hidden,
            kv=head * (config.get("num_key_value_heads") or heads),
            heads=heads,
            layers=config["num_hidden_layers"],
            vocabulary=config["vocab_size"],
        )


@dataclass(frozen=True)
class _Tokens:
    """Sizes of the widest batch, padded."""

    all: int  # tokens that a forward pass computes
    prompts: int  # those of them whose keys and values are recorded; 0: prompts are not shared
    longest: int  # a prompt with its response
    trained: int  # tokens whose log-probs are taken


def _padded(length: int) -> int:
    return -(-length // 16) * 16


def _tokens(examples: Sequence[Example], settings: Settings, method: Method) -> _Tokens:
    widest = sorted(examples, key=lambda example: example.length)[-settings.batch_size :]
    longest = _padded(widest[-1].length)
    rows = sum(len(example.responses) for example in widest)
    prompts = len(widest) * _padded(max(len(example.prompt) for example in widest))
    answers = rows * _padded(max(len(r) for example in widest for r in example.responses))
    trained = 0 if method.reward_head else sum(sum(m) for one in widest for m in one.masks)
    packed = sum(
        len(one.prompt) + sum(map(len, one.responses)) if settings.share_prompts else one.tokens
        for one in widest
    )
    if cpu.native() and packed <= packing.MOST:  # one row without padding
        return _Tokens(packed, 0, longest, trained)
    together = prompts + answers
    if settings.share_prompts and 1 - together / (rows * longest) >= WORTH:
        return _Tokens(together, prompts, longest, trained)
    return _Tokens(rows * longest, 0, longest, trained)


def _adapter_parameters(module: nn.Module, lora: Lora) -> int:
    """How many numbers are trained: both factors of each adapted layer, and DoRA's magnitudes."""
    adapted = module.layers if lora.num_layers <= 0 else module.layers[-lora.num_layers :]
    parts = [item for layer in adapted for item in layer.named_modules()]
    total = 0
    for name, part in [*parts, *(module.named_modules() if lora.keys else [])]:
        if isinstance(part, nn.Linear | nn.QuantizedLinear) and (
            lora.keys is None or name in lora.keys
        ):
            outputs, inputs = part.weight.shape
            if isinstance(part, nn.QuantizedLinear):
                inputs = part.scales.shape[1] * part.group_size
            total += lora.rank * (inputs + outputs) + (outputs if lora.kind == "dora" else 0)
    return total


def _block(shape: _Shape, longest: int) -> float:
    """Bytes a token that one adapted block keeps for the backward pass."""
    # Kept are inputs of what has a derivative: of both norms and both residual sums, of the
    # projections, of attention, and of the SwiGLU, each once.
    numbers = 6.0 * shape.hidden + 2 * shape.kv + 3 * shape.ffn
    if not cpu.native():
        # MLX's own graph also keeps scaled and transposed copies and the attention weights.
        numbers += 3 * shape.hidden + shape.heads * longest
    return numbers * FLOAT


def _training(shape: _Shape, tokens: _Tokens, settings: Settings, lora: Lora) -> float:
    """Bytes of activations at the peak of a step."""
    adapted = shape.layers if lora.num_layers <= 0 else min(lora.num_layers, shape.layers)
    block = tokens.all * _block(shape, tokens.longest)
    if settings.grad_checkpoint:  # each block's input, and the recorded prompts'
        block_input = tokens.all * shape.hidden + tokens.prompts * 2 * shape.kv
        kept: float = adapted * block_input * FLOAT
    else:
        kept = adapted * block
    return kept + min(AT_WORK, shape.layers) * block + _head(shape, tokens, gradient=True)


def _head(shape: _Shape, tokens: _Tokens, gradient: bool) -> float:
    """Bytes for the log-probs of the trained tokens."""
    if cpu.native():  # never holds logits: the derivative by the hidden states alone
        return tokens.trained * shape.hidden * FLOAT * gradient
    # Chunks of logits (with a gradient: also their softmax and its copy); MLX runs ahead here too.
    return tokens.trained * shape.vocabulary * FLOAT * (3 if gradient else 1)


def _reading(shape: _Shape, tokens: _Tokens, there: int, method: Method) -> float:
    """Bytes of activations of the passes without a gradient: evaluation and the reference.
    ``there`` are the tokens of all rows: a batch is not larger than that."""
    times = 4.0  # an evaluation's batches are four times as large
    if method.reference:
        times = max(times, REFERENCE_TOKENS / tokens.all)
    times = min(times, max(there / tokens.all, 1.0))
    block = tokens.all * _block(shape, tokens.longest)
    return times * (block + _head(shape, tokens, gradient=False))


def estimate(
    model: Model, examples: Sequence[Example], settings: Settings, lora: Lora, method: Method
) -> Need:
    """What a run with these settings needs at its widest batch."""
    shape = _Shape.of(model)
    weights = sum(value.nbytes for value in named_arrays(model.module.parameters()).values())
    tokens = _tokens(examples, settings, method)
    adapter = FLOAT * _adapter_parameters(model.module, lora)
    # While activations are gone, an update holds gradients, their clipped copies, and the old next
    # to the new weights and averages: six times the adapter beside the three that stay.
    activations = max(
        _training(shape, tokens, settings, lora),
        _reading(shape, tokens, sum(example.tokens for example in examples), method),
        6 * adapter,
    )
    return Need(weights, 3 * adapter, activations)


def available() -> float:
    """Bytes of memory that a new process can have."""
    try:
        with open("/proc/meminfo", encoding="ascii") as file:
            for line in file:
                if line.startswith("MemAvailable:"):
                    return int(line.split()[1]) * 1024.0
    except OSError:
        pass
    info = mx.device_info() if mx.metal.is_available() else {}
    if limit := info.get("max_recommended_working_set_size"):
        return float(limit)
    return 0.75 * os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def peak() -> int:
    """Most bytes that this process ever held."""
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def describe(need: Need) -> str:
    """One line for people."""
    return (
        f"memory: about {need.total / 1e9:.1f} GB (weights {need.weights / 1e9:.2f}, "
        f"activations {need.activations / 1e9:.2f}, adapter {need.adapter / 1e9:.2f}), "
        f"{available() / 1e9:.1f} GB free"
    )


def refuse(
    need: Need,
    model: Model,
    examples: Sequence[Example],
    settings: Settings,
    lora: Lora,
    method: Method,
) -> None:
    """Raise a UserError when a run cannot fit, with a smaller setting that does."""
    limit = settings.memory_limit * 1e9 if settings.memory_limit else available()
    limit += need.weights + PROCESS if settings.memory_limit is None else 0.0  # loaded already
    if need.total <= limit:
        return
    smaller: list[tuple[str, dict[str, Any]]] = [
        ("--grad-checkpoint", {"grad_checkpoint": True}),
        ("--grad-checkpoint --batch-size 1", {"grad_checkpoint": True, "batch_size": 1}),
    ]
    for length in (512, 256, 128):
        if length < settings.max_seq_length:
            flags = f"--grad-checkpoint --batch-size 1 --max-seq-length {length}"
            changes: dict[str, Any] = {
                "grad_checkpoint": True,
                "batch_size": 1,
                "max_seq_length": length,
            }
            smaller.append((flags, changes))
    hint = "use a smaller model: minialign models list"
    for flags, changes in smaller:
        changed = dataclasses.replace(settings, **dict(changes))
        fitting = [example for example in examples if example.length <= changed.max_seq_length]
        if fitting and estimate(model, fitting, changed, lora, method).total <= limit:
            hint = f"this fits: {flags}"
            break
    raise UserError(
        f"this run needs about {need.total / 1e9:.1f} GB and {limit / 1e9:.1f} GB are there", hint
    )
