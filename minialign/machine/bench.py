"""How fast this machine reads, writes and trains a model, and which models are practical on it.

Every measure goes through the code that a user's own commands run: the engine that answers, the
``fit`` that trains. Beside each stands the share of what the machine could reach at most
(``roofline``). Prompts and answers are random tokens, since speed does not depend on them.
"""

import itertools
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import mlx.core as mx
import numpy as np

from minialign.engine import Engine, Sampling
from minialign.learn.batch import Batch, Example, collate
from minialign.learn.fit import Updates, adamw, fit, joined
from minialign.learn.forward import response_logps
from minialign.learn.policy import make_policy
from minialign.machine.hardware import best, peak
from minialign.machine.roofline import Machine, Work, machine, work_of
from minialign.methods import METHODS
from minialign.models.adapter import Lora, attach
from minialign.models.load import Model, load
from minialign.models.names import Name, catalog, held_bytes, with_memory
from minialign.models.sources.fetch import ensure

READING = 5.0  # tokens a second: about as fast as people read
NIGHT = 12 * 3600.0  # seconds


@dataclass(frozen=True)
class Sizes:
    """How much is measured."""

    rows: int = 4  # of a batch to score or to train on
    width: int = 256  # tokens of each
    batches: tuple[int, ...] = (1, 4, 16)  # answers written at once
    written: int = 64  # tokens of each answer
    samples: int = 16  # of best-of-n
    prompt: int = 128  # tokens of best-of-n's and DPO's prompts
    answer: int = 128  # tokens of best-of-n's answers
    pair: int = 64  # tokens of each response of DPO
    seconds: float = 1.0  # for each of the machine's own rates
    repeats: int = 2  # the best counts


QUICK = Sizes(2, 32, (1, 4), 8, 4, 16, 8, 16, seconds=0.2, repeats=1)


@dataclass(frozen=True)
class Row:
    """One measure. ``limit`` is what the machine could reach at most, in the same unit."""

    name: str
    value: float
    unit: str
    limit: float | None = None
    memory: float | None = None  # bytes that MLX held at most, weights included
    note: str = ""

    @property
    def share(self) -> float | None:
        """The part of the limit that is reached; units are rates, so more is better."""
        return self.value / self.limit if self.limit else None


@dataclass(frozen=True)
class Estimate:
    """What a model of the catalogue would do here, scaled from the measured one."""

    name: str
    params: int
    run_bytes: int
    train_bytes: int
    decode: float  # tokens a second, one answer at a time
    train: float  # tokens a second of LoRA fine-tuning
    thousand_pairs: float  # seconds of DPO on 1,000 pairs
    verdict: str


def bench(
    name: str, sizes: Sizes | None = None, progress: Callable[[str], None] = lambda text: None
) -> Iterator[Machine | Row | Estimate]:
    """The machine, then each row as it is measured, then what other models would do.

    Args:
        progress: called with what is being measured next.

    Raises:
        UserError: there is no such model.
    """
    sizes = sizes or Sizes()
    progress("getting the model")
    path = ensure(name)
    progress("memory and cores")
    here = machine(sizes.seconds)
    yield here
    progress("loading")
    start = time.perf_counter()
    model = load(str(path))
    yield Row("load", time.perf_counter() - start, "s")
    measures, rows = Measures(model, here, sizes), {}
    for label, measure in measures.all():
        progress(label)
        mx.reset_peak_memory()
        row = measure()
        rows[label] = replace(row, name=label, memory=float(mx.get_peak_memory()))
        yield rows[label]
    yield Row("process", peak(), "bytes", note="the most memory the whole process had")
    yield from estimates(rows, measures.work, here)


class Endless:
    """A tokenizer without end tokens, so that every answer gets its greatest length."""

    eos_ids: frozenset[int] = frozenset()

    def __init__(self, tokenizer: Any):
        self._tokenizer = tokenizer

    def __getattr__(self, name: str) -> Any:
        return getattr(self._tokenizer, name)


def random_ids(vocabulary: int, rows: int, width: int) -> list[list[int]]:
    """(rows, width) token ids, always the same."""
    return np.random.default_rng(0).integers(3, vocabulary, (rows, width)).tolist()


def decode_rate(engine: Engine, prompts: Sequence[Sequence[int]], tokens: int) -> float:
    """Tokens a second of one batch, without its prompts' time; greedy, ``tokens`` > 2 each.

    The engine must not stop at an end token (``Endless``).
    """
    times: list[float] = []

    def tick() -> bool:  # asked before every step; the prompts are read in the first
        times.append(time.perf_counter())
        return False

    wanted = Sampling(temperature=0, max_tokens=tokens)
    for _ in engine.generate(prompts, wanted, batch_size=len(prompts), cancelled=tick):
        pass
    seconds = time.perf_counter() - times[1]  # by then each answer had two tokens
    return len(prompts) * (tokens - 2) / seconds


