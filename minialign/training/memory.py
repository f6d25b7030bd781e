"""How much memory a training run will need, before it starts, and what to change to make it fit.

Estimated is the peak of what the process has resident, which decides whether a run fits. What it
has before the first step, weights included, the system tells; what comes on top follows from
shapes.
"""

import dataclasses
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import psutil

from minialign import cpu
from minialign.errors import UserError
from minialign.learn import packing
from minialign.learn.batch import Example, round_up
from minialign.learn.forward import WORTH
from minialign.learn.selected_logps import CHUNK
from minialign.machine.hardware import peak as peak
from minialign.methods import Method
from minialign.models.adapter import Lora, named_arrays
from minialign.models.load import Model
from minialign.run_folder import flags
from minialign.training.reference_logps import TOKENS as REFERENCE_TOKENS
from minialign.training.settings import Settings

FLOAT = 4
# The process beside the weights where the system does not count these (on a GPU), and how much it
# grows in training: code that is first run then, the graph of a step.
PROCESS, GROWTH = 100e6, 22e6
# The temporaries of so many blocks exist at once (native kernels, MLX's own) in training, and in a
# pass without a gradient: the native ones wait for those before them, MLX's own are allocated up to
# a hundred operations ahead.
AHEAD, AHEAD_READING = (1.7, 2.5), (1.6, 1.0)
# Linux: arrays above this size are mapped one by one, and of what is allocated ahead only that is
# resident which was computed already; smaller ones lie in a heap, where gaps remain (these are the
# usual ones: of forty runs that were measured one had gaps of a third).
MAPPED, MAPPED_WITH_CHECKPOINT, COMPUTED, GAPS = 32 << 20, 1 << 20, 0.6, 1.05
# Copies of the adapter in a step: its weights, two averages, and those before the last update or
# later the gradient; in an update also those before, the gradient divided, the weights that come.
COPIES, COPIES_IN_UPDATE = 4, 7


@dataclass(frozen=True)
class Need:
    """Bytes of memory: of the process before training without the weights, of the weights as they
    are held, of the adapter with its optimizer, of the activations."""

    process: float
    weights: float
    adapter: float
    activations: float

    @property
    def total(self) -> float:
        """The peak of the process's resident memory."""
        return self.process + self.weights + self.adapter + self.activations


@dataclass(frozen=True)
class _Shape:
    """What the formulas read of a model's config and of its adapter."""

    hidden: int
    ffn: int
    kv: int  # width of the keys of all heads, and of the values
    heads: int
    layers: int
    vocabulary: int
    adapted: int  # blocks with an adapter, the last ones
    rank: int
    parameters: int  # of the adapter: both factors of each layer, and DoRA's magnitudes
    dora: bool
    decoded: int  # weights that DoRA decodes from 4 or 8 bits in a step

    @staticmethod
    def of(model: Model, lora: Lora) -> "_Shape":
        config = {**model.config, **(model.config.get("text_config") or {})}
        hidden, heads = config["hidden_size"], config["num_attention_heads"]
        head = config.get("head_dim") or hidden // heads
        layers = config["num_hidden_layers"]
        linears, dora = _linears(model.module, lora), lora.kind == "dora"
        return _Shape(
            hidden=hidden,
            ffn=config.get("intermediate_size") or 4 * hidden,
            kv=head * (config.get("num_key_value_heads") or heads),
            heads=heads,
            layers=layers,
            vocabulary=config["vocab_size"],
            adapted=layers if lora.num_layers <= 0 else min(lora.num_layers, layers),
            rank=lora.rank,
            parameters=sum(lora.rank * (n + m) + n * dora for n, m, _ in linears),
            dora=dora,
            decoded=sum(n * m for n, m, quantized in linears if dora and quantized),
        )


@dataclass(frozen=True)
class _Tokens:
    """Sizes of a batch as ``forward`` computes it."""

    all: int  # tokens that a forward pass computes
    prompts: int  # those of them whose keys and values are recorded; 0: prompts are not shared
    rows: int
    longest: int  # a prompt with its response
    trained: int  # tokens whose log-probs are taken
    mask: int  # bytes


