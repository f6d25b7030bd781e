"""The pictures of a comparison, each as PNG and SVG (matplotlib)."""

from pathlib import Path
from typing import Any

from minialign.cli.figure import blank, save


def draw(results: dict[str, Any], out: Path) -> list[str]:
    """Write what can be drawn of the results; returns the files' names.

    Raises:
        UserError: without matplotlib, or when a file cannot be written.
    """
    methods = [row for row in results["methods"] if row["verdict"]]
    pictures = {}
    if methods:
        pictures["methods"] = _methods(methods, blank(8, 1.2 + 0.35 * len(methods)))
        pictures["frontier"] = _frontier(results["methods"], blank(8, 5))
    if results["over_optimization"]:
        pictures["over-optimization"] = _along_kl(results, blank(8, 6))
    names = []
    for name, figure in pictures.items():
        for ending in (".png", ".svg"):
            save(figure, out / f"{name}{ending}")
            names.append(f"{name}{ending}")
    return names


def _methods(rows: list[dict[str, Any]], figure: Any) -> Any:
    """The difference in gold reward to the start policy, with its interval."""
    axes = figure.subplots()
    rows = sorted(rows, key=lambda row: row["difference"][0])
    colours = {"better": "tab:green", "worse": "tab:red"}
    for place, row in enumerate(rows):
        value, low, high = row["difference"]
        colour = colours.get(row["verdict"], "tab:gray")
        reach = [[value - low], [high - value]]
        axes.errorbar([value], [place], xerr=reach, fmt="o", color=colour, capsize=3)
    axes.axvline(0, color="black", linewidth=0.8)
    axes.set_yticks(range(len(rows)), [row["method"] for row in rows])
    axes.set_xlabel("held-out gold reward, difference to the SFT policy (95 % interval)")
    axes.grid(axis="x", alpha=0.3)
    return figure


def _frontier(rows: list[dict[str, Any]], figure: Any) -> Any:
    """Gold reward against the KL from the start policy."""
    axes = figure.subplots()
    for row in rows:
        axes.plot([row["kl"]], [row["gold"][0]], "o")
        beside: Any = {"textcoords": "offset points", "xytext": (5, 3)}
        axes.annotate(row["method"], (row["kl"], row["gold"][0]), fontsize=8, **beside)
    axes.set_xlabel("KL from the SFT policy (nats an answer; best-of-n: at most)")
    axes.set_ylabel("held-out gold reward")
    axes.grid(alpha=0.3)
    return figure


def _along_kl(results: dict[str, Any], figure: Any) -> Any:
    """Draw proxy and gold reward over the KL; where a line is of a run's answers in training, a
    star marks its result on held-out prompts."""
    above, below = figure.subplots(2, 1, sharex=True)
    ends = {row["method"]: row for row in results["methods"]}
    for axes, key, label in ((above, "proxy", "proxy reward"), (below, "gold", "gold reward")):
        for name, points in results["over_optimization"].items():
            held_out = "n" in points[0]
            at, values = [point["kl"] for point in points], [point[key] for point in points]
            (line,) = axes.plot(at, values, "o-" if held_out else "s--", label=name, markersize=4)
            if not held_out and (end := ends.get(name.partition(",")[0])):
                value = end["gold"][0] if key == "gold" else end["proxy"]
                axes.plot([end["kl"]], [value], "*", markersize=11, color=line.get_color())
        axes.set_ylabel(label)
        axes.grid(alpha=0.3)
    above.legend()
    below.set_xlabel("KL from the SFT policy (nats an answer; best-of-n: at most)")
    return figure
