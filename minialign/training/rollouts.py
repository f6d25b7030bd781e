"""The answers that PPO learns from: written, scored and read by the policy and its reference.

A phase is the answers to some prompts, written by the policy as it was before the updates on them.
"""

import threading
import time
from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import mlx.core as mx
import numpy as np

from minialign.durable import Journal
from minialign.engine import Engine, Sampling
from minialign.engine.next_token import sample_seed
from minialign.learn.batch import Example, collate, index_batches
from minialign.learn.policy import Policy
from minialign.methods import ppo
from minialign.methods.ppo import Answers, Config
from minialign.progress import Pace, Progress
from minialign.rewards.scorer import Scorer
from minialign.samples.groups import sample_groups
from minialign.statistics.bootstrap import mean_interval
from minialign.training.bookkeeping import log_evaluation
from minialign.training.budget import READS
from minialign.training.events import Evaluated, Event, PhaseSampled, Sampled
from minialign.training.parts import Parts

SAMPLES = "samples.jsonl"
SHOWN = 4  # answers a phase that are kept there


@dataclass(frozen=True)
class Phase:
    """The answers of one phase and what the updates on them need."""

    number: int  # from 0
    first: int  # updates before it
    beta: float
    kl: float  # nats an answer, from which the next beta follows
    units: tuple[float, float] | None  # of the value head
    answers: list[Answers]
    tokens: int  # read and written for it
    seconds: float

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> "Phase":
        """A phase from what ``dataclasses.asdict`` made of it.

        Raises:
            KeyError, TypeError: when something is missing or of another kind.
        """
        answers = [Answers(**one) for one in values["answers"]]
        return cls(**{**values, "answers": answers, "units": tuple(values["units"])})


@dataclass
class Learner:
    """A run that learns from its own answers: its parts, and what writes and scores these."""

    parts: Parts
    engine: Engine
    reference: Policy
    scorer: Scorer

    @property
    def config(self) -> Config:
        """The method's own settings."""
        return self.parts.config


