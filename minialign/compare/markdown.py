"""A comparison's results in words: the table, what it says, and where proxy and gold part ways."""

from collections.abc import Sequence
from typing import Any

from minialign.compare.report import NO_DIFFERENCE, START

HEADERS = (
    "method", "gold reward", "difference", "verdict", "proxy", "win rate", "KL", "words", "tokens",
    "seconds", "peak memory",
)  # fmt: skip


def cells(row: dict[str, Any]) -> list[str]:
    """A row of the table, as text."""
    start = row["method"] == START
    inference = row["command"] == "best-of-n"
    return [
        row["method"],
        _between(row["gold"]),
        "" if start else _between(row["difference"], sign="+"),
        row["verdict"],
        f"{row['proxy']:.3f}",
        "" if start else _between(row["win_rate"], 100, " %", 1),
        f"{'≤ ' if inference else ''}{row['kl']:.2f}",
        f"{row['words']:.1f}",
        f"{row['tokens']:,.0f}" + (" an answer" if inference else ""),
        f"{row['seconds']:.0f}",
        f"{row['peak_memory'] / 1e9:.2f} GB",
    ]


def _between(
    interval: Sequence[float], times: float = 1, unit: str = "", digits: int = 3, sign: str = ""
) -> str:
    value, low, high = (f"{times * number:{sign}.{digits}f}" for number in interval)
    return f"{value}{unit} [{low}, {high}]"


def markdown(found: dict[str, Any], plots: Sequence[str]) -> str:
    """The report."""
    budget = found["budget"]
    amount = (
        f"{budget['tokens']:,} tokens" if budget["tokens"] else f"{budget['minutes']:g} minutes"
    )
    seeds = ", ".join(map(str, found["seeds"]))
    ordered = sorted(found["methods"], key=lambda row: (row["method"] != START, -row["gold"][0]))
    lines = [
        "# Comparison of methods",
        "",
        f"`{found['model']}` · {found['prompts']} held-out prompts · seeds {seeds} · "
        f"{amount} a method, sampling included",
        "",
        f"Judged by `{_short(found['gold'])}` (gold); trained to please `{_short(found['proxy'])}` "
        "(proxy), or on the given pairs.",
        "",
        _line(HEADERS),
        _line(["---"] * len(HEADERS)),
        *[_line(cells(row)) for row in ordered],
        "",
        *_conclusion(ordered),
        "",
        "In brackets: 95 % intervals, a paired bootstrap over prompts"
        + (" and seeds" if len(found["seeds"]) > 1 else "; one seed, so they say nothing of seeds")
        + f". A method is better or worse than the {START} only when the interval of its "
        f"difference excludes 0. With {len(ordered) - 1} methods about "
        f"{0.05 * (len(ordered) - 1):.1f} such verdicts are expected by chance alone. KL: nats an "
        f"answer from the {START}, the mean log-ratio of the drawn tokens. Tokens: read by "
        "training, written, and read by a scorer that is a model. Not charged, for it is made once "
        "and kept: the reference's log-probs. Seconds and peak memory are those of the processes.",
        "",
        "## Prepared once",
        "",
        _line(["part", "tokens", "seconds", "peak memory"]),
        _line(["---"] * 4),
        *[
            _line([name, f"{one['tokens'] or 0:,}", f"{one['seconds'] or 0:.0f}",
                   f"{(one['peak_memory'] or 0) / 1e9:.2f} GB"])
            for name, one in found["prepared"].items()
        ],
        "",
        f"The {START} (`start`) and the proxy's reward head (`reward`) are everybody's start and "
        "are charged to nobody; `sampled` is taken off the budget of each method that learns from "
        "it.",
        "",
    ]  # fmt: skip
    for name, points in found["over_optimization"].items():
        lines += [f"## {name}: proxy and gold along KL", "", _line(["KL", "proxy", "gold", "of"]),
                  _line(["---"] * 4)]  # fmt: skip
        for point in points:
            of = f"n = {point['n']}" if "n" in point else f"phase {point['phase'] + 1:.0f}"
            if "n" not in point or point["n"] & (point["n"] - 1) == 0 or point is points[-1]:
                numbers = [f"{point[key]:.3f}" for key in ("kl", "proxy", "gold")]
                lines.append(_line([*numbers, of]))
        lines.append("")
    lines += [f"![{name.rpartition('.')[0]}]({name})" for name in plots if name.endswith(".png")]
    for name, why in found["failed"].items():
        lines += ["", f"**{name} failed**: {why.splitlines()[0]}"]
    return "\n".join(lines).rstrip() + "\n"


def _conclusion(ordered: list[dict[str, Any]]) -> list[str]:
    named = {
        word: [row["method"] for row in ordered if row["verdict"] == word]
        for word in ("better", "worse", NO_DIFFERENCE)
    }
    words = {"better": f"Better than the {START}", "worse": f"Worse than the {START}",
             NO_DIFFERENCE: "No difference shown"}  # fmt: skip
    return [f"- {words[word]}: {', '.join(names)}" for word, names in named.items() if names]


def _short(spec: str) -> str:
    kind, _, rest = spec.partition(":")
    return f"{kind}:{rest.rpartition('/')[2]}" if rest else kind


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |"
