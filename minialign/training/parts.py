"""What every run holds before its first step, and how it is opened: model, adapter, rows, memory.

Methods on rows (``offline``), on the model's own answers (``online``) and the training runs inside
``rounds`` are opened here alike.
"""

import hashlib
from collections.abc import Callable, Generator
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

import mlx.core as mx

from minialign.durable import write_atomic
from minialign.errors import UserError
from minialign.learn.checkpointing import checkpoint_layers
from minialign.learn.policy import Policy, make_policy, plain_cache
from minialign.methods import Method
from minialign.models import adapter, control
from minialign.models.adapter import Lora, resolve_adapter
from minialign.models.head import save_head, save_value_head
from minialign.models.load import Model, load
from minialign.run_folder import Run
from minialign.training import memory
from minialign.training.events import UNKNOWN, Event, Note
from minialign.training.examples import Rows, load_rows
from minialign.training.reference_logps import example_key
from minialign.training.settings import Settings


@dataclass
class Parts:
    """What a run is made of, whatever its method."""

    run: Run
    method: Method
    settings: Settings
    config: Any
    start_from: Path | None  # the adapter that training starts from
    reference_from: Path | None  # the reference's adapter, when it is another
    model: Model
    policy: Policy
    lora: Lora
    rows: Rows
    words: control.Control | None  # that prompts shall have when the result is used
    total: int = UNKNOWN  # steps
    used: dict[str, float] = field(default_factory=lambda: {"tokens": 0.0, "seconds": 0.0})
    units: tuple[float, float] | None = None  # of the value head; None: not known yet


def open_parts(
    run: Run,
    method: Method,
    settings: Settings,
    config: Any,
    plan: Callable[[Parts], tuple[int, str]],
) -> Generator[Event, None, Parts]:
    """Open the model, read the rows, and see that they fit into memory.

    Args:
        plan: -> (how many steps there will be, what is said of rows and steps).

    Raises:
        UserError: for bad rows, a model or adapter that is not there, too little memory.
    """
    start_from = resolve_adapter(settings.adapter) if settings.adapter else None
    other = resolve_adapter(settings.reference_adapter) if settings.reference_adapter else None
    model = load(settings.model)
    words = method.control(config)
    if words is None and start_from and not method.reward_head:
        # What was taught behind these words is trained on behind them.
        words = model.put_control(start_from)
        if words:
            yield Note(f"every prompt says {words.text!r}, as in {settings.adapter}")
    lora = adapter.read_lora(start_from) if start_from else settings.lora()
    if method.on_policy and lora.dropout:
        yield Note("no dropout: the ratio to the old policy would be noise")
        lora = replace(lora, dropout=0.0)
    adapter.check_lora(model.module, lora)
    rows = load_rows(settings, method, config, model.tokenizer)
    for note in rows.notes:
        yield Note(note)
    if start_from and (lost := _shape_lost(settings, lora)):
        yield Note(f"{', '.join(lost)}: as in {settings.adapter}, where training starts")
    _check_same_data(run, rows)
    if not rows.held_out and (settings.patience or settings.select == "best"):
        what = "prompts" if method.on_policy else "rows"
        said = f"patience and select = best need held-out {what}, and there are none"
        raise UserError(said, "--eval-data FILE, or more data and --eval-split 0.1")
    policy = make_policy(model, method.reward_head)
    parts = Parts(
        run, method, settings, config, start_from, other, model, policy, lora, rows, words
    )
    parts.total, text = plan(parts)
    run.set_total(parts.total if parts.total < UNKNOWN else 0)
    yield Note(text)
    held_out = () if method.on_policy else rows.held_out
    need = memory.estimate(model, rows.train, settings, lora, method, held_out)
    yield Note(memory.describe(need), values={"memory_estimate": need.total})
    memory.refuse(need, model, rows.train, settings, lora, method, held_out)
    return parts


def attach_adapter(parts: Parts) -> None:
    """Put the adapter to be trained on the model: the one that training starts from, or a fresh
    one."""
    if parts.start_from is None:
        mx.random.seed(parts.settings.seed)
    adapter.attach(parts.model.module, parts.lora)
    if parts.start_from is not None:
        adapter.load_weights(parts.model.module, parts.start_from / adapter.WEIGHTS)
    # Again, as ``keys`` may name the output layer, and the policy holds that.
    parts.policy = make_policy(parts.model, parts.method.reward_head)


def prepare_passes(parts: Parts) -> None:
    """Let the policy share prompts and recompute activations, as the settings have it."""
    if parts.settings.grad_checkpoint:
        checkpoint_layers(parts.model.module)
    parts.policy.share_prompts = parts.settings.share_prompts and plain_cache(parts.model.module)


def save_result(parts: Parts, folder: Path) -> None:
    """Write the adapter, its reward or value head, and the words that its prompts need."""
    folder.mkdir(exist_ok=True)
    adapter.save_adapter(folder, parts.model.module, parts.lora, str(parts.model.path))
    if parts.policy.reward is not None:
        save_head(folder, parts.policy.reward)
    if (head := getattr(parts.policy.trainable, "value_head", None)) is not None:
        save_value_head(folder, head, parts.units or (0.0, 1.0))
    if parts.words:
        write_atomic(folder / control.FILE, control.to_text(parts.words))


def _shape_lost(settings: Settings, lora: Lora) -> list[str]:
    """The settings of the adapter's shape that were given, but that the adapter decides with which
    training starts."""
    wanted, usual = (
        replace(one, scale=one.effective_scale(), rslora=False)
        for one in (settings.lora(), Settings().lora())
    )
    return [
        {"kind": "fine_tune_type"}.get(one.name, one.name)
        for one in fields(Lora)
        if getattr(wanted, one.name) not in (getattr(usual, one.name), getattr(lora, one.name))
    ]


def _check_same_data(run: Run, rows: Rows) -> None:
    """Refuse rows that are not those which the run started with."""
    digest = hashlib.sha256()
    for example in rows.train + rows.held_out:
        digest.update(example_key(example).encode())
    file = run.path / "data.sha256"
    if not file.exists():
        write_atomic(file, digest.hexdigest() + "\n")
    elif file.read_text(encoding="utf-8").strip() != digest.hexdigest():
        fix = "put the files back as they were, or start a new run"
        raise UserError(f"the data of run {run.name} changed since it started", fix)
