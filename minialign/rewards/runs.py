"""What a run says of an answer: its log-prob, DPO's implicit reward, a reward head's value.

A scorer is a run with a measure; ``score`` takes the same measures over rows of data.
"""

import contextlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import mlx.core as mx

from minialign.durable import read_object
from minialign.engine import Engine
from minialign.engine.open import base_of
from minialign.errors import UserError
from minialign.learn.batch import Batch, Example, collate, encode_prompt, encode_response
from minialign.learn.forward import last_hidden, response_logps
from minialign.learn.policy import Policy, add_reward_head, make_policy
from minialign.models.adapter import load_adapter, resolve_adapter
from minialign.models.head import FILE as HEAD
from minialign.models.load import Model, load
from minialign.models.names import DEFAULT
from minialign.models.sharing import bare_copy
from minialign.models.sources.fetch import ensure
from minialign.progress import Tell
from minialign.records import Prompted
from minialign.rewards.scorer import Scorer, Values
from minialign.rewards.spec import parse

TOKENS = 4096  # tokens of one batch, padding included

# examples -> one value for each response of each example
Measure = Callable[[Sequence[Example]], list[list[float]]]


def _batch(policy: Policy, values: Callable[[Policy, Batch], mx.array]) -> Measure:
    """Take ``values`` (one a response) over batches of rows of like length."""

    def measure(examples: Sequence[Example]) -> list[list[float]]:
        policy.trainable.eval()
        results: list[list[float]] = [[] for _ in examples]
        order = sorted(range(len(examples)), key=lambda i: examples[i].length)
        while order:
            taken = [order.pop()]  # the longest first: memory is at its peak at once
            rows, width = len(examples[taken[0]].responses), examples[taken[0]].length
            while order and width * (rows + len(examples[order[-1]].responses)) <= TOKENS:
                taken.append(order.pop())
                rows += len(examples[taken[-1]].responses)
            array = values(policy, collate([examples[i] for i in taken])).astype(mx.float32)
            numbers: Iterator[Any] = iter(array.tolist())  # type: ignore[arg-type]
            for i in taken:
                results[i] = [next(numbers) for _ in examples[i].responses]
        mx.clear_cache()
        return results

    return measure


def logps(policy: Policy) -> Measure:
    """Measure the summed log-probs of the trained tokens of each response."""
    return _batch(policy, lambda policy, batch: response_logps(policy, batch)[0])


def reward_values(policy: Policy) -> Measure:
    """Measure the reward head's value at the last token of each response."""
    return _batch(policy, lambda policy, batch: policy.reward(last_hidden(policy, batch)))


def open_reward_policy(run: str | Path, model: Model) -> Policy:
    """Open the policy of a reward run, with its head, for ``reward_values``."""
    folder = resolve_adapter(run)
    if not (folder / HEAD).exists():
        raise UserError(f"{run} has no reward head", "train one: minialign reward --data FILE")
    load_adapter(model.module, folder)
    policy = make_policy(model, reward_head=True)
    policy.gradient = False
    add_reward_head(policy, folder)
    return policy


def read_settings(adapter: str | Path) -> dict[str, Any]:
    """Read the settings of the run that an adapter is of; {} for an adapter from elsewhere."""
    folder = resolve_adapter(adapter)
    for place in (folder, folder.parent):  # RUN, or RUN/best
        with contextlib.suppress(OSError, ValueError):
            config = read_object(place / "config.json")
            if "method" in config:
                return config
    return {}


def read_reference(settings: dict[str, Any]) -> tuple[float, str | None]:
    """(beta of a run's implicit reward, the adapter that its reference has)."""
    start = settings.get("reference_adapter") or settings.get("adapter")
    return settings.get("beta") or 0.1, start


def run_scorer(spec: str, progress: Tell | None = None, engine: Engine | None = None) -> Scorer:
    """Open the scorer that a run is: ``reward:RUN`` or ``dpo:RUN``. A run on the base model of
    ``engine`` reads that one's weights: they are in memory once.

    Raises:
        UserError: when the run or its model is not there.
    """
    kind, run = parse(spec)
    opened = {"reward": _reward, "dpo": _implicit}[kind]
    return Scorer(spec, opened(run, progress, engine))


def _base(run: str, progress: Tell | None, engine: Engine | None) -> Model:
    """Open the base model of a run, without any adapter."""
    name = base_of(run) or DEFAULT
    path = ensure(name, progress)
    if engine is not None and path.resolve() == engine.model.path.resolve():
        return bare_copy(engine.model)
    return load(name)


def _reward(run: str, progress: Tell | None, engine: Engine | None) -> Values:
    resolve_adapter(run)
    reader = Engine(_base(run, progress, engine))
    return _values(reader, reward_values(open_reward_policy(run, reader.model)))


def _implicit(run: str, progress: Tell | None, engine: Engine | None) -> Values:
    settings = read_settings(run)
    if settings.get("method", "dpo") != "dpo":
        problem = f"dpo:{run}: it is a run of {settings['method']!r}, not of dpo"
        raise UserError(problem, "its log-ratio is no implicit reward")
    beta, start = read_reference(settings)
    base, folder = _base(run, progress, engine), resolve_adapter(run)
    other = bare_copy(base)
    for one in (base, other):
        one.put_control(folder)
    reader, behind = Engine(base), Engine(other)
    load_adapter(reader.model.module, folder)
    if start:
        load_adapter(behind.model.module, resolve_adapter(start))
    policy = _values(reader, logps(reader.policy))
    reference = _values(behind, logps(behind.policy))

    def values(prompt: Prompted, responses: Sequence[str]) -> list[float]:
        both = zip(policy(prompt, responses), reference(prompt, responses), strict=True)
        return [beta * (a - b) for a, b in both]

    return values


def _values(engine: Engine, measure: Measure) -> Values:
    """A measure of each response, with its end of turn; an empty one has that alone."""

    def values(prompt: Prompted, responses: Sequence[str]) -> list[float]:
        ids = encode_prompt(prompt.prompt, engine.tokenizer)
        coded = [encode_response(prompt.prompt, one, engine.tokenizer) for one in responses]
        longest = len(ids) + max(map(len, coded))
        if engine.context and longest > engine.context:
            said = f"{prompt.source or 'a prompt'}: with its response it is {longest:,} tokens long"
            raise UserError(f"{said}; {engine.model.name} reads at most {engine.context:,}")
        return measure([Example(ids, coded, [[1] * len(one) for one in coded])])[0]

    return values
