"""A PPO run (RLOO, GRPO): phases of answering, scoring and updating, as a stream of events.

The policy writes its answers itself, with the adapter as it is at that moment; the reference is the
same weights without it, or with the adapter that training starts from. The updates are ``fit``'s,
like every method's.

A checkpoint holds the answers of the phase under way, so that a run that is killed goes on with the
very same numbers; one is made when a phase's answers are complete. Answers that were being written
when it was killed are written again, from the same seeds by the same weights.
"""

import dataclasses
import json
import math
import threading
from collections import deque
from collections.abc import Generator, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import mlx.optimizers as optim

from minialign.config import resolve
from minialign.engine import Engine
from minialign.errors import UserError
from minialign.learn.batch import Batch
from minialign.learn.checkpointing import checkpoint_layers
from minialign.learn.fit import Step, adamw, fit, joined, load_state, save_state
from minialign.learn.policy import Policy, make_policy, plain_cache
from minialign.methods import ppo
from minialign.methods.ppo import METHOD, Answers, Config
from minialign.models import control
from minialign.models.adapter import (
    WEIGHTS,
    attach,
    check_lora,
    load_adapter,
    load_weights,
    read_lora,
    resolve_adapter,
)
from minialign.models.head import VALUE_FILE, RewardHead, load_value_head
from minialign.models.load import load
from minialign.models.sharing import bare_copy
from minialign.models.sources.fetch import ensure
from minialign.progress import Tell
from minialign.rewards.spec import parse, with_whole_path
from minialign.run_folder import Run
from minialign.scoring.open import open_scorer
from minialign.training import memory
from minialign.training.bookkeeping import Course, finished, follow, under_lock
from minialign.training.budget import steps_ahead
from minialign.training.events import UNKNOWN, Event
from minialign.training.examples import check_data, load_rows
from minialign.training.prepare import same_data, shape_lost
from minialign.training.rollouts import Learner, Phase, evaluated, next_phase, save_result, updates
from minialign.training.settings import Settings, check, with_whole_paths

PHASE = "phase.json"
GUESS = 100  # steps of a run of which only the budget is known, before the first


def start(
    settings: Settings,
    config: Config,
    stop: threading.Event | None = None,
    progress: Tell | None = None,
) -> tuple[Run, Iterator[Event]]:
    """A new run's folder, and its events, as ``tasks.train.start`` has it.

    Raises:
        UserError: for settings that no run can use, a model that is not to be had, or a folder
            that is taken.
    """
    check(settings)
    METHOD.check(config)
    parse(config.scorer)
    settings = with_whole_paths(settings)
    config = dataclasses.replace(config, scorer=with_whole_path(config.scorer))
    check_data(settings)
    ensure(settings.model, progress)
    out = Path(settings.out) if settings.out else None
    values = {**dataclasses.asdict(settings), **dataclasses.asdict(config)}
    run = Run.create(METHOD.name, values, out, settings.name)
    return run, _events(run, settings, config, stop or threading.Event(), fresh=True)


def resume(run: Run, stop: threading.Event | None = None) -> Iterator[Event]:
    """Go on with a run that was stopped or killed, to the same weights as if it had not been.

    Raises:
        UserError: when the run is finished or running.
    """
    if run.state().status == "finished":
        raise UserError(
            f"run {run.name} is finished",
            f"to train on from it: minialign ppo --adapter {run.name} --data FILE --scorer SCORER",
        )
    where = str(run.path / "config.json")
    settings: Settings = resolve(Settings, run.config, {}, where)
    config: Config = resolve(Config, run.config, {}, where)
    return _events(run, settings, config, stop or threading.Event())


def _events(
    run: Run, settings: Settings, config: Config, stop: threading.Event, fresh: bool = False
) -> Iterator[Event]:
    with under_lock(run, began=lambda: not fresh or bool(run.metrics() or run.checkpoints())):
        learner = yield from _prepared(run, settings, config)
        yield from _trained(learner, stop)


