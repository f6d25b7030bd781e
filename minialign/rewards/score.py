"""Responses of data files, each with what models say of it: ``minialign score``."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice

from minialign.engine import Engine
from minialign.engine.open import base_of, open_engine
from minialign.errors import UserError
from minialign.formats.kinds import answers_of
from minialign.learn.batch import Example, TooLong, encode
from minialign.learn.policy import make_policy
from minialign.models.adapter import adapter_off
from minialign.models.load import Model, load
from minialign.progress import Tell
from minialign.records import Pair, Ranking, Record
from minialign.rewards.runs import (
    Measure,
    logps,
    open_reward_policy,
    read_reference,
    read_settings,
    reward_values,
)

WINDOW = 64  # rows that are sorted by length and scored together


@dataclass(frozen=True)
class Scored:
    """One response and its values; those that were not asked for are None."""

    row: int  # which record, from 0
    role: str  # "chosen", "rejected", or "" where the data does not say
    response: str
    tokens: int
    logp: float | None = None  # natural log, summed over its tokens, end of turn included
    mean_logp: float | None = None
    reference_logp: float | None = None
    implicit_reward: float | None = None  # beta x (logp - reference_logp)
    reward: float | None = None
    source: str = ""


@dataclass
class Measures:
    """The measures that were asked for, each with the model whose tokens it reads."""

    policy: Engine | None = None
    reference: Measure | None = None
    beta: float = 0.1
    reward: tuple[Model, Measure] | None = None
    max_length: int | None = None  # tokens of a prompt with a response; None: the model's context
    too_long: list[TooLong] = field(default_factory=list)
    cut: int = 0  # prompts cut from the left

    def score(self, records: Iterable[Record]) -> Iterator[Scored]:
        """The values of every response, in the order of the records.

        Rows whose responses do not fit are left out and listed in ``too_long``.
        """
        numbered = enumerate(records)
        while window := list(islice(numbered, WINDOW)):
            yield from self._window(window)

    def _window(self, window: list[tuple[int, Record]]) -> list[Scored]:
        values: dict[str, list[list[float]]] = {}
        if self.policy is not None:
            window, examples = self._encode(window, self.policy.model)
            values["logp"] = logps(self.policy.policy)(examples)
            if self.reference is not None:
                values["reference_logp"] = self.reference(examples)
        if self.reward is not None:
            model, measure = self.reward
            same = self.policy is not None and self.policy.model.fingerprint == model.fingerprint
            if not same:
                before = {index: position for position, (index, _) in enumerate(window)}
                window, examples = self._encode(window, model)
                kept = [before[index] for index, _ in window]
                values = {name: [rows[i] for i in kept] for name, rows in values.items()}
            values["reward"] = measure(examples)
        scored = []
        for at, ((index, record), example) in enumerate(zip(window, examples, strict=True)):
            texts = record.responses if isinstance(record, Ranking) else answers_of(record)
            roles = ("chosen", "rejected") if isinstance(record, Pair) else [""] * len(texts)
            for k, (role, text, mask) in enumerate(zip(roles, texts, example.masks, strict=True)):
                own = {name: rows[at][k] for name, rows in values.items()}
                if "logp" in own:
                    own["mean_logp"] = own["logp"] / max(sum(mask), 1)
                if "reference_logp" in own:
                    own["implicit_reward"] = self.beta * (own["logp"] - own["reference_logp"])
                scored.append(Scored(index, role, text, sum(mask), source=example.source, **own))
        return scored

    def _encode(
        self, window: list[tuple[int, Record]], model: Model
    ) -> tuple[list[tuple[int, Record]], list[Example]]:
        limit = self.max_length or Engine.context_of(model.config) or 4096
        kept, examples = [], []
        for numbered in window:
            example = encode(numbered[1], model.tokenizer, limit, "last")
            if isinstance(example, TooLong):
                self.too_long.append(example)
            else:
                kept.append(numbered)
                examples.append(example)
        self.cut += sum(example.cut > 0 for example in examples)
        return kept, examples


def open_measures(
    model: str | None = None,
    adapter: str | None = None,
    reward: str | None = None,
    beta: float | None = None,
    max_length: int | None = None,
    progress: Tell | None = None,
) -> Measures:
    """Open what ``score`` measures with.

    Log-probs, unless only a reward run is given; with an adapter the implicit reward too, against
    the reference that its run was trained with: the base, or the adapter it started from.

    Raises:
        UserError: when a model, adapter or reward run is not there or they do not fit together.
    """
    measures = Measures(max_length=max_length)
    if beta is not None and beta <= 0:
        raise UserError(f"beta is {beta}", "it must be above 0; 0.1 is usual")
    if adapter is not None:
        measures.policy = open_engine(model, adapter, progress)
        own_beta, start = read_reference(read_settings(adapter))
        measures.beta = beta or own_beta
        measures.reference = reference_measure(measures.policy, start)
    elif reward is None:
        measures.policy = open_engine(model, None, progress)
    if adapter is None and beta is not None:
        raise UserError("--beta is for the implicit reward of an adapter", "give --adapter RUN")
    if reward is not None:
        bare = open_engine(model or base_of(reward), None, progress).model
        measures.reward = bare, reward_values(open_reward_policy(reward, bare))
    return measures


def reference_measure(engine: Engine, start: str | None) -> Measure:
    """Measure log-probs by the reference: the engine's model without its adapter, or ``start``."""
    if start:
        model = load(engine.model.name, start)
        policy = make_policy(model)
        policy.gradient = False
        return logps(policy)

    def without_adapter(examples: Sequence[Example]) -> list[list[float]]:
        with adapter_off(engine.model.module):
            return logps(engine.policy)(examples)

    return without_adapter
