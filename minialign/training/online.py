"""A PPO run (RLOO, GRPO): phases of answering, scoring and updating, as a stream of events.

The policy writes its answers itself, with the adapter as it is at that moment; the reference is the
same weights without it, or with the adapter that training starts from. The updates are ``fit``'s,
like every method's.

A checkpoint holds the answers of the phase under way, so that a run that is killed goes on with the
very same numbers; one is made when a phase's answers are complete. Answers that were being written
when it was killed are written again, from the same seeds by the same weights.
"""

import json
import math
import threading
from collections import deque
from collections.abc import Generator, Iterator
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx.optimizers as optim

from minialign.engine import Engine
from minialign.errors import UserError
from minialign.learn.batch import Batch
from minialign.learn.fit import Step, adamw, fit, joined, load_state, save_state
from minialign.learn.policy import Counts, add_value_head, make_policy
from minialign.methods import Method, ppo
from minialign.methods.ppo import Config
from minialign.models.adapter import load_adapter
from minialign.models.head import VALUE_FILE
from minialign.models.sharing import bare_copy
from minialign.run_folder import Run
from minialign.scoring.open import open_scorer
from minialign.training.bookkeeping import Bookkeeping, finish, record_steps
from minialign.training.budget import steps_ahead
from minialign.training.events import UNKNOWN, Event, Note
from minialign.training.parts import Parts, attach_adapter, open_parts, prepare_passes
from minialign.training.rollouts import Learner, Phase, evaluate, next_phase, save, updates
from minialign.training.settings import Settings

PHASE = "phase.json"
GUESS = 100  # steps of a run of which only the budget is known, before the first


def events(
    run: Run, method: Method, settings: Settings, config: Config, stop: threading.Event
) -> Iterator[Event]:
    """Everything that happens in a run on the model's own answers, which goes on where its
    checkpoints are.

    Raises:
        UserError: for bad rows, a model, adapter or scorer that is not there, too little memory.
    """
    parts = yield from open_parts(run, method, settings, config, _plan)
    yield from _train(_open_learner(parts), stop)


def _plan(parts: Parts) -> tuple[int, str]:
    """How many updates there will be, and what is said of them and of the prompts."""
    settings, config, rows = parts.settings, parts.config, parts.rows
    size = min(config.rollout_prompts, len(rows.train))
    each = settings.batch_size * settings.grad_accumulation_steps
    updates = config.ppo_epochs * math.ceil(size / each)
    total = settings.iters or max(1, round(settings.epochs * len(rows.train) / size)) * updates
    if settings.max_tokens or settings.max_minutes:
        total = settings.iters or UNKNOWN
    held_out = f", {len(rows.held_out)} held out" if rows.held_out else ""
    steps = f"{total} steps" if total < UNKNOWN else "steps until the budget is used"
    return total, (
        f"{len(rows.train)} prompts to answer{held_out}; {steps}, {updates} on each {size} x"
        f" {config.n} answers"
    )


def _open_learner(parts: Parts) -> Learner:
    """The reference, the adapter, the value head and the scorer of a run."""
    reference_model = bare_copy(parts.model)
    if base := parts.reference_from or parts.start_from:
        load_adapter(reference_model.module, base)
    attach_adapter(parts)
    prepare_passes(parts)
    reference = make_policy(reference_model)
    reference.gradient = False
    reference.share_prompts = parts.policy.share_prompts
    gae = parts.config.advantage == "gae"
    units = add_value_head(parts.policy, parts.start_from) if gae else (0.0, 1.0)
    engine = Engine(parts.model)
    return Learner(parts, engine, reference, open_scorer(parts.config.scorer, engine=engine), units)


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
    settings, used = learner.parts.settings, learner.used
    ahead = steps_ahead(settings, step, used["seconds"], learner.parts.total)
    if settings.max_tokens:
        allowed = (step - 1) * settings.max_tokens / used["tokens"] if step > 1 else GUESS
        ahead = min(ahead, max(step, round(allowed)))
    return ahead


