"""How much memory a training run will need, before it starts, and what to change to make it fit."""

import dataclasses
import os
import resource
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import mlx.core as mx

from minialign.batch import Example
from minialign.errors import UserError
from minialign.methods import Method
from minialign.models.adapter import Lora, named_arrays
from minialign.models.load import Model
from minialign.tasks.settings import Settings

FLOAT = 4
# The interpreter, MLX and the tokenizer, before any weight is loaded.
PROCESS = 150e6


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


def _adapter_parameters(config: dict, lora: Lora) -> float:
    """Parameters of a low-rank update of every linear layer of the adapted blocks (Llama's)."""
    hidden, ffn = config["hidden_size"], config.get("intermediate_size", 4 * config["hidden_size"])
    heads = config["num_attention_heads"]
    kv = hidden * config.get("num_key_value_heads", heads) / heads
    layers = config["num_hidden_layers"]
    adapted = layers if lora.num_layers <= 0 else min(lora.num_layers, layers)
    ends = {"q": 2 * hidden, "k": hidden + kv, "v": hidden + kv, "o": 2 * hidden}
    ends |= {"gate": hidden + ffn, "up": hidden + ffn, "down": hidden + ffn}
    if lora.keys is not None:
        names = [key.rsplit(".", 1)[-1].removesuffix("_proj") for key in lora.keys]
        ends = {name: ends.get(name, hidden + ffn) for name in names}
    return adapted * lora.rank * sum(ends.values())


def _activations(
    config: dict, tokens: int, longest: int, settings: Settings, lora: Lora, trained: int
) -> float:
    """Bytes that a backward pass keeps for ``tokens`` (padded) tokens."""
    hidden, ffn = config["hidden_size"], config.get("intermediate_size", 4 * config["hidden_size"])
    heads, layers = config["num_attention_heads"], config["num_hidden_layers"]
    adapted = layers if lora.num_layers <= 0 else min(lora.num_layers, layers)
    # A block keeps about ten vectors as wide as the hidden state, five as wide as the MLP, and the
    # attention weights of each head; two are at work while the others wait.
    block = tokens * (10 * hidden + 5 * ffn + 2 * heads * longest) * FLOAT
    kept = (
        tokens * hidden * FLOAT * layers + 2 * block
        if settings.grad_checkpoint
        else (adapted * block)
    )
    # Logits of one chunk, with their softmax, and the derivative of each trained token.
    head = 3 * min(trained, 512) * config["vocab_size"] * FLOAT + 2 * trained * hidden * FLOAT
    return kept + head


def estimate(
    model: Model, examples: Sequence[Example], settings: Settings, lora: Lora, method: Method
) -> Need:
    """What a run with these settings needs at its widest batch."""
    config = {**model.config, **model.config.get("text_config", {})}
    parameters = named_arrays(model.module.parameters())
    weights = sum(value.nbytes for value in parameters.values())
    widest = sorted(examples, key=lambda example: example.length)[-settings.batch_size :]
    longest = widest[-1].length
    rows = sum(len(example.responses) for example in widest)
    tokens = rows * longest
    if settings.share_prompts and rows > len(widest):
        answers = max(len(r) for example in widest for r in example.responses)
        prompts = max(len(example.prompt) for example in widest)
        tokens = min(tokens, len(widest) * prompts + rows * answers)
    trained = (
        0 if method.reward_head else sum(sum(mask) for example in widest for mask in example.masks)
    )
    # Weights, gradients and the optimizer's two averages, in float32, and a copy being written.
    adapter = 5 * FLOAT * _adapter_parameters(config, lora)
    return Need(weights, adapter, _activations(config, tokens, longest, settings, lora, trained))


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
