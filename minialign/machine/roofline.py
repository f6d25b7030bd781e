"""What a machine could reach at most: how fast it reads memory, how fast it multiplies.

A model's speed is bounded by both (Williams, Waterman & Patterson 2009, "Roofline"). One decoding
step reads every weight once, whatever the batch; every token costs two operations a weight in the
forward pass and, with frozen weights, two more in the backward pass (the gradient of the input;
there is none of the weight). Left out are attention's own products, the low-rank updates and the
element-wise work, together 3 to 10 %: what is really reachable is a little less than this says.
"""

import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import numpy as np

from minialign import cpu
from minialign.machine.hardware import best, chip_name, gemm_gflops, memory, usable_cores
from minialign.models.load import Model
from minialign.models.module import TiedHead, split_head

READ_BYTES = 128 << 20  # by each thread: far more than a cache holds


@dataclass(frozen=True)
class Machine:
    """What was measured of the machine itself; rates in bytes and operations a second."""

    chip: str
    cores: int
    memory: int  # bytes
    kernels: str
    kept: tuple[int, ...]  # see ``cpu.kept_bits``
    bandwidth_one: float  # reading, one thread
    bandwidth: float  # reading, all threads
    gemm: float  # float32 matrix products


@dataclass(frozen=True)
class Work:
    """What one token costs: the weights it is multiplied with, and their bytes in memory."""

    body: int  # weights of the blocks' linear layers
    head: int  # weights of the output layer
    held: int  # bytes of both, as they are held

    @property
    def weights(self) -> int:
        """Of blocks and output layer together."""
        return self.body + self.head

    def forward(self, tokens: float, logits: float) -> float:
        """Operations to read ``tokens`` and to predict behind ``logits`` of them."""
        return 2 * (self.body * tokens + self.head * logits)

    def update(self, tokens: float, logits: float) -> float:
        """Operations of a LoRA step: forward, and back through frozen weights."""
        return 2 * self.forward(tokens, logits)

    def decode_seconds(self, machine: Machine, batch: int) -> float:
        """The least time of one decoding step: the longer of reading and multiplying."""
        return max(self.held / machine.bandwidth, self.forward(batch, batch) / machine.gemm)


def machine(seconds: float = 1.0) -> Machine:
    """Measure memory and cores, each for about ``seconds``."""
    cpu.activate()
    status = cpu.status()
    wanted = os.environ.get("MINIALIGN_THREADS", "")
    cores = int(wanted) if wanted.isdecimal() and int(wanted) else usable_cores()
    one = read_bandwidth(1, seconds / 2)
    return Machine(
        chip=chip_name(),
        cores=cores,
        memory=memory()[0],
        kernels=status.kernels,
        kept=cpu.kept_bits(),
        bandwidth_one=one,
        bandwidth=max(one, read_bandwidth(cores, seconds / 2)),
        gemm=gemm_gflops(seconds) * 1e9,
    )


def read_bandwidth(threads: int, seconds: float) -> float:
    """Bytes a second that ``threads`` read together, each its own memory: the best of several
    passes of a maximum over integers, which costs next to nothing beside reading them."""
    if not cpu.on_cpu():
        whole = mx.zeros((READ_BYTES,), mx.int32)
        return whole.nbytes / best(lambda: mx.eval(mx.max(whole)), seconds)
    blocks = [np.zeros(READ_BYTES // 4, np.int32) for _ in range(threads)]
    for block in blocks:
        block += 1  # a page that was never written is not in memory
    with ThreadPoolExecutor(threads) as pool:
        return threads * READ_BYTES / best(lambda: list(pool.map(np.max, blocks)), seconds)


def work_of(model: Model) -> Work:
    """What a token costs in this model, counted from its linear layers."""
    backbone, head = split_head(model.module) or (model.module, None)
    if isinstance(head, TiedHead):
        head = head.embedding
    kinds = nn.Linear | nn.QuantizedLinear
    body = [part for _, part in backbone.named_modules() if isinstance(part, kinds)]
    last = [head] if isinstance(head, nn.Module) else []
    values = [value for part in body + last for value in part.values()]
    held = sum(value.nbytes for value in values if isinstance(value, mx.array))
    return Work(sum(map(_count_weights, body)), sum(map(_count_weights, last)), held)


def _count_weights(module: Any) -> int:
    """How many weights a layer has; a quantized word holds several."""
    quantized = isinstance(module, nn.QuantizedLinear | nn.QuantizedEmbedding)
    return module.weight.size * (32 // module.bits if quantized else 1)
