"""A training run, from its settings to its adapter, as a stream of events.

``start`` makes the run's folder, ``resume`` goes on with one; both give the events of the same
generator. Whoever consumes them (the command line, a test) decides how they look; another process
reads the run's files.
"""

import dataclasses
import threading
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx.optimizers as optim

from minialign.config import resolve
from minialign.durable import write_atomic
from minialign.errors import UserError
from minialign.learn.batch import Batch, Example, collate, endless, index_batches
from minialign.learn.fit import Step, adamw, evaluate, fit, joined, load_state, save_state
from minialign.methods import Method
from minialign.methods.own import method_of
from minialign.models.adapter import save_adapter
from minialign.models.control import FILE as CONTROL
from minialign.models.control import to_text
from minialign.models.head import FILE as HEAD
from minialign.models.head import save_head
from minialign.models.sources.fetch import ensure
from minialign.progress import Tell
from minialign.records import Pair
from minialign.run_folder import Run
from minialign.statistics.shares import wilson
from minialign.training.bookkeeping import Course, finished, follow, under_lock
from minialign.training.budget import steps_ahead
from minialign.training.events import Event
from minialign.training.examples import check_data
from minialign.training.prepare import Session, prepare
from minialign.training.settings import Settings, check, own_whole_paths, with_whole_paths


def start(
    method: Method,
    settings: Settings,
    config: Any,
    stop: threading.Event | None = None,
    progress: Tell | None = None,
) -> tuple[Run, Iterator[Event]]:
    """A new run's folder, and its events; nothing is trained before the first event is taken.

    Setting ``stop`` ends the run after the step under way, with a checkpoint; ``progress`` is
    called with (what, done, total) while the model is fetched.

    Raises:
        UserError: for settings that no run can use, a model that is not to be had, or a folder
            that is taken.
    """
    check(settings)
    method.check(config)
    settings, config = with_whole_paths(settings), own_whole_paths(config)
    check_data(settings)
    ensure(settings.model, progress)
    out = Path(settings.out) if settings.out else None
    values = {**dataclasses.asdict(settings), **dataclasses.asdict(config)}
    if method.file:
        values["method_file"] = method.file
    run = Run.create(method.name, values, out, settings.name)
    return run, _train(run, method, settings, config, stop or threading.Event(), fresh=True)


def resume(run: Run, stop: threading.Event | None = None) -> Iterator[Event]:
    """Go on with a run that was stopped or killed, to the same weights as if it had not been.

    Raises:
        UserError: when the run is finished, running, or no training run.
    """
    stored = run.config
    method = method_of(stored)
    if method is None:
        raise UserError(f"run {run.name}: method {stored.get('method')!r} cannot be resumed")
    if run.state().status == "finished":
        raise UserError(
            f"run {run.name} is finished",
            f"to train on from it: minialign {method.file and 'train '}{method.file or method.name}"
            f" --adapter {run.name} --data FILE",
        )
    where = str(run.path / "config.json")
    settings = resolve(Settings, stored, {}, where)
    config = resolve(method.config, stored, {}, where)
    return _train(run, method, settings, config, stop or threading.Event())


def _train(
    run: Run, method: Method, settings: Settings, config: Any, stop: threading.Event,
    fresh: bool = False,
) -> Iterator[Event]:  # fmt: skip
    session = None
    with under_lock(run, began=lambda: not fresh or session is not None):
        for event in prepare(run, method, settings, config, stop):
            if isinstance(event, Session):
                session = event
            else:
                yield event
        if session is None:
            run.finish("stopped", "before the first step")
            yield Event("end", values={"status": "stopped"})
            return
        yield from _steps(session, stop)


def _batch(examples: list[Example], indices: list[int]) -> Batch:
    batch = collate([examples[i] for i in indices])
    if "reference" in batch.examples[0].meta:
        values = [logp for example in batch.examples for logp in example.meta["reference"]]
        batch.extra["reference"] = mx.array(values)
    return batch


def _updates(session: Session, done: int) -> Iterator[list[Batch]]:
    """Micro-batches of each update, from the one after ``done`` on."""
    settings = session.settings
    lengths = [example.length for example in session.rows.train]
    order = endless(lengths, settings.batch_size, settings.seed)
    each = settings.grad_accumulation_steps
    for _ in range(done * each):
        next(order)
    while True:
        yield [_batch(session.rows.train, next(order)) for _ in range(each)]


