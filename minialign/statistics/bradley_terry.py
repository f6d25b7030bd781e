"""Bradley-Terry: abilities from games between pairs, with an effect of who comes first.

P(i beats j) = sigmoid(ability_i - ability_j), plus ``order`` where i is at home (Bradley & Terry
1952; the order effect: Davidson & Beaver 1977, Agresti 2002, sec. 10.6). A judge that sees two
answers in an order plays at home, so the same fit takes its position bias out. A tie is half a win
and half a loss.
"""

from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np

from minialign.statistics import logistic
from minialign.statistics.bootstrap import Interval, cluster_index, quantiles, resamples, widen
from minialign.statistics.logistic import sigmoid


@dataclass(frozen=True)
class Game:
    """``score`` is first's: 1 a win, 0 a loss, 0.5 a tie; ``home`` is 1 when first is at home (was
    shown first), -1 when second is, 0 on neutral ground."""

    first: str
    second: str
    score: float
    home: float = 0.0
    weight: float = 1.0
    cluster: Hashable = None  # what is drawn together in the bootstrap: the prompt


@dataclass(frozen=True)
class Abilities:
    """A fit. Log-abilities are relative to ``reference``, whose own is 0 without error."""

    players: list[str]
    ability: dict[str, float]  # log-odds
    error: dict[str, float]
    reference: str
    order: float | None  # log-odds of being shown first; None: not fitted
    order_error: float | None
    separable: bool  # someone never lost to anybody below: no maximum, a weak prior was used

    def beats(self, a: str, b: str) -> float:
        """P(a beats b) on neutral ground."""
        return float(sigmoid(self.ability[a] - self.ability[b]))


def fit(games: Sequence[Game], *, order: bool = False, reference: str | None = None) -> Abilities:
    """The abilities that make these games likeliest; ``reference`` is the first player by default.

    Raises:
        ValueError: for no games, a game against oneself, or a reference that does not play.
    """
    players = list(dict.fromkeys(name for game in games for name in (game.first, game.second)))
    reference = players[0] if reference is None and players else reference
    if reference not in players:
        raise ValueError(f"{reference!r} does not play")
    free = [name for name in players if name != reference]
    x, y, w = _design(games, free, order)
    fitted = logistic.fit(x, y, w)
    ability = dict(zip(free, fitted.coefficients.tolist(), strict=False)) | {reference: 0.0}
    error = dict(zip(free, fitted.errors.tolist(), strict=False)) | {reference: 0.0}
    return Abilities(
        players=players,
        ability={name: ability[name] for name in players},
        error={name: error[name] for name in players},
        reference=reference,
        order=float(fitted.coefficients[-1]) if order else None,
        order_error=float(fitted.errors[-1]) if order else None,
        separable=fitted.separable,
    )


def win_rate_interval(
    games: Sequence[Game], a: str, b: str, *, order: bool = True, seed: int = 0, count: int = 400
) -> Interval:
    """(P(a beats b) on neutral ground, low, high); bootstrap over the games' clusters."""
    table = ability_intervals(games, order=order, reference=b, seed=seed, count=count)
    return tuple(float(sigmoid(value)) for value in table[a])  # type: ignore[return-value]


def ability_intervals(
    games: Sequence[Game],
    *,
    order: bool = False,
    reference: str | None = None,
    centred: bool = False,
    seed: int = 0,
    count: int = 400,
) -> dict[str, Interval]:
    """player: (log-ability, low, high), 95 %, by a bootstrap over the games' clusters.

    ``centred``: relative to the mean of all players, which has no error, instead of to one of them.
    Where a share of 2.5 % or more of the resamples is separable, an end is what a weak prior gives.
    """
    whole = fit(games, order=order, reference=reference)
    free = [name for name in whole.players if name != whole.reference]
    x, y, w = _design(games, free, order)
    clusters = [i if game.cluster is None else game.cluster for i, game in enumerate(games)]
    index = cluster_index(clusters, len(games))
    # equal games are one row that counts more: then a fit costs next to nothing
    kinds, which = np.unique(np.column_stack([x, y]), axis=0, return_inverse=True)
    drawn = resamples(int(index.max()) + 1, seed, count)
    weights = [np.bincount(which.reshape(-1), w * row[index], len(kinds)) for row in drawn]
    fits = [logistic.fit(kinds[:, :-1], kinds[:, -1], one).coefficients for one in weights]
    drawn_values = np.hstack([np.zeros((count, 1)), np.array(fits)[:, : len(free)]])
    players = [whole.reference, *free]
    values = np.array([whole.ability[name] for name in players])
    if centred:
        values = values - values.mean()
        drawn_values = drawn_values - drawn_values.mean(1, keepdims=True)
    table: dict[str, Interval] = {}
    for at, name in enumerate(players):
        interval = float(values[at]), *quantiles(drawn_values[:, at])
        certain = name == whole.reference and not centred  # its own 0
        table[name] = interval if certain else _widen_ability(interval, drawn.shape[1])
    return table


def _widen_ability(ability: Interval, n: int) -> Interval:
    """An ability's interval; where all resamples agree (all won, all tied), that of the chance to
    beat 0, turned back into log-odds."""
    if ability[2] - ability[1] > 1e-9:
        return ability
    _, *ends = widen((float(sigmoid(ability[0])), 0.0, 0.0), n)
    low, high = (float(np.log(end / (1 - end))) for end in ends)
    return ability[0], low, high


def _design(
    games: Sequence[Game], free: Sequence[str], order: bool
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(features (n, k), scores (n,), weights (n,)): a column a player, then that of the order."""
    column = {name: at for at, name in enumerate(free)}
    x = np.zeros((len(games), len(free) + order))
    for row, game in enumerate(games):
        if game.first == game.second:
            raise ValueError(f"{game.first!r} plays against itself")
        for name, sign in ((game.first, 1.0), (game.second, -1.0)):
            if name in column:
                x[row, column[name]] = sign
        if order:
            x[row, -1] = game.home
    y = np.array([game.score for game in games])
    return x, y, np.array([game.weight for game in games])
