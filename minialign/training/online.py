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
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from minialign.durable import read_object
from minialign.engine import Engine
from minialign.errors import UserError
from minialign.learn.batch import Batch
from minialign.learn.fit import Step
from minialign.learn.policy import add_value_head, make_policy
from minialign.methods import Method, ppo
from minialign.methods.ppo import Config
from minialign.models.adapter import load_adapter
from minialign.models.sharing import bare_copy
from minialign.run_folder import Run
from minialign.scoring.open import open_scorer
from minialign.training.bookkeeping import Bookkeeping, log_values, train
from minialign.training.budget import steps_ahead
from minialign.training.events import UNKNOWN, Event
from minialign.training.parts import Parts, attach_adapter, open_parts, prepare_passes
from minialign.training.rollouts import Learner, Phase, evaluate, next_phase, updates
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
    learner = _open_learner(parts)
    phases = Phases(learner)
    books = Bookkeeping(
        parts,
        batches=phases.batches,
        values=phases.values,
        ahead=partial(_ahead, parts),
        evaluate=partial(evaluate, learner, stop=stop),
        weight=partial(ppo.weight, config),
        ready=partial(phases.be_ready, stop),
        keep=phases.keep,
        restore=phases.restore,
        advice="try a smaller --learning-rate or --grad-clip 0.5",
    )
    yield from train(books, stop)


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
    reference = make_policy(reference_model, gradient=False)
    reference.share_prompts = parts.policy.share_prompts
    gae = parts.config.advantage == "gae"
    parts.units = add_value_head(parts.policy, parts.start_from) if gae else (0.0, 1.0)
    engine = Engine(parts.model)
    return Learner(parts, engine, reference, open_scorer(parts.config.scorer, engine=engine))


def _ahead(parts: Parts, step: int) -> int:
    """How many updates there will be in all, as it looks before update ``step``."""
    settings, used = parts.settings, parts.used
    ahead = steps_ahead(settings, step, used["seconds"], parts.total)
    if settings.max_tokens:
        allowed = (step - 1) * settings.max_tokens / used["tokens"] if step > 1 else GUESS
        ahead = min(ahead, max(step, round(allowed)))
    return ahead


@dataclass
class Phases:
    """The answers under way: what is left of them to learn from, and the next ones in time."""

    learner: Learner
    phase: Phase | None = None
    targets: ppo.Targets | None = None
    waiting: deque[list[list[int]]] = field(default_factory=deque)  # micro-batches of each update

    def begin(self, phase: Phase | None, done: int) -> None:
        """Learn from a phase whose updates up to ``done`` were made already."""
        self.phase = phase
        if phase:
            config = self.learner.config
            self.targets = ppo.targets(phase.answers, config, phase.beta, phase.units)
            self.waiting.extend(updates(self.learner, phase)[done - phase.first :])

    def be_ready(self, stop: threading.Event, done: int) -> Generator[Event, None, bool | None]:
        """Answers to learn from; true when new ones were written, None when stopped meanwhile."""
        if self.waiting:
            return False
        phase = yield from next_phase(self.learner, self.phase, done, stop)
        if phase is None:
            return None
        self.begin(phase, done)
        return True

    def batches(self, done: int) -> Iterator[list[Batch]]:
        """The micro-batches of each update, for ``fit``."""
        rows = self.learner.parts.rows.train
        while self.phase and self.targets:
            phase = self.phase
            yield [
                ppo.phase_batch(rows, phase.answers, self.targets, phase.beta, indices)
                for indices in self.waiting.popleft()
            ]

    def keep(self, folder: Path) -> None:
        """Write the answers under way into a checkpoint."""
        held = {"phase": self.phase and asdict(self.phase), "used": self.learner.parts.used}
        (folder / PHASE).write_text(json.dumps(held), encoding="utf-8")

    def restore(self, folder: Path) -> None:
        """Go on with the answers that ``keep`` wrote.

        Raises:
            UserError: when the file is missing or damaged.
        """
        parts = self.learner.parts
        try:
            held = read_object(folder / PHASE)
            parts.used = dict(held["used"])
            phase = held["phase"] and Phase.from_json(held["phase"])
        except (OSError, ValueError, KeyError, TypeError) as reason:
            said = f"{folder / PHASE} is damaged: {reason!r}"
            raise UserError(said, "delete that checkpoint's folder") from None
        if phase:
            parts.units = phase.units
        self.begin(phase, int(folder.name))

    def values(self, step: Step) -> dict[str, Any]:
        """What is logged of an update."""
        assert self.phase
        assert self.targets
        first = step.step == self.phase.first + 1
        written = (self.phase.tokens, self.phase.seconds) if first else (0, 0.0)
        metrics = {**step.metrics, **self.targets.metrics, "phase": self.phase.number}
        return log_values(step, metrics, written)
