"""What a response is worth: its log-prob, DPO's implicit reward, a reward head's value."""

import contextlib
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

import mlx.core as mx

from minialign.engine import Engine
from minialign.engine.open import Fetching, base_of, open_engine
from minialign.errors import UserError
from minialign.learn.batch import Batch, Example, TooLong, collate, encode
from minialign.learn.forward import last_hidden, response_logps
from minialign.learn.policy import Policy, add_reward_head, make_policy
from minialign.models.adapter import adapter_off, load_adapter, resolve_adapter
from minialign.models.head import FILE as HEAD
from minialign.models.load import Model, load
from minialign.records import Pair, Prompted, Rated, Record

TOKENS = 4096  # tokens of one batch, padding included
WINDOW = 64  # rows that are sorted by length and scored together

# examples -> one value for each response of each example
Measure = Callable[[Sequence[Example]], list[list[float]]]


@dataclass(frozen=True)
class Scored:
    """One response and its values; those that were not asked for are None."""

    row: int  # which record, from 0
    role: str  # "chosen", "rejected", or "" where the data does not say
    response: str
    tokens: int
    logp: float | None = (
        None  # natural log, summed over the response's tokens, end of turn included
    )
    mean_logp: float | None = None
    reference_logp: float | None = None
    implicit_reward: float | None = None  # beta x (logp - reference_logp)
    reward: float | None = None
    source: str = ""


def _batched(policy: Policy, values: Callable[[Policy, Batch], mx.array]) -> Measure:
    """``values`` (one a response) over batches of rows of like length."""

    def measure(examples: Sequence[Example]) -> list[list[float]]:
        policy.trainable.eval()
        results: list[list[float]] = [[] for _ in examples]
        order = sorted(range(len(examples)), key=lambda i: examples[i].length)
        while order:
            taken = [order.pop()]  # the longest first: memory is at its peak at once
            rows = len(examples[taken[0]].responses)
            width = examples[taken[0]].length
            while order and width * (rows + len(examples[order[-1]].responses)) <= TOKENS:
                taken.append(order.pop())
                rows += len(examples[taken[-1]].responses)
            found = iter(_floats(values(policy, collate([examples[i] for i in taken]))))
            for i in taken:
                results[i] = [next(found) for _ in examples[i].responses]
        mx.clear_cache()
        return results

    return measure


def _floats(values: mx.array) -> list[float]:
    return values.astype(mx.float32).tolist()  # type: ignore[return-value]


def logps(policy: Policy) -> Measure:
    """Summed log-probs of the trained tokens of each response."""
    return _batched(policy, lambda policy, batch: response_logps(policy, batch)[0])


def reward_values(policy: Policy) -> Measure:
    """The reward head's value at the last token of each response."""
    return _batched(policy, lambda policy, batch: policy.reward(last_hidden(policy, batch)))


def reward_policy(run: str | Path, model: Model) -> Policy:
    """The policy of a reward run, with its head, for ``reward_values``."""
    folder = resolve_adapter(run)
    if not (folder / HEAD).exists():
        raise UserError(f"{run} has no reward head", "train one: minialign reward --data FILE")
    load_adapter(model.module, folder)
    policy = make_policy(model, reward_head=True)
    policy.gradient = False
    add_reward_head(policy, folder)
    return policy


def run_settings(adapter: str | Path) -> dict[str, Any]:
    """The settings of the run that an adapter is of; {} for an adapter from elsewhere."""
    folder = resolve_adapter(adapter)
    for place in (folder, folder.parent):  # RUN, or RUN/best
        with contextlib.suppress(OSError, ValueError):
            config = json.loads((place / "config.json").read_text(encoding="utf-8"))
            if isinstance(config, dict) and "method" in config:
                return config
    return {}


