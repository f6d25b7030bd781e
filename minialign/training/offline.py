"""Training on rows: from the parts of a run to its adapter, as a stream of events.

What is trained on is known before the first step; the reference's log-probs, where a method has a
reference, are computed before it too.
"""

import itertools
import math
import threading
from collections.abc import Generator, Iterator
from functools import partial
from typing import Any

import mlx.core as mx

from minialign.learn.batch import Batch, Example, collate, index_batches
from minialign.learn.fit import evaluate
from minialign.learn.policy import add_reward_head, make_policy
from minialign.methods import Method
from minialign.models.adapter import adapter_hash, load_adapter
from minialign.models.load import load
from minialign.records import Pair
from minialign.run_folder import Run
from minialign.statistics.shares import wilson
from minialign.training.bookkeeping import Bookkeeping, log_evaluation, log_values, train
from minialign.training.budget import order_of, steps_ahead, steps_within
from minialign.training.events import UNKNOWN, Ended, Evaluated, Evaluating, Event, ReferenceRead
from minialign.training.parts import Parts, attach_adapter, open_parts, prepare_passes
from minialign.training.reference_logps import reference_logps
from minialign.training.settings import Settings


def events(
    run: Run, method: Method, settings: Settings, config: Any, stop: threading.Event
) -> Iterator[Event]:
    """Everything that happens in a run on rows, which goes on where its checkpoints are.

    Raises:
        UserError: for bad rows, a model or adapter that is not there, too little memory.
    """
    parts = yield from open_parts(run, method, settings, config, _plan)
    if not (yield from _read_reference(parts, stop)):
        run.finish("stopped", "before the first step")
        yield Ended({"status": "stopped"})
        return
    prepare_passes(parts)
    total = parts.total
    # Step 0 needs no look at a policy that is its own reference, nor at a fresh reward head.
    known_at_start = method.reference or (method.reward_head and settings.adapter is None)
    books = Bookkeeping(
        parts,
        batches=partial(_updates, parts),
        values=lambda step: log_values(step, method.derived(step.metrics)),
        ahead=lambda step: steps_ahead(settings, step, parts.used["seconds"], total),
        evaluate=partial(_evaluate, parts),
        weight=method.weight,
        looks_first=not known_at_start,
        before=_before(parts),
    )
    yield from train(books, stop)


def _plan(parts: Parts) -> tuple[int, str]:
    """How many steps there will be, and what is said of them and of the rows."""
    settings, rows = parts.settings, parts.rows
    each = settings.batch_size * settings.grad_accumulation_steps
    total = settings.iters or max(1, round(settings.epochs * math.ceil(len(rows.train) / each)))
    if settings.max_tokens or settings.max_minutes:
        total = settings.iters or UNKNOWN
    if settings.max_tokens:
        total = steps_within(rows.train, settings, total)
    held_out = f", {len(rows.held_out)} held out" if rows.held_out else ""
    steps = f"{total} steps" if total < UNKNOWN else f"{settings.max_minutes:g} minutes"
    return total, f"{len(rows.train)} examples to train on{held_out}; {steps} of {each} examples"


def _read_reference(parts: Parts, stop: threading.Event) -> Generator[Event, None, bool]:
    """Fill in the reference's log-probs, and leave the policy as training begins with it; false
    when stopped on the way."""
    method, settings, rows = parts.method, parts.settings, parts.rows
    base = parts.reference_from or parts.start_from
    if base is not None:
        load_adapter(parts.model.module, base)
        parts.policy = make_policy(parts.model, method.reward_head)
    if method.reference:
        key = f"{parts.model.fingerprint} {adapter_hash(base)}"
        needed = _visited(rows.train, settings, parts.total) + rows.held_out
        for done, count, cached in reference_logps(parts.policy, needed, key):
            yield ReferenceRead(done, count, {"cached": cached})
            if stop.is_set():
                return False
    if parts.reference_from is not None:
        # The reference's log-probs are in the examples now; training starts from its own adapter.
        parts.model = load(settings.model)
    if parts.reference_from is not None or parts.start_from is None:
        attach_adapter(parts)
    if method.reward_head:
        add_reward_head(parts.policy, parts.start_from)
    return True


def _visited(examples: list[Example], settings: Settings, total: int) -> list[Example]:
    """The examples that ``total`` updates will see: a short run does not need all."""
    order = order_of(examples, settings)
    whole = math.ceil(len(examples) / settings.batch_size)  # the batches of an epoch hold all
    batches = itertools.islice(order, min(total * settings.grad_accumulation_steps, whole))
    return [examples[i] for i in sorted({i for batch in batches for i in batch})]


def _batch(examples: list[Example], indices: list[int]) -> Batch:
    batch = collate([examples[i] for i in indices])
    if "reference" in batch.examples[0].meta:
        values = [logp for example in batch.examples for logp in example.meta["reference"]]
        batch.extra["reference"] = mx.array(values)
    return batch


def _updates(parts: Parts, done: int) -> Iterator[list[Batch]]:
    """Micro-batches of each update, from the one after ``done`` on."""
    settings = parts.settings
    order = order_of(parts.rows.train, settings)
    each = settings.grad_accumulation_steps
    for _ in range(done * each):
        next(order)
    while True:
        yield [_batch(parts.rows.train, next(order)) for _ in range(each)]


def _evaluate(parts: Parts, step: int, total: int) -> Iterator[Event]:
    """Read the held-out rows, and log what they look like."""
    rows, method = parts.rows.held_out, parts.method
    order = index_batches([example.length for example in rows], 4 * parts.settings.batch_size, 0, 0)
    batches = (_batch(rows, indices) for indices in order)
    values: dict[str, Any] = {}
    loss = method.loss(parts.config)
    for done, means in evaluate(parts.policy, loss, batches, method.weight):
        values = method.derived(means)
        yield Evaluating(done, len(rows))
    values["rows"] = len(rows)
    if "rewards/accuracies" in values:
        low, high = wilson(values["rewards/accuracies"] * len(rows), len(rows))
        values["accuracy_low"], values["accuracy_high"] = low, high
        values["shorter_wins"] = _shorter_wins(rows)
    log_evaluation(parts, step, values)
    yield Evaluated(step, total, values)


def _shorter_wins(rows: list[Example]) -> float:
    """The accuracy of preferring the response with fewer tokens; a draw counts half."""
    wins = []
    for row in rows:
        scored = zip(row.meta.get("scores", [1.0, 0.0]), map(len, row.responses), strict=False)
        for (score, length), (worse, other) in itertools.permutations(scored, 2):
            if score > worse:
                wins.append(1.0 if length < other else 0.5 * (length == other))
    return sum(wins) / max(len(wins), 1)


def _before(parts: Parts) -> dict[str, float] | None:
    """How often the reference finds the chosen response of held-out pairs likelier, where its
    log-probs are there."""
    if not (parts.method.reference and parts.method.record is Pair and parts.rows.held_out):
        return None
    pairs = [example.meta["reference"] for example in parts.rows.held_out]
    return {"logps/accuracies": sum(chosen > rejected for chosen, rejected in pairs) / len(pairs)}