def _tokens(batch: Sequence[Example], share: bool, method: Method) -> _Tokens:
    rows = sum(len(one.responses) for one in batch)
    longest = round_up(max(one.length for one in batch), 16)
    trained = 0 if method.reward_head else sum(sum(m) for one in batch for m in one.masks)
    apart = sum(one.tokens for one in batch)
    if cpu.native() and apart <= packing.MOST:  # one row without padding
        once = sum(len(one.prompt) + sum(map(len, one.responses)) for one in batch)
        count = once if share and 1 - once / apart >= WORTH else apart
        return _Tokens(count, 0, 1, longest, trained, 2 * count**2)  # MLX's and NumPy's
    prompts = len(batch) * round_up(max(len(one.prompt) for one in batch), 16)
    together = prompts + rows * round_up(max(len(r) for one in batch for r in one.responses), 16)
    if share and 1 - together / (rows * longest) >= WORTH:
        return _Tokens(together, prompts, rows, longest, trained, rows * longest**2)
    return _Tokens(rows * longest, 0, rows, longest, trained, longest**2)


def _linears(module: nn.Module, lora: Lora) -> list[tuple[int, int, bool]]:
    """(outputs, inputs, quantized) of each layer that gets an adapter."""
    adapted = module.layers if lora.num_layers <= 0 else module.layers[-lora.num_layers :]
    parts = [item for layer in adapted for item in layer.named_modules()]
    sizes = []
    for name, part in [*parts, *(module.named_modules() if lora.keys else [])]:
        if isinstance(part, nn.Linear | nn.QuantizedLinear) and (
            lora.keys is None or name in lora.keys
        ):
            outputs, inputs = part.weight.shape
            quantized = isinstance(part, nn.QuantizedLinear)
            if quantized:
                inputs = part.scales.shape[1] * part.group_size
            sizes.append((outputs, inputs, quantized))
    return sizes


def _block(shape: _Shape, tokens: _Tokens, kept: bool) -> list[tuple[float, int]]:
    """What one adapted block holds: how many numbers a token, in how wide arrays. ``kept``: only
    what waits for the backward pass."""
    # Inputs of what has a derivative: of both norms, of attention and its output, of the SwiGLU.
    numbers = [(4.0, shape.hidden), (2.0, shape.kv), (2.0, shape.ffn), (7.0, shape.rank)]
    native = cpu.native() and not shape.dora
    if not (kept and native):  # what the native LoRA makes again: norms and SwiGLU
        numbers += [(2.0, shape.hidden), (1.0, shape.ffn)]
    if not cpu.native():  # MLX's own graph also keeps the attention's weights, sigmoid and SiLU
        numbers += [(1.0, shape.heads * tokens.longest), (2.0, shape.ffn)]
    if shape.dora:  # what its magnitudes scale
        numbers += [(3.0, shape.hidden), (2.0, shape.kv), (2.0, shape.ffn)]
    if tokens.prompts:  # each response's row has its prompt's keys and values before its own
        numbers += [(2.0 * tokens.rows * tokens.longest / tokens.all, shape.kv)]
    return numbers


def _ahead(shape: _Shape, tokens: _Tokens, blocks: tuple[float, float], mapped: int) -> float:
    """Resident bytes of temporaries."""
    native = cpu.native() and not shape.dora
    sizes = [(n, FLOAT * tokens.all * width) for n, width in _block(shape, tokens, kept=False)]
    once = sum(n * size * (native or _resident_share(size, mapped)) for n, size in sizes)
    return min(blocks[0] if native else blocks[1], shape.layers) * once


def _resident_share(size: int, mapped: int) -> float:
    return COMPUTED if size > mapped and sys.platform == "linux" else 1.0


def _training(shape: _Shape, tokens: _Tokens, settings: Settings) -> float:
    """Bytes of activations at the peak of a step."""
    head = _head(shape, tokens, gradient=True) + tokens.mask
    if settings.grad_checkpoint:  # each block's input, and the recorded prompts'
        inputs = tokens.all * shape.hidden + tokens.prompts * 2 * shape.kv
        ahead = _ahead(shape, tokens, AHEAD, MAPPED_WITH_CHECKPOINT)
        return FLOAT * shape.adapted * inputs + ahead + head
    block = sum(count * width for count, width in _block(shape, tokens, kept=True))
    kept = FLOAT * (shape.adapted * tokens.all * block + shape.decoded)
    return GAPS * (kept + _ahead(shape, tokens, AHEAD, MAPPED)) + head


def _reading(shape: _Shape, tokens: _Tokens) -> float:
    """Bytes of activations at the peak of a pass without a gradient."""
    ahead = _ahead(shape, tokens, AHEAD_READING, MAPPED)
    return ahead + _head(shape, tokens, gradient=False) + tokens.mask