@dataclass
class Scorer:
    """The measures that were asked for, each with the model whose tokens it reads."""

    policy: Engine | None = None
    reference: Callable[[Sequence[Example]], list[list[float]]] | None = None
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
            window, examples = self._encoded(window, self.policy.model)
            values["logp"] = logps(self.policy.policy)(examples)
            if self.reference is not None:
                values["reference_logp"] = self.reference(examples)
        if self.reward is not None:
            model, measure = self.reward
            same = self.policy is not None and self.policy.model.fingerprint == model.fingerprint
            if not same:
                before = {index: position for position, (index, _) in enumerate(window)}
                window, examples = self._encoded(window, model)
                kept = [before[index] for index, _ in window]
                values = {name: [found[i] for i in kept] for name, found in values.items()}
            values["reward"] = measure(examples)
        return [
            self._scored(index, record, example, k, {n: v[at][k] for n, v in values.items()})
            for at, ((index, record), example) in enumerate(zip(window, examples, strict=True))
            for k in range(len(example.responses))
        ]

    def _encoded(
        self, window: list[tuple[int, Record]], model: Model
    ) -> tuple[list[tuple[int, Record]], list[Example]]:
        limit = self.max_length or Engine.context_of(model.config) or 4096
        coded = [(one, encode(one[1], model.tokenizer, limit, "last")) for one in window]
        self.too_long += [found for _, found in coded if isinstance(found, TooLong)]
        kept = [(one, found) for one, found in coded if isinstance(found, Example)]
        self.cut += sum(found.cut > 0 for _, found in kept)
        return [one for one, _ in kept], [found for _, found in kept]

    def _scored(
        self, index: int, record: Record, example: Example, k: int, values: dict[str, float]
    ) -> Scored:
        count = sum(example.masks[k])
        if "logp" in values:
            values["mean_logp"] = values["logp"] / max(count, 1)
        if "reference_logp" in values:
            values["implicit_reward"] = self.beta * (values["logp"] - values["reference_logp"])
        role = ("chosen", "rejected")[k] if isinstance(record, Pair) else ""
        return Scored(index, role, _texts(record)[k], count, source=example.source, **values)


def _texts(record: Record) -> list[str]:
    match record:
        case Pair():
            return [record.chosen, record.rejected]
        case Rated():
            return [record.response]
        case Prompted():
            return []
    return getattr(record, "responses", None) or [record.messages[-1]["content"]]  # type: ignore[union-attr]


def open_scorer(
    model: str | None = None,
    adapter: str | None = None,
    reward: str | None = None,
    beta: float | None = None,
    max_length: int | None = None,
    progress: Fetching | None = None,
) -> Scorer:
    """What ``score`` measures with.

    Log-probs, unless only a reward run is given; with an adapter the implicit reward too, against
    the reference that its run was trained with: the base, or the adapter it started from.

    Raises:
        UserError: when a model, adapter or reward run is not there or they do not fit together.
    """
    scorer = Scorer(max_length=max_length)
    if beta is not None and beta <= 0:
        raise UserError(f"beta is {beta}", "it must be above 0; 0.1 is usual")
    if adapter is not None or reward is None:
        scorer.policy = open_engine(model, adapter, progress)
    if adapter is not None and scorer.policy is not None:
        settings = run_settings(adapter)
        scorer.beta = beta or settings.get("beta") or scorer.beta
        start = settings.get("reference_adapter") or settings.get("adapter")
        scorer.reference = reference_measure(scorer.policy, start)
    elif beta is not None:
        raise UserError("--beta is for the implicit reward of an adapter", "give --adapter RUN")
    if reward is not None:
        name = model or base_of(reward)
        bare = open_engine(name, None, progress).model
        scorer.reward = (bare, reward_values(reward_policy(reward, bare)))
    return scorer


def reference_measure(engine: Engine, start: str | None) -> Measure:
    """Log-probs of the reference: the engine's model without its adapter, or with ``start``."""
    if start:
        model = load(engine.model.name, start)
        policy = make_policy(model)
        policy.gradient = False
        return logps(policy)

    def without_adapter(examples: Sequence[Example]) -> list[list[float]]:
        with adapter_off(engine.model.module):
            return logps(engine.policy)(examples)

    return without_adapter
