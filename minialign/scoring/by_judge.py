"""A judge as a scorer: each answer's expected share of wins against the other answers."""

from collections.abc import Sequence
from dataclasses import replace
from itertools import combinations

from minialign.engine import Engine
from minialign.errors import UserError
from minialign.judge import Judge, JudgeOptions
from minialign.judge.ask import judge_comparisons
from minialign.judge.memory import Memory
from minialign.judge.open import open_judge
from minialign.progress import Tell
from minialign.records import Comparison, Prompted
from minialign.rewards.scorer import Scorer


def open_judge_scorer(
    spec: str, engine: Engine | None = None, progress: Tell | None = None
) -> Scorer:
    """Open what stands behind ``judge:``: MODEL, or MODEL@TEMPLATE; "self" is ``engine``'s model.

    A score is the expected share of wins against each other answer of the group, both orders
    averaged and a tie as half, from the judge's probabilities; 0.5 for a single answer. With a
    single-answer template (``@score``) it is the expected score, and the lowest of the group for an
    answer that the judge cannot read.

    Raises:
        UserError: there is no such judge.
    """
    name, _, template = spec.partition("@")
    if name == "self" and engine is None:
        raise UserError("judge:self needs the model that answers", "name one: judge:MODEL")
    own = engine if name == "self" else None
    judge = open_judge(name, JudgeOptions(template or None), engine=own, progress=progress)
    if own is not None:  # it may be in training: nothing it said is kept
        judge = replace(judge, identity="")
    kept = Memory(judge)

    def score(prompt: Prompted, responses: Sequence[str]) -> list[float]:
        return _shares(judge, kept if own is None else Memory(judge), prompt, responses)

    return Scorer(f"judge:{spec}", score)


def _shares(judge: Judge, memory: Memory, asked: Prompted, responses: Sequence[str]) -> list[float]:
    texts = list(dict.fromkeys(responses))
    if judge.alone and len(texts) == 1:
        texts.append("")  # a comparison has two answers
    reference = asked.extra.get("reference") or asked.extra.get("answer")
    told = reference if isinstance(reference, str) else None, asked.source
    pairs = [Comparison(asked.prompt, a, b, *told) for a, b in combinations(texts, 2)]
    values: dict[str, float] = {}
    won: dict[str, list[float]] = {text: [] for text in texts}
    for verdict in judge_comparisons(judge, pairs, batch_size=len(pairs), memory=memory):
        order = verdict.orders[0]
        if "value_a" in order:
            values |= {verdict.a: order["value_a"], verdict.b: order["value_b"]}
        shares = [order["a"] + order["tie"] / 2 for order in verdict.orders if "a" in order]
        share = sum(shares) / len(shares) if shares else 0.5
        won[verdict.a].append(share)
        won[verdict.b].append(1 - share)
    if judge.alone:
        worst = min(values.values(), default=0.5)  # of an answer that could not be read
        return [values.get(text, worst) for text in responses]
    return [sum(won[text]) / len(won[text]) if won[text] else 0.5 for text in responses]