def _prepared(run: Run, settings: Settings, config: Config) -> Generator[Event, None, Learner]:
    """Data, model, adapter, reference, scorer.

    Raises:
        UserError: for bad rows, a model, adapter or scorer that is not there, too little memory.
    """
    start_from = resolve_adapter(settings.adapter) if settings.adapter else None
    other = resolve_adapter(settings.reference_adapter) if settings.reference_adapter else None
    model = load(settings.model)
    words = control.read(start_from) if start_from else None
    if words:
        model.tokenizer = control.Controlled(model.tokenizer, words)  # type: ignore[assignment]
    lora = read_lora(start_from) if start_from else settings.lora()
    if lora.dropout:
        yield Event("note", "no dropout: the ratio to the old policy would be noise")
        lora = dataclasses.replace(lora, dropout=0.0)
    if start_from and (lost := shape_lost(settings, lora)):
        yield lost
    check_lora(model.module, lora)
    rows = load_rows(settings, METHOD, config, model.tokenizer)
    for note in rows.notes:
        yield Event("note", note)
    same_data(run, rows)
    if not rows.held_out and (settings.patience or settings.select == "best"):
        raise UserError(
            "patience and select = best need held-out prompts, and there are none",
            "--eval-data FILE, or more data and --eval-split 0.1",
        )
    size = min(config.rollout_prompts, len(rows.train))
    each = settings.batch_size * settings.grad_accumulation_steps
    updates = config.ppo_epochs * math.ceil(size / each)
    total = settings.iters or max(1, round(settings.epochs * len(rows.train) / size)) * updates
    if settings.max_tokens or settings.max_minutes:
        total = settings.iters or UNKNOWN
    run.set_total(total if total < UNKNOWN else 0)
    heldout = f", {len(rows.held_out)} held out" if rows.held_out else ""
    steps = f"{total} steps" if total < UNKNOWN else "steps until the budget is used"
    yield Event(
        "note",
        f"{len(rows.train)} prompts to answer{heldout}; {steps}, {updates} on each {size} x"
        f" {config.n} answers",
    )
    need = memory.estimate(model, rows.train, settings, lora, METHOD)
    yield Event("note", memory.describe(need), values={"memory_estimate": need.total})
    memory.refuse(need, model, rows.train, settings, lora, METHOD)

    reference = bare_copy(model)
    if base := other or start_from:
        load_adapter(reference.module, base)
    reference_policy = make_policy(reference)
    reference_policy.gradient = False
    mx.random.seed(settings.seed)
    attach(model.module, lora)
    if start_from:
        load_weights(model.module, start_from / WEIGHTS)
    policy = make_policy(model)
    policy.share_prompts = settings.share_prompts and plain_cache(model.module)
    reference_policy.share_prompts = policy.share_prompts
    units = _add_value_head(policy, start_from) if config.advantage == "gae" else (0.0, 1.0)
    if settings.grad_checkpoint:
        checkpoint_layers(model.module)
    engine = Engine(model)
    scorer = open_scorer(config.scorer, engine=engine)
    return Learner(
        run, settings, config, model, engine, policy, reference_policy, scorer, rows, lora, words,
        total, units,
    )  # fmt: skip


def _add_value_head(policy: Policy, folder: Path | None) -> tuple[float, float] | None:
    """Put a value head on the policy, the one that a run left if it left one; its units."""
    dims, units = policy.backbone(mx.array([[0]])).shape[-1], None
    head = RewardHead(dims)
    if folder and (folder / VALUE_FILE).exists():
        head, units = load_value_head(folder, dims)
    container = nn.Module()
    container.model = policy.module
    container.value_head = head
    policy.trainable = container
    return units


def _save(learner: Learner, step: int, optimizer: optim.Optimizer, phase: Phase | None) -> None:
    """A checkpoint with the answers under way, and the same weights as the run's adapter."""

    def write(folder: Path) -> None:
        save_state(folder, learner.policy, optimizer)
        held = {"phase": phase and dataclasses.asdict(phase), "used": learner.used}
        (folder / PHASE).write_text(json.dumps(held), encoding="utf-8")

    learner.run.save_checkpoint(step, write)
    save_result(learner, learner.run.path)


def _restored(learner: Learner, step: int, optimizer: optim.Optimizer) -> Phase | None:
    """Put back what ``_save`` wrote.

    Raises:
        UserError: when a file is missing, damaged or of another model.
    """
    folder = learner.run.checkpoint_path(step)
    load_state(folder, learner.policy, optimizer)
    try:
        held = json.loads((folder / PHASE).read_text(encoding="utf-8"))
        learner.used = dict(held["used"])
        stored = held["phase"]
        if stored is None:
            return None
        stored["answers"] = [Answers(**one) for one in stored["answers"]]
        stored["units"] = tuple(stored["units"])
        phase = Phase(**stored)
    except (OSError, ValueError, KeyError, TypeError) as reason:
        raise UserError(
            f"{folder / PHASE} is damaged: {reason!r}", "delete that checkpoint's folder"
        ) from None
    learner.units = phase.units
    return phase