class Measures:
    """What is measured of one model on one machine."""

    def __init__(self, model: Model, here: Machine, sizes: Sizes):
        self.model, self.here, self.sizes = model, here, sizes
        self.work = work_of(model)
        endless: Any = Endless(model.tokenizer)
        self.engine = Engine(replace(model, tokenizer=endless))

    def all(self) -> Iterator[tuple[str, Callable[[], Row]]]:
        """(name, what measures it); the model has an adapter from "sft" on."""
        yield "score", self.score
        for batch in self.sizes.batches:
            yield f"decode {batch}", partial(self.decode, batch)
        yield f"best of {self.sizes.samples}", self.best_of_n
        attach(self.model.module, Lora())
        yield "sft", self.sft
        yield "dpo", self.dpo

    def _texts(self, rows: int, width: int) -> list[list[int]]:
        return random_ids(min(self.model.config.get("vocab_size", 256), 1000), rows, width)

    def _demonstrations(self) -> Batch:
        texts = self._texts(self.sizes.rows, self.sizes.width)
        return collate([Example(ids[:1], [ids[1:]], [[1] * (len(ids) - 1)]) for ids in texts])

    def score(self) -> Row:
        """Log-probs of every token of a batch, without a gradient: what the reference costs."""
        batch, sizes = self._demonstrations(), self.sizes
        policy, tokens = self.engine.policy, sizes.rows * sizes.width
        seconds = best(lambda: mx.eval(response_logps(policy, batch)[0]), 0, sizes.repeats)
        limit = tokens * self.here.gemm / self.work.forward(tokens, tokens)
        return Row("score", tokens / seconds, "tokens/s", limit)

    def decode(self, batch: int) -> Row:
        """Answers written ``batch`` at once, prompts left out."""
        prompts, sizes = self._texts(batch, 16), self.sizes
        rate = max(decode_rate(self.engine, prompts, sizes.written) for _ in range(sizes.repeats))
        limit = batch / self.work.decode_seconds(self.here, batch)
        return Row("decode", rate, "tokens/s", limit)

    def best_of_n(self) -> Row:
        """n sampled answers to one prompt, which is read once; the time of the prompt counts."""
        sizes, work = self.sizes, self.work
        (prompt,) = self._texts(1, sizes.prompt)
        wanted = Sampling(temperature=1.0, max_tokens=sizes.answer)
        start = time.perf_counter()
        list(self.engine.generate([prompt], wanted, n=sizes.samples, batch_size=sizes.samples))
        seconds = time.perf_counter() - start
        least = work.forward(sizes.prompt, 1) / self.here.gemm
        least += (sizes.answer - 1) * work.decode_seconds(self.here, sizes.samples)
        tokens, note = sizes.samples * sizes.answer, f"{seconds:.1f} s"
        return Row("best of n", tokens / seconds, "tokens/s", tokens / least, note=note)

    def sft(self) -> Row:
        """LoRA fine-tuning, rank 8 on every linear layer, every token trained."""
        rows, width = self.sizes.rows, self.sizes.width
        seconds, tokens = self._step_seconds("sft", self._demonstrations()), rows * width
        limit = tokens * self.here.gemm / self.work.update(tokens, tokens)
        note = f"{seconds:.2f} s a step of {rows} x {width} tokens"
        return Row("sft", tokens / seconds, "tokens/s", limit, note=note)

    def dpo(self) -> Row:
        """DPO with the prompts computed once; the reference's log-probs are there already."""
        rows, prompt, pair = self.sizes.rows, self.sizes.prompt, self.sizes.pair
        prompts, texts = self._texts(rows, prompt), self._texts(2 * rows, pair)
        pairs = zip(prompts, texts[::2], texts[1::2], strict=True)
        batch = collate([Example(ids, [a, b], [[1] * pair] * 2) for ids, a, b in pairs])
        batch.extra["reference"] = mx.zeros((2 * rows,))
        seconds, trained = self._step_seconds("dpo", batch), 2 * pair * rows
        least = self.work.update(prompt * rows + trained, trained) / self.here.gemm
        note = f"prompts of {prompt} tokens, answers of {pair}"
        return Row("dpo", rows / seconds, "pairs/s", rows / least, note=note)

    def _step_seconds(self, method: str, batch: Batch) -> float:
        """The shortest training step on a batch, after one to warm up."""
        policy, chosen = make_policy(self.model), METHODS[method]
        optimizer = adamw((0.9, 0.999), 0.0)
        optimizer.init(joined(policy.trainable.trainable_parameters()))
        loss, batches = chosen.loss(chosen.config()), itertools.repeat([batch])
        updates = Updates(lambda step: 1e-6, chosen.weight, last=self.sizes.repeats + 1)
        steps = fit(policy, loss, batches, optimizer, updates)
        return min([step.seconds for step in steps][1:])


def estimates(rows: dict[str, Row], work: Work, here: Machine) -> Iterator[Estimate]:
    """What the models of the catalogue would do here: decoding by the bytes that a token reads,
    training by the number of weights; memory by both."""
    for named in catalog().values():
        if not named.params:
            continue
        named = with_memory(named, here.kept)
        smaller = work.weights / named.params
        held = held_bytes(named, here.kept)
        decode = rows["decode 1"].value * work.held / held
        train, pairs = rows["sft"].value * smaller, 1000 / (rows["dpo"].value * smaller)
        sizes = named.params, named.run_bytes, named.train_bytes
        yield Estimate(named.name, *sizes, decode, train, pairs, _judge(named, here, decode, pairs))


def _judge(named: Name, here: Machine, decode: float, pairs: float) -> str:
    if named.run_bytes > here.memory:
        return "does not fit"
    if decode < READING:
        return "slow to read along"
    if named.train_bytes > here.memory:
        return "to chat; too large to train"
    if pairs > NIGHT:
        return "to chat; training takes days"
    return "to chat and to train"