def _head(shape: _Shape, tokens: _Tokens, gradient: bool) -> float:
    """Bytes for the log-probs of the trained tokens."""
    if cpu.native():  # never holds logits: the derivative by the hidden states alone
        return tokens.trained * shape.hidden * FLOAT * gradient
    logits = min(tokens.trained, CHUNK) * shape.vocabulary * FLOAT
    return 1.5 * logits * _resident_share(logits, MAPPED)


def estimate(
    model: Model,
    examples: Sequence[Example],
    settings: Settings,
    lora: Lora,
    method: Method,
    held_out: Sequence[Example] = (),
) -> Need:
    """What a run with these settings needs at its widest batch, its reference not cached yet."""
    shape = _Shape.of(model, lora)
    weights = sum(value.nbytes for value in named_arrays(model.module.parameters()).values())
    adapter = float(FLOAT * shape.parameters)

    def widest(rows: Sequence[Example], count: int) -> _Tokens:
        batch = sorted(rows, key=lambda one: one.length)[-count:]
        return _tokens(batch, settings.share_prompts, method)

    training = COPIES * adapter + _training(shape, widest(examples, settings.batch_size), settings)
    if settings.grad_accumulation_steps > 1:
        training += adapter  # the gradient of what was before is there too
    peaks = [training, COPIES_IN_UPDATE * adapter]
    if held_out:
        reading = _reading(shape, widest(held_out, 4 * settings.batch_size))
        peaks.append(COPIES * adapter + reading)
    if method.reference:
        rows = [*examples, *held_out]
        answers = max(len(one.responses) for one in rows)
        count = max(1, REFERENCE_TOKENS // (answers * max(one.length for one in rows)))
        if settings.iters:  # no more than the run will see
            each = settings.batch_size * settings.grad_accumulation_steps
            count = min(count, settings.iters * each + len(held_out))
        peaks.append(_reading(shape, widest(rows, count)))
    if settings.reference_adapter:  # a second model is loaded beside the reference
        peaks.append(weights)
    process = max(resident() - weights, 0.0) or PROCESS
    adapters = COPIES * adapter
    return Need(process + GROWTH, weights, adapters, max(peaks) - adapters)


def resident() -> float:
    """Bytes that this process holds and does not give back."""
    cpu.trim()  # loading a model leaves free memory behind
    return float(psutil.Process().memory_info().rss)


def available() -> float:
    """Bytes of memory that a new process can have; on a GPU no more than it works well with."""
    free = float(psutil.virtual_memory().available)
    info = mx.device_info() if mx.metal.is_available() else {}
    return min(free, float(info.get("max_recommended_working_set_size") or free))


def describe(need: Need) -> str:
    """One line for people."""
    return (
        f"memory: about {need.total / 1e9:.1f} GB (weights {need.weights / 1e9:.2f}, "
        f"activations {need.activations / 1e9:.2f}, adapter {need.adapter / 1e9:.2f}, "
        f"the program {need.process / 1e9:.2f}), "
        f"{available() / 1e9:.1f} GB free"
    )


def refuse(
    need: Need,
    model: Model,
    examples: Sequence[Example],
    settings: Settings,
    lora: Lora,
    method: Method,
    held_out: Sequence[Example] = (),
) -> None:
    """Raise a UserError when a run cannot fit, with a smaller setting that does."""
    limit = settings.memory_limit * 1e9 if settings.memory_limit else available()
    limit += resident() if settings.memory_limit is None else 0.0  # of the total, held already
    if need.total <= limit:
        return
    smaller: list[dict[str, Any]] = [{"grad_checkpoint": True}]
    smaller.append(smaller[-1] | {"batch_size": 1})
    shorter = [length for length in (512, 256, 128) if length < settings.max_seq_length]
    smaller += [smaller[-1] | {"max_seq_length": length} for length in shorter]
    hint = "use a smaller model: minialign models list"
    for changes in smaller:
        changed = dataclasses.replace(settings, **changes)
        fitting, others = (
            [example for example in rows if example.length <= changed.max_seq_length]
            for rows in (examples, held_out)
        )
        if fitting and estimate(model, fitting, changed, lora, method, others).total <= limit:
            words = [word.replace("=", " ") for word in flags(changes)]
            hint = f"this fits: {' '.join(words)}"
            break
    said = f"this run needs about {need.total / 1e9:.1f} GB and {limit / 1e9:.1f} GB are there"
    raise UserError(said, hint)
