"""From the words behind ``--scorer`` to a scorer; the ones that need a model load it."""

from collections.abc import Callable, Sequence

from minialign.batch import Example, encode_prompt, encode_response
from minialign.engine import Engine
from minialign.errors import UserError, nearest
from minialign.records import Prompted
from minialign.select import exact, ifeval, text
from minialign.select.scorer import Scorer
from minialign.tasks.generate import Fetching, base_of, open_engine
from minialign.tasks.score import (
    Measure,
    logps,
    reference_measure,
    reward_policy,
    reward_values,
    run_settings,
)

# what stands before the colon: (what stands behind it, one line of help)
KINDS = {
    "reward": ("RUN", "the value of a reward head"),
    "dpo": ("RUN", "the implicit reward of a DPO run, beta x (log-prob - reference's)"),
    "exact": ("", "1 when the final answer is the row's reference (GSM8K style)"),
    "ifeval": ("", "the share of the row's checkable instructions that is followed"),
    "regex": ("PATTERN", "1 when the pattern is found"),
    "length": ("", "the number of words"),
    "python": ("FILE.py:FUNCTION", "your own function of (prompt, responses)"),
}


def parse(spec: str) -> tuple[str, str]:
    """(kind, what stands behind the colon).

    Raises:
        UserError: for a kind that there is not, or without what it needs.
    """
    kind, _, rest = spec.partition(":")
    if kind not in KINDS:
        raise UserError(f"there is no scorer {kind!r}", nearest(kind, KINDS))
    wants = KINDS[kind][0]
    if bool(wants) != bool(rest):
        said = f"{kind}:{wants}" if wants else kind
        raise UserError(f"scorer {spec!r}", f"write {said}")
    return kind, rest


def open_scorer(spec: str, progress: Fetching | None = None) -> Scorer:
    """The scorer that a text names.

    Raises:
        UserError: when it does not exist, or its run, file or model is not there.
    """
    kind, rest = parse(spec)
    match kind:
        case "exact":
            return Scorer(spec, exact.values)
        case "ifeval":
            return Scorer(spec, ifeval.values)
        case "length":
            return Scorer(spec, text.length)
        case "regex":
            return text.regex(rest)
        case "python":
            return text.own(rest)
        case "dpo":
            return Scorer(spec, _implicit(rest, progress))
    return Scorer(spec, _reward(rest, progress))


def _reward(run: str, progress: Fetching | None) -> Callable[..., list[float]]:
    engine = open_engine(base_of(run), None, progress)
    measure = reward_values(reward_policy(run, engine.model))
    return lambda prompt, responses: _measured(engine, measure, prompt, responses)


def _implicit(run: str, progress: Fetching | None) -> Callable[..., list[float]]:
    settings = run_settings(run)
    if settings.get("method", "dpo") != "dpo":
        raise UserError(
            f"dpo:{run}: it is a run of {settings['method']!r}, not of dpo",
            "its log-ratio is no implicit reward",
        )
    engine = open_engine(None, run, progress)
    beta = settings.get("beta") or 0.1
    start = settings.get("reference_adapter") or settings.get("adapter")
    reference = reference_measure(engine, start)
    policy = logps(engine.policy)

    def values(prompt: Prompted, responses: Sequence[str]) -> list[float]:
        own = _measured(engine, policy, prompt, responses)
        base = _measured(engine, reference, prompt, responses)
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
