"""From the words behind ``--scorer`` to a scorer; the ones that need a model load it."""

from minialign.engine import Engine
from minialign.progress import Tell
from minialign.rewards import exact, ifeval, text
from minialign.rewards.runs import run_scorer
from minialign.rewards.scorer import Scorer
from minialign.rewards.spec import parse


def open_scorer(spec: str, progress: Tell | None = None, engine: Engine | None = None) -> Scorer:
    """Open the scorer that a text names. A run on the base model of ``engine`` reads that one's
    weights: they are in memory once.

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
            from minialign.scoring.by_judge import open_judge_scorer

            return open_judge_scorer(rest, engine, progress)
    return run_scorer(spec, progress, engine)