def _train(learner: Learner, stop: threading.Event) -> Iterator[Event]:
    parts = learner.parts
    run, settings, policy = parts.run, parts.settings, parts.policy
    optimizer = adamw((settings.betas[0], settings.betas[1]), settings.weight_decay)
    optimizer.init(joined(policy.trainable.trainable_parameters()))
    phases, done = Phases(learner, optimizer), 0
    if checkpoints := run.checkpoints():
        done = checkpoints[-1]
        phases.restore(done)
        yield Note(f"going on after step {done}", done, parts.total)
    elif parts.rows.held_out:
        yield from evaluate(learner, 0, parts.total, stop)
    books = Bookkeeping(
        run,
        settings,
        parts.total,
        done,
        learner.used,
        values=phases.values,
        ahead=lambda step: _ahead(learner, step),
        evaluate=partial(evaluate, learner, stop=stop) if parts.rows.held_out else None,
        save=phases.save,
        save_result=lambda: save(learner, run.path),
        best=("reward/mean", max),
        ready=partial(phases.be_ready, stop),
        summed=("tokens", "seconds", "rollout_tokens", "rollout_seconds"),
        result=(VALUE_FILE,),
        advice="try a smaller --learning-rate or --grad-clip 0.5",
    )
    policy.counts = Counts()
    steps = fit(
        policy,
        parts.method.loss(learner.config),
        phases.batches(),
        optimizer,
        rate=books.rate,
        weight=partial(ppo.weight, learner.config),
        clip=settings.grad_clip,
        first=done + 1,
        seed=settings.seed,
    )
    if (yield from record_steps(books, steps, stop)):
        rows, evals = run.metrics("train"), run.metrics("eval")
        summary = {"rollout_tokens": int(sum(row["rollout_tokens"] for row in rows))}
        before = next((row for row in evals if row["step"] == 0), None)
        yield from finish(books, summary | policy.counts.batches() | {"before": before})


class Phases:
    """The answers under way: what is left of them to learn from, and the next ones in time."""

    def __init__(self, learner: Learner, optimizer: optim.Optimizer):
        self.learner, self.optimizer = learner, optimizer
        self.phase: Phase | None = None
        self.targets: ppo.Targets | None = None
        self.waiting: deque[list[list[int]]] = deque()  # the micro-batches of each update

    def begin(self, phase: Phase | None, done: int) -> None:
        """Learn from a phase, of which the updates up to ``done`` were made already."""
        self.phase = phase
        if phase:
            config = self.learner.config
            self.targets = ppo.targets(phase.answers, config, phase.beta, phase.units)
            self.waiting.extend(updates(self.learner, phase)[done - phase.first :])

    def be_ready(self, stop: threading.Event, done: int) -> Generator[Event, None, bool]:
        """Answers to learn from, written when the last ones are used up; false when stopped."""
        if self.waiting:
            return True
        phase = yield from next_phase(self.learner, self.phase, done, stop)
        if phase is None:
            return False
        self.begin(phase, done)
        self.save(done)
        return True

    def batches(self) -> Iterator[list[Batch]]:
        """The micro-batches of each update, for ``fit``."""
        rows = self.learner.parts.rows.train
        while self.phase and self.targets:
            phase = self.phase
            yield [
                ppo.phase_batch(rows, phase.answers, self.targets, phase.beta, indices)
                for indices in self.waiting.popleft()
            ]

    def save(self, step: int) -> None:
        """Write a checkpoint with the answers under way, and its weights as the run's adapter."""
        learner, run = self.learner, self.learner.parts.run

        def write(folder: Path) -> None:
            save_state(folder, learner.parts.policy, self.optimizer)
            held = {"phase": self.phase and asdict(self.phase), "used": learner.used}
            (folder / PHASE).write_text(json.dumps(held), encoding="utf-8")

        run.save_checkpoint(step, write)
        save(learner, run.path)

    def restore(self, step: int) -> None:
        """Put back what ``save`` wrote, and go on with its answers.

        Raises:
            UserError: when a file is missing, damaged or of another model.
        """
        learner = self.learner
        folder = learner.parts.run.checkpoint_path(step)
        load_state(folder, learner.parts.policy, self.optimizer)
        try:
            held = json.loads((folder / PHASE).read_text(encoding="utf-8"))
            learner.used = dict(held["used"])
            phase = held["phase"] and Phase.from_json(held["phase"])
        except (OSError, ValueError, KeyError, TypeError) as reason:
            raise UserError(
                f"{folder / PHASE} is damaged: {reason!r}", "delete that checkpoint's folder"
            ) from None
        if phase:
            learner.units = phase.units
        self.begin(phase, step)

    def values(self, step: Step) -> dict[str, Any]:
        """What is logged of an update."""
        assert self.phase
        assert self.targets
        first = step.step == self.phase.first + 1
        metrics = {**self.targets.metrics, "phase": self.phase.number}
        return _values(step, metrics, self.phase if first else None)