def _evaluated(session: Session, step: int, total: int) -> Iterator[Event]:
    """Evaluate on the held-out rows, log it, and keep the adapter if it is the best so far."""
    rows, method, run = session.rows.held_out, session.method, session.run
    order = index_batches(
        [example.length for example in rows], 4 * session.settings.batch_size, 0, 0
    )
    batches = (_batch(rows, indices) for indices in order)
    means: dict[str, float] = {}
    loss = method.loss(session.config)
    for done, so_far in evaluate(session.policy, loss, batches, method.weight):
        means = so_far
        yield Event("evaluating", step=done, total=len(rows))
    values: dict[str, Any] = method.derived(means)
    values["rows"] = len(rows)
    if "rewards/accuracies" in values:
        low, high = wilson(values["rewards/accuracies"] * len(rows), len(rows))
        values["accuracy_low"], values["accuracy_high"] = low, high
        values["shorter_wins"] = _shorter_wins(rows)
    earlier = [row["loss"] for row in run.metrics("eval") if 0 < row["step"] < step]
    run.log("eval", step, values)
    if step > 0 and values["loss"] < min(earlier, default=float("inf")):
        _save_result(session, run.path / "best")
    yield Event("eval", step=step, total=total, values=values)


def _shorter_wins(rows: list[Example]) -> float:
    """The accuracy of preferring the response with fewer tokens; a draw counts half."""
    pairs = [
        (len(row.responses[better]), len(row.responses[worse]))
        for row in rows
        for better, worse in _ordered(row)
    ]
    return sum((a < b) + 0.5 * (a == b) for a, b in pairs) / max(len(pairs), 1)


def _ordered(row: Example) -> list[tuple[int, int]]:
    """(better, worse): every two responses of an example of which the data say that."""
    scores = row.meta.get("scores", [1.0, 0.0])
    places = range(len(scores))
    return [(i, j) for i in places for j in places if scores[i] > scores[j]]


def _before(session: Session) -> dict[str, float] | None:
    """What the held-out rows looked like before the first step."""
    if session.method.reference and session.method.record is Pair:
        pairs = [example.meta["reference"] for example in session.rows.held_out]
        share = sum(chosen > rejected for chosen, rejected in pairs) / max(len(pairs), 1)
        return {"logps/accuracies": share} if pairs else None
    return next((row for row in session.run.metrics("eval") if row["step"] == 0), None)


def _known_at_start(session: Session) -> bool:
    """Whether step 0 needs no look: a policy that is its own reference, a fresh reward head."""
    fresh_head = session.method.reward_head and session.settings.adapter is None
    return session.method.reference or fresh_head


def _save_result(session: Session, folder: Path) -> None:
    folder.mkdir(exist_ok=True)
    save_adapter(folder, session.model.module, session.lora, str(session.model.path))
    if session.policy.reward is not None:
        save_head(folder, session.policy.reward)
    if session.words:
        write_atomic(folder / CONTROL, to_text(session.words))


def _save(session: Session, step: int, optimizer: optim.Optimizer) -> None:
    """A checkpoint, and the same weights as the run's adapter."""
    session.run.save_checkpoint(step, lambda folder: save_state(folder, session.policy, optimizer))
    _save_result(session, session.run.path)


def _values(step: Step, method: Method) -> dict[str, float]:
    return {
        "loss": step.loss,
        **method.derived(step.metrics),
        "grad_norm": step.grad_norm,
        "learning_rate": step.learning_rate,
        "tokens": step.tokens,
        "tokens_per_second": step.tokens / step.seconds,
        "padding": step.padding,
        "seconds": step.seconds,
        "peak_memory": mx.get_peak_memory(),
    }


def _steps(session: Session, stop: threading.Event) -> Iterator[Event]:
    run, settings, policy, total = session.run, session.settings, session.policy, session.total
    optimizer = adamw((settings.betas[0], settings.betas[1]), settings.weight_decay)
    optimizer.init(joined(policy.trainable.trainable_parameters()))
    done = 0
    if checkpoints := run.checkpoints():
        done = checkpoints[-1]
        load_state(run.checkpoint_path(done), policy, optimizer)
        yield Event("note", f"going on after step {done}", done, total)
    elif session.rows.held_out and not _known_at_start(session):
        yield from _evaluated(session, 0, total)
    kept = [row for row in run.metrics("train") if row["step"] <= done]
    used = {name: sum(row[name] for row in kept) for name in ("tokens", "seconds")}
    course = Course(
        run,
        settings,
        total,
        done,
        used,
        values=lambda step: _values(step, session.method),
        ahead=lambda step: steps_ahead(settings, step, used["seconds"], total),
        evaluate=partial(_evaluated, session) if session.rows.held_out else None,
        save=lambda step: _save(session, step, optimizer),
        save_result=lambda: _save_result(session, run.path),
        result=(HEAD,),
    )
    policy.shared = policy.separate = 0  # the reference's batches are not training's
    steps = fit(
        policy,
        session.method.loss(session.config),
        _updates(session, done),
        optimizer,
        rate=course.rate,
        weight=session.method.weight,
        clip=settings.grad_clip,
        first=done + 1,
        seed=settings.seed,
    )
    if (yield from follow(course, steps, stop)):
        summary = {
            "shared_batches": policy.shared,
            "separate_batches": policy.separate,
            "before": _before(session),
        }
        yield from finished(course, summary)
