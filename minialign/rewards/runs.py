"""Scorers that are runs: reward heads and implicit rewards."""

from collections.abc import Callable, Sequence

from minialign.engine import Engine
from minialign.engine.open import Fetching, base_of
from minialign.errors import UserError
from minialign.learn.batch import Example, encode_prompt, encode_response
from minialign.models.adapter import load_adapter, resolve_adapter
from minialign.models.load import Model, load
from minialign.models.names import DEFAULT
from minialign.models.sharing import bare_copy
from minialign.models.sources.fetch import ensure
from minialign.records import Prompted
from minialign.rewards.score import Measure, logps, reward_policy, reward_values, run_settings
from minialign.rewards.scorer import Scorer
from minialign.rewards.spec import parse


def run_scorer(spec: str, progress: Fetching | None = None, engine: Engine | None = None) -> Scorer:
    """The scorer that a run is: ``reward:RUN`` or ``dpo:RUN``. A run on the base model of
    ``engine`` reads that one's weights: they are in memory once.

    Raises:
        UserError: when the run or its model is not there.
    """
    kind, run = parse(spec)
    values = {"reward": _reward, "dpo": _implicit}[kind]
    return Scorer(spec, values(run, progress, engine))


def _base(run: str, progress: Fetching | None, engine: Engine | None) -> Model:
    """The base model of a run, without any adapter."""
    name = base_of(run) or DEFAULT
    path = ensure(name, progress)
    if engine is not None and path.resolve() == engine.model.path.resolve():
        return bare_copy(engine.model)
    return load(name)


def _reward(
    run: str, progress: Fetching | None, engine: Engine | None
) -> Callable[..., list[float]]:
    resolve_adapter(run)
    reader = Engine(_base(run, progress, engine))
    measure = reward_values(reward_policy(run, reader.model))
    return lambda prompt, responses: _measured(reader, measure, prompt, responses)


def _implicit(
    run: str, progress: Fetching | None, engine: Engine | None
) -> Callable[..., list[float]]:
    settings = run_settings(run)
    if settings.get("method", "dpo") != "dpo":
        raise UserError(
            f"dpo:{run}: it is a run of {settings['method']!r}, not of dpo",
            "its log-ratio is no implicit reward",
        )
    beta = settings.get("beta") or 0.1
    start = settings.get("reference_adapter") or settings.get("adapter")
    base, folder = _base(run, progress, engine), resolve_adapter(run)
    other = bare_copy(base)
    for one in (base, other):
        one.put_control(folder)
    reader, behind = Engine(base), Engine(other)
    load_adapter(reader.model.module, folder)
    if start:
        load_adapter(behind.model.module, resolve_adapter(start))
    policy, reference = logps(reader.policy), logps(behind.policy)

    def values(prompt: Prompted, responses: Sequence[str]) -> list[float]:
        own = _measured(reader, policy, prompt, responses)
        base = _measured(behind, reference, prompt, responses)
        return [beta * (a - b) for a, b in zip(own, base, strict=True)]

    return values


def _measured(
    engine: Engine, measure: Measure, prompt: Prompted, responses: Sequence[str]
) -> list[float]:
    """A measure of each response, with its end of turn; an empty one has that alone."""
    ids = encode_prompt(prompt.prompt, engine.tokenizer)
    coded = [encode_response(prompt.prompt, one, engine.tokenizer) for one in responses]
    longest = len(ids) + max(map(len, coded))
    if engine.context and longest > engine.context:
        raise UserError(
            f"{prompt.source or 'a prompt'}: with its response it is {longest:,} tokens long;"
            f" {engine.model.name} reads at most {engine.context:,}"
        )
    return measure([Example(ids, coded, [[1] * len(one) for one in coded])])[0]
