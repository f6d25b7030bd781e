"""A comparison's results in words: the table, what it says, and where proxy and gold part ways."""

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from minialign.compare.report import NO_DIFFERENCE, START

HEADERS = ["method", "gold reward", "difference", "verdict", "proxy", "win rate", "KL", "words"]
HEADERS += ["tokens", "seconds", "peak memory"]


def cells(row: dict[str, Any]) -> list[str]:
    """A row of the table, as text."""
    start = row["method"] == START
    inference = row["command"] == "best-of-n"
    return [
        row["method"],
        _interval_text(row["gold"]),
        "" if start else _interval_text(row["difference"], sign="+"),
        row["verdict"],
        f"{row['proxy']:.3f}",
        "" if start else _interval_text(row["win_rate"], 100, " %", 1),
        f"{'≤ ' if inference else ''}{row['kl']:.2f}",
        f"{row['words']:.1f}",
        f"{row['tokens']:,.0f}" + (" an answer" if inference else ""),
        f"{row['seconds']:.0f}",
        _memory(row),
    ]


def _memory(row: dict[str, Any]) -> str:
    return f"{(row['peak_memory'] or 0) / 1e9:.2f} GB"


def _interval_text(
    interval: Sequence[float], times: float = 1, unit: str = "", digits: int = 3, sign: str = ""
) -> str:
    value, low, high = (f"{times * number:{sign}.{digits}f}" for number in interval)
    return f"{value}{unit} [{low}, {high}]"


def markdown(results: dict[str, Any], plots: Sequence[str]) -> str:
    """The report."""
    budget = results["budget"]
    amount = f"{budget['minutes']:g} minutes"
    if budget["tokens"]:
        amount = f"{budget['tokens']:,} tokens"
    seeds = ", ".join(map(str, results["seeds"]))
    prepared = [
        [name, f"{one['tokens'] or 0:,}", f"{one['seconds'] or 0:.0f}", _memory(one)]
        for name, one in results["prepared"].items()
    ]
    ordered = sorted(results["methods"], key=lambda row: (row["method"] != START, -row["gold"][0]))
    lines = [
        "# Comparison of methods",
        "",
        f"`{results['model']}` · {results['prompts']} held-out prompts · seeds {seeds} · "
        f"{amount} a method, sampling included",
        "",
        f"Judged by `{_short(results['gold'])}` (gold); trained to please "
        f"`{_short(results['proxy'])}` (proxy), or on the given pairs.",
        "",
        *_table(HEADERS, map(cells, ordered)),
        *_conclusion(ordered),
        "",
        _notes(len(results["seeds"]), len(ordered) - 1),
        "",
        "## Prepared once",
        "",
        *_table(["part", "tokens", "seconds", "peak memory"], prepared),
        f"The {START} (`start`) and the proxy's reward head (`reward`) are everybody's start and "
        "are charged to nobody; `sampled` is taken off the budget of each method that learns from "
        "it.",
        "",
    ]
    for name, points in results["over_optimization"].items():
        lines += [f"## {name}: proxy and gold along KL", ""]
        lines += _table(["KL", "proxy", "gold", "of"], _along_kl(points))
    lines += [f"![{name.rpartition('.')[0]}]({name})" for name in plots if name.endswith(".png")]
    for name, why in results["failed"].items():
        lines += ["", f"**{name} failed**: {why.splitlines()[0]}"]
    return "\n".join(lines).rstrip() + "\n"


def _notes(seeds: int, methods: int) -> str:
    """How the table is to be read."""
    return (
        "In brackets: 95 % intervals, a paired bootstrap over prompts"
        + (" and seeds" if seeds > 1 else "; one seed, so they say nothing of seeds")
        + f". A method is better or worse than the {START} only when the interval of its "
        f"difference excludes 0. With {methods} methods about {0.05 * methods:.1f} such verdicts "
        f"are expected by chance alone. KL: nats an answer from the {START}, the mean log-ratio of "
        "the drawn tokens. Tokens: read by training, written, and read by a scorer that is a "
        "model. Not charged, for it is made once and kept: the reference's log-probs. Seconds and "
        "peak memory are those of the processes."
    )


def _along_kl(points: Sequence[dict[str, Any]]) -> Iterator[list[str]]:
    """Each phase of a run; of best-of-n the powers of two, and the last."""
    for point in points:
        of = f"n = {point['n']}" if "n" in point else f"phase {point['phase'] + 1:.0f}"
        if "n" not in point or point["n"] & (point["n"] - 1) == 0 or point is points[-1]:
            yield [*(f"{point[key]:.3f}" for key in ("kl", "proxy", "gold")), of]


def _conclusion(ordered: list[dict[str, Any]]) -> Iterator[str]:
    better, worse = f"Better than the {START}", f"Worse than the {START}"
    words = {"better": better, "worse": worse, NO_DIFFERENCE: "No difference shown"}
    for word, text in words.items():
        if names := [row["method"] for row in ordered if row["verdict"] == word]:
            yield f"- {text}: {', '.join(names)}"


def _short(spec: str) -> str:
    kind, _, rest = spec.partition(":")
    return f"{kind}:{rest.rpartition('/')[2]}" if rest else kind


def _table(headers: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    """A table's lines and an empty one behind them."""
    whole = [headers, ["---"] * len(headers), *rows]
    escaped = [[cell.replace("|", "\\|") for cell in row] for row in whole]
    return [*(f"| {' | '.join(row)} |" for row in escaped), ""]