def _values(step: Step, metrics: dict[str, float], rolled_out: Phase | None) -> dict[str, Any]:
    """What is logged of an update; ``rolled_out`` is the phase that it is the first of."""
    tokens = rolled_out.tokens if rolled_out else 0
    seconds = rolled_out.seconds if rolled_out else 0.0
    return {
        "loss": step.loss,
        **step.metrics,
        **metrics,
        "grad_norm": step.grad_norm,
        "learning_rate": step.learning_rate,
        "tokens": step.tokens + tokens,
        "rollout_tokens": tokens,
        "tokens_per_second": step.tokens / step.seconds,
        "padding": step.padding,
        "seconds": step.seconds + seconds,
        "rollout_seconds": seconds,
        "peak_memory": mx.get_peak_memory(),
    }


def _ahead(learner: Learner, step: int) -> int:
    """How many updates there will be in all, as it looks before update ``step``."""
    settings, used = learner.settings, learner.used
    found = steps_ahead(settings, step, used["seconds"], learner.total)
    if settings.max_tokens:
        allowed = (step - 1) * settings.max_tokens / used["tokens"] if step > 1 else GUESS
        found = min(found, max(step, round(allowed)))
    return found


def _trained(learner: Learner, stop: threading.Event) -> Iterator[Event]:
    run, settings, config, policy = learner.run, learner.settings, learner.config, learner.policy
    optimizer = adamw((settings.betas[0], settings.betas[1]), settings.weight_decay)
    optimizer.init(joined(policy.trainable.trainable_parameters()))
    done, phase = 0, None
    waiting: deque[list[list[int]]] = deque()
    taught: ppo.Targets | None = None
    if checkpoints := run.checkpoints():
        done = checkpoints[-1]
        phase = _restored(learner, done, optimizer)
        yield Event("note", f"going on after step {done}", done, learner.total)
    elif learner.rows.held_out:
        yield from evaluated(learner, 0, learner.total, stop)
    if phase:
        taught = ppo.targets(phase.answers, config, phase.beta, phase.units)
        waiting.extend(updates(learner, phase)[done - phase.first :])

    def batches() -> Iterator[list[Batch]]:
        while phase and taught:
            yield [
                ppo.phase_batch(learner.rows.train, phase.answers, taught, phase.beta, indices)
                for indices in waiting.popleft()
            ]

    def save(step: int) -> None:
        _save(learner, step, optimizer, phase)

    def ready(done: int) -> Generator[Event, None, bool]:
        """Answers to learn from, written when the last ones are used up."""
        nonlocal phase, taught
        if waiting:
            return True
        fresh = yield from next_phase(learner, phase, done, stop)
        if fresh is None:
            return False
        phase = fresh
        taught = ppo.targets(phase.answers, config, phase.beta, phase.units)
        waiting.extend(updates(learner, phase))
        save(done)
        return True

    def values(step: Step) -> dict[str, Any]:
        assert phase
        assert taught
        first = step.step == phase.first + 1
        return _values(step, {**taught.metrics, "phase": phase.number}, phase if first else None)

    course = Course(
        run,
        settings,
        learner.total,
        done,
        learner.used,
        values=values,
        ahead=lambda step: _ahead(learner, step),
        evaluate=partial(evaluated, learner, stop=stop) if learner.rows.held_out else None,
        save=save,
        save_result=lambda: save_result(learner, run.path),
        best=("reward/mean", max),
        ready=ready,
        summed=("tokens", "seconds", "rollout_tokens", "rollout_seconds"),
        result=(VALUE_FILE,),
        advice="try a smaller --learning-rate or --grad-clip 0.5",
    )
    policy.shared = policy.separate = 0
    steps = fit(
        policy, METHOD.loss(config), batches(), optimizer, rate=course.rate,
        weight=lambda batch: ppo.weight(config, batch), clip=settings.grad_clip, first=done + 1,
        seed=settings.seed,
    )  # fmt: skip
    if (yield from follow(course, steps, stop)):
        rows = run.metrics("train")
        summary = {
            "rollout_tokens": int(sum(row["rollout_tokens"] for row in rows)),
            "shared_batches": policy.shared,
            "separate_batches": policy.separate,
            "before": next((row for row in run.metrics("eval") if row["step"] == 0), None),
        }
        yield from finished(course, summary)
