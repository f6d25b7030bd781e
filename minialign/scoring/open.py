"""From the words behind ``--scorer`` to a scorer; the ones that need a model load it."""

import os
from collections.abc import Callable, Sequence
from pathlib import Path

from minialign.engine import Engine
from minialign.errors import UserError, nearest
from minialign.learn.batch import Example, encode_prompt, encode_response
from minialign.models import control
from minialign.models.adapter import CONFIG, load_adapter, resolve_adapter
from minialign.models.load import Model, load
from minialign.models.names import DEFAULT
from minialign.models.sharing import bare_copy
from minialign.models.sources.fetch import ensure
from minialign.records import Prompted
from minialign.rewards import exact, ifeval, text
from minialign.rewards.score import Measure, logps, reward_policy, reward_values, run_settings
from minialign.rewards.scorer import Scorer
from minialign.samples.generate import Fetching, base_of

# what stands before the colon: (what stands behind it, one line of help)
KINDS = {
    "reward": ("RUN", "the value of a reward head"),
    "dpo": ("RUN", "the implicit reward of a DPO run, beta x (log-prob - reference's)"),
    "exact": ("", "1 when the final answer is the row's reference (GSM8K style)"),
    "ifeval": ("", "the share of the row's checkable instructions that is followed"),
    "regex": ("PATTERN", "1 when the pattern is found"),
    "length": ("", "the number of words"),
    "judge": ("MODEL", "wins against the other answers, in pairs; judge:self is the model"),
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


def with_whole_path(spec: str) -> str:
    """The same words with an absolute path, where they hold one: good in any folder."""
    kind, _, rest = spec.partition(":")
    file, colon, word = rest.rpartition(":") if kind == "python" else (rest, "", "")
    path = Path(file).expanduser()
    there = path.is_file() if kind == "python" else (path / CONFIG).is_file()
    return f"{kind}:{os.path.abspath(path)}{colon}{word}" if file and there else spec


def open_scorer(
    spec: str, progress: Fetching | None = None, engine: Engine | None = None
) -> Scorer:
    """The scorer that a text names. A run on the base model of ``engine`` reads that one's weights:
    they are in memory once.

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
        case "judge":
            from minialign.scoring.by_judge import judge_scorer

            return judge_scorer(rest, engine, progress)
        case "dpo":
            return Scorer(spec, _implicit(rest, progress, engine))
    return Scorer(spec, _reward(rest, progress, engine))


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
    if words := control.read(folder):
        for one in (base, other):
            one.tokenizer = control.Controlled(one.tokenizer, words)  # type: ignore[assignment]
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
