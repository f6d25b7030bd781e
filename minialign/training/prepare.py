"""What a run holds while it trains, and how it is made: data, model, adapter, reference."""

import hashlib
import itertools
import math
import threading
from collections.abc import Iterator
from dataclasses import dataclass, fields, replace
from typing import Any

import mlx.core as mx

from minialign.durable import write_atomic
from minialign.errors import UserError
from minialign.learn.batch import Example, endless
from minialign.learn.checkpointing import checkpoint_layers
from minialign.learn.policy import Policy, add_reward_head, make_policy, plain_cache
from minialign.methods import Method
from minialign.models import control
from minialign.models.adapter import (
    Lora,
    adapter_hash,
    attach,
    check_lora,
    load_adapter,
    read_lora,
    resolve_adapter,
)
from minialign.models.load import Model, load
from minialign.run_folder import Run
from minialign.training import memory
from minialign.training.budget import steps_within
from minialign.training.events import UNKNOWN, Event
from minialign.training.examples import Rows, load_rows
from minialign.training.reference_logps import example_key, reference_logps
from minialign.training.settings import Settings


@dataclass
class Session:
    """A run that is ready to train."""

    run: Run
    method: Method
    settings: Settings
    config: Any
    model: Model
    policy: Policy
    rows: Rows
    total: int
    lora: Lora
    words: control.Control | None  # that prompts shall have when the result is used


def prepare(
    run: Run, method: Method, settings: Settings, config: Any, stop: threading.Event
) -> Iterator[Event | Session]:
    """Data, model, reference and adapter, in this order; the session comes last, unless stopped.

    Raises:
        UserError: for bad rows, a model or adapter that is not there, too little memory.
    """
    start_from = resolve_adapter(settings.adapter) if settings.adapter else None
    other = resolve_adapter(settings.reference_adapter) if settings.reference_adapter else None
    model = load(settings.model)
    words = method.control(config)
    if words is None and start_from and not method.reward_head:
        # What was taught behind these words is trained on behind them.
        words = control.read(start_from)
        if words:
            model.tokenizer = control.Controlled(model.tokenizer, words)  # type: ignore[assignment]
            yield Event("note", f"every prompt says {words.text!r}, as in {settings.adapter}")
    lora = read_lora(start_from) if start_from else settings.lora()
    check_lora(model.module, lora)
    rows = load_rows(settings, method, config, model.tokenizer)
    for note in rows.notes:
        yield Event("note", note)
    if start_from and (lost := shape_lost(settings, lora)):
        yield lost
    same_data(run, rows)
    if not rows.held_out and (settings.patience or settings.select == "best"):
        raise UserError(
            "patience and select = best need held-out rows, and there are none",
            "--eval-data FILE, or more data and --eval-split 0.1",
        )
    each = settings.batch_size * settings.grad_accumulation_steps
    total = settings.iters or max(1, round(settings.epochs * math.ceil(len(rows.train) / each)))
    if settings.max_tokens or settings.max_minutes:
        total = settings.iters or UNKNOWN
    if settings.max_tokens:
        total = steps_within(rows.train, settings, total)
    run.set_total(total if total < UNKNOWN else 0)
    heldout = f", {len(rows.held_out)} held out" if rows.held_out else ""
    steps = f"{total} steps" if total < UNKNOWN else f"{settings.max_minutes:g} minutes"
    yield Event(
        "note", f"{len(rows.train)} examples to train on{heldout}; {steps} of {each} examples"
    )
    need = memory.estimate(model, rows.train, settings, lora, method, rows.held_out)
    yield Event("note", memory.describe(need), values={"memory_estimate": need.total})
    memory.refuse(need, model, rows.train, settings, lora, method, rows.held_out)

    base = other or start_from
    if base is not None:
        load_adapter(model.module, base)
    policy = make_policy(model, method.reward_head)
    if method.reference:
        key = f"{model.fingerprint} {adapter_hash(base)}"
        needed = _visited(rows.train, settings, total) + rows.held_out
        for done, count, cached in reference_logps(policy, needed, key):
            yield Event("reference", step=done, total=count, values={"cached": cached})
            if stop.is_set():
                return
    if other is not None:
        # The reference's log-probs are in the examples now; training starts from its own adapter.
        model = load(settings.model)
        policy = make_policy(model, method.reward_head)
        if start_from is not None:
            load_adapter(model.module, start_from)
    if start_from is None:
        mx.random.seed(settings.seed)
        attach(model.module, lora)
    if method.reward_head:
        add_reward_head(policy, start_from)
    if settings.grad_checkpoint:
        checkpoint_layers(model.module)
    policy.share_prompts = settings.share_prompts and plain_cache(model.module)
    yield Session(run, method, settings, config, model, policy, rows, total, lora, words)


def shape_lost(settings: Settings, lora: Lora) -> Event | None:
    """A note on the settings of the adapter's shape that were given, but that the adapter decides
    with which training starts."""
    wanted, usual = settings.lora(), Settings().lora()
    wanted, usual = (
        replace(one, scale=one.effective_scale(), rslora=False) for one in (wanted, usual)
    )
    lost = [
        {"kind": "fine_tune_type"}.get(one.name, one.name)
        for one in fields(Lora)
        if getattr(wanted, one.name) not in (getattr(usual, one.name), getattr(lora, one.name))
    ]
    text = f"{', '.join(lost)}: as in {settings.adapter}, where training starts"
    return Event("note", text) if lost else None


def _visited(examples: list[Example], settings: Settings, total: int) -> list[Example]:
    """The examples that ``total`` updates will see: a short run does not need all."""
    order = endless([example.length for example in examples], settings.batch_size, settings.seed)
    whole = math.ceil(len(examples) / settings.batch_size)  # the batches of an epoch hold all
    batches = itertools.islice(order, min(total * settings.grad_accumulation_steps, whole))
    return [examples[i] for i in sorted({i for batch in batches for i in batch})]


def same_data(run: Run, rows: Rows) -> None:
    """A resumed run must see the rows that it started with."""
    digest = hashlib.sha256()
    for example in rows.train + rows.held_out:
        digest.update(example_key(example).encode())
    file = run.path / "data.sha256"
    if not file.exists():
        write_atomic(file, digest.hexdigest() + "\n")
    elif file.read_text(encoding="utf-8").strip() != digest.hexdigest():
        raise UserError(
            f"the data of run {run.name} changed since it started",
            "put the files back as they were, or start a new run",
        )