def chosen_prompts(count: int, size: int, seed: int, number: int) -> list[int]:
    """Which prompts phase ``number`` answers: the next ``size`` of one shuffle after the other."""
    places = range(number * size, (number + 1) * size)
    shuffles = {place // count for place in places}
    orders = {i: np.random.default_rng((seed, i)).permutation(count) for i in shuffles}
    return [int(orders[place // count][place % count]) for place in places]


def answers_to(
    learner: Learner,
    examples: Sequence[Example],
    n: int,
    seed: int,
    what: str,
    stop: threading.Event,
) -> Generator[Event, None, list[Answers] | None]:
    """n answers to each prompt with their scores, in order; None when stopped on the way."""
    asked = [one.meta["row"] for one in examples]
    answered: dict[int, Answers] = {}
    pace, config = Pace(), learner.config
    how = Sampling(temperature=config.temperature, max_tokens=config.response_length)
    for one in sample_groups(learner.engine, asked, n, how, seed, config.rollout_batch):
        if stop.is_set():
            return None
        answered[one.index] = Answers(
            prompt=one.index,
            ids=[sample.ids for sample in one.samples],
            texts=one.texts,
            ended=[sample.finish_reason == "stop" for sample in one.samples],
            scores=learner.scorer.score(one.asked, one.texts),
        )
        at = Progress(f"{what}: answers", len(answered), len(asked))
        values = {"eta": pace.seconds_left(at), "prompt": one.index}
        yield Sampled(f"{at.what} to {at.done} of {at.total} prompts", at.done, at.total, values)
    answers = [answered[i] for i in range(len(asked))]
    _read(learner, examples, answers)
    return answers


def _read(learner: Learner, examples: Sequence[Example], answers: Sequence[Answers]) -> None:
    """Fill in the log-probs of policy and reference, and the values, by the forward pass that
    training uses (a sampler's own log-probs are other numbers)."""
    policy, temperature = learner.parts.policy, learner.config.temperature
    lengths = [examples[i].length for i in range(len(answers))]
    with policy.reading():
        for indices in index_batches(lengths, learner.parts.settings.batch_size, 0, 0):
            taken = [answers[i] for i in indices]
            batch = collate([ppo.answered(examples[i], answers[i]) for i in indices])
            logps, values = ppo.token_values(policy, batch, temperature)
            reference, _ = ppo.token_values(learner.reference, batch, temperature)
            for name, array in (("logps", logps), ("reference", reference), ("values", values)):
                if array is not None:
                    numbers = iter(array.astype(mx.float32).tolist())  # type: ignore[arg-type]
                    for one in taken:
                        getattr(one, name).extend([next(numbers) for _ in ids] for ids in one.ids)
    mx.clear_cache()


def _cost(learner: Learner, examples: Sequence[Example], answers: Sequence[Answers]) -> int:
    """Tokens read and written for these answers: prompts, answers, the passes for log-probs of
    policy and reference, and those of a scorer that is a model."""
    passes = 2 + READS.get(learner.config.scorer.partition(":")[0], 0)
    total = 0
    for example, one in zip(examples, answers, strict=True):
        written = sum(map(len, one.ids))
        total += len(example.prompt) + written
        total += passes * (len(example.prompt) * len(one.ids) + written)
    return total


def next_phase(
    learner: Learner, last: Phase | None, done: int, stop: threading.Event
) -> Generator[Event, None, Phase | None]:
    """Sample, score and read the next phase's answers; None when stopped on the way."""
    config, rows = learner.config, learner.parts.rows.train
    number = last.number + 1 if last else 0
    beta = ppo.next_beta(last.beta, last.kl, config) if last else config.beta
    began = time.monotonic()
    size = min(config.rollout_prompts, len(rows))
    which = chosen_prompts(len(rows), size, learner.parts.settings.seed, number)
    examples = [rows[i] for i in which]
    seed = sample_seed(learner.parts.settings.seed, number + 1, 0)
    answers = yield from answers_to(learner, examples, config.n, seed, f"phase {number + 1}", stop)
    if answers is None:
        return None
    tokens = _cost(learner, examples, answers)
    answers = [replace(one, prompt=which[one.prompt]) for one in answers]
    taught = ppo.targets(answers, config, beta, learner.parts.units)
    learner.parts.units = taught.units
    seconds = time.monotonic() - began
    phase = Phase(number, done, beta, taught.metrics["kl"], taught.units, answers, tokens, seconds)
    _keep_samples(learner, phase)
    text = (
        f"phase {number + 1}: reward {taught.metrics['reward/mean']:.4g}, "
        f"kl {taught.metrics['kl']:.3g} (beta {beta:.3g}), "
        f"{taught.metrics['response_length']:.0f} tokens, "
        f"{100 * taught.metrics['ended']:.0f} % ended, {seconds:.0f} s"
    )
    values = {**taught.metrics, "phase": number, "tokens": tokens, "seconds": seconds}
    yield PhaseSampled(text, done, learner.parts.total, values)
    return phase


def _keep_samples(learner: Learner, phase: Phase) -> None:
    """Append the first answers of a phase to samples.jsonl, once."""
    parts = learner.parts
    journal = Journal.resume(parts.run.path / SAMPLES)
    if phase.number in journal.known("phase"):
        return  # written before the run was killed
    journal.append(
        *(
            {
                "phase": phase.number,
                "step": phase.first,
                "prompt": parts.rows.train[one.prompt].meta["row"].prompt,
                "response": one.texts[0],
                "reward": one.scores[0],
                "kl": sum(one.logps[0]) - sum(one.reference[0]),
                "ended": one.ended[0],
            }
            for one in phase.answers[:SHOWN]
        )
    )


def updates(learner: Learner, phase: Phase) -> list[list[list[int]]]:
    """The indices of the micro-batches of each update of a phase."""
    settings, config = learner.parts.settings, learner.config
    each = settings.grad_accumulation_steps
    lengths = [max(map(len, one.ids)) for one in phase.answers]
    batches = []
    for epoch in range(config.ppo_epochs):
        number = phase.number * config.ppo_epochs + epoch
        micro = index_batches(lengths, settings.batch_size, settings.seed, number)
        batches += [micro[i : i + each] for i in range(0, len(micro), each)]
    return batches


def evaluate(learner: Learner, step: int, total: int, stop: threading.Event) -> Iterator[Event]:
    """Answer the held-out prompts, the same seeds each time, and log the reward. Nothing when
    stopped on the way."""
    rows = learner.parts.rows.held_out
    seed = sample_seed(learner.parts.settings.seed, 0, 1)
    answers = yield from answers_to(learner, rows, learner.config.heldout_n, seed, "held out", stop)
    if answers is None:
        return
    mean, low, high = mean_interval([float(np.mean(one.scores)) for one in answers])
    values = ppo.describe(answers, learner.config)
    values |= {"reward/mean": mean, "reward/low": low, "reward/high": high, "rows": len(rows)}
    log_evaluation(learner.parts, step, values)
    text = (
        f"held out, step {step}: reward {mean:.4g} ({low:.4g} to {high:.4g}), "
        f"kl {values['kl']:.3g}, {values['response_length']:.0f} tokens"
    )
    yield Evaluated(step, total, values, text)
