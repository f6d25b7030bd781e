"""How sure a reward head or a judge is which of two answers is better: labelling the pairs of which
it is least sure teaches most (uncertainty sampling; Lewis and Gale, 1994)."""

import threading
from collections.abc import Iterator, Sequence

from minialign.progress import Tell
from minialign.records import Comparison


def measure_certainty(
    spec: str,
    pairs: Sequence[Comparison],
    progress: Tell | None = None,
    stop: threading.Event | None = None,
) -> Iterator[tuple[str, float]]:
    """Measure (key of the pair, how sure) in the order of the pairs; 0 is not at all.

    Of a scorer (``reward:RUN``, ``dpo:RUN`` …) it is the distance of the two scores, of a judge
    (``judge:MODEL``) that of the two answers' probabilities over both orders; a verdict that does
    not parse is no confidence at all.

    Raises:
        UserError: when there is no such scorer or judge, or a pair is too long for it.
    """
    kind, _, rest = spec.partition(":")
    if kind != "judge":
        from minialign.scoring.open import open_scorer

        scorer = open_scorer(spec, progress)
        for pair in pairs:
            a, b = scorer.score(pair.prompted, [pair.a, pair.b])
            yield pair.key, abs(a - b)
        return
    from minialign.judge.ask import judge_comparisons
    from minialign.judge.open import open_judge

    verdicts = judge_comparisons(open_judge(rest), pairs, batch_size=2, stop=stop)
    for pair, verdict in zip(pairs, verdicts, strict=False):
        said = [order for order in verdict.orders if "a" in order and "b" in order]
        yield pair.key, abs(sum(order["a"] - order["b"] for order in said)) / max(len(said), 1)
