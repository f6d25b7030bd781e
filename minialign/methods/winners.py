"""Which candidates of a prompt are worth imitating, and which two are worth comparing.

A ``Ranking`` is a prompt's candidates with their scores; equal texts may stand in it twice.
"""

from minialign.records import Demonstration, Pair, Ranking, reasons_of


def spread(row: Ranking) -> bool:
    """Whether the scores tell the candidates apart."""
    return min(row.scores) < max(row.scores)


def demonstration(row: Ranking, place: int) -> Demonstration:
    """The prompt with one candidate as its answer."""
    answer = {"role": "assistant", "content": row.responses[place]}
    return Demonstration([*row.prompt, answer], row.source, reasons_of(row, place))


def top(row: Ranking) -> list[Demonstration]:
    """The candidate with the highest score, of ties the first; none when all are equal."""
    return [demonstration(row, row.scores.index(max(row.scores)))] if spread(row) else []


def above(row: Ranking, threshold: float) -> list[Demonstration]:
    """Every different candidate whose score is at least the threshold."""
    kept = {text: i for i, text in reversed(list(enumerate(row.responses)))}
    return [demonstration(row, i) for i in sorted(kept.values()) if row.scores[i] >= threshold]


def pair(row: Ranking, winner: int, loser: int) -> Pair:
    """Two candidates as a pair, its margin the difference of their scores."""
    margin = row.scores[winner] - row.scores[loser]
    chosen, rejected = row.responses[winner], row.responses[loser]
    return Pair(row.prompt, chosen, rejected, margin, row.source, reasons_of(row, winner, loser))


def best_and_worst(row: Ranking) -> list[Pair]:
    """The candidates with the highest and the lowest score; none when all are equal."""
    if not spread(row):
        return []
    return [pair(row, row.scores.index(max(row.scores)), row.scores.index(min(row.scores)))]
