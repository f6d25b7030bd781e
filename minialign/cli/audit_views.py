"""What ``minialign audit`` shows: a table, a plot in characters, and a few lines."""

from collections.abc import Iterator
from typing import Any

from minialign.cli import console
from minialign.cli.intervals import Bar, percent, show_bars, span

RULES = ("longer wins", "shorter wins")
HEADERS = ["gold set", "pairs", "accuracy %", "95 %", "longer/shorter wins %", "swap agr. %",
           "kappa", "first slot %", "conflict %", "longer chosen %", "unparsed"]  # fmt: skip


def _by_length(row: dict[str, Any]) -> dict[str, float]:
    """What the two rules of length get, where it is known."""
    baselines = row.get("baselines", {})
    known = {rule: baselines.get(rule, {}).get("accuracy") for rule in RULES}
    return {rule: value for rule, value in known.items() if value is not None}


def bars(result: dict[str, Any]) -> list[Bar]:
    """The accuracies, with what "longer wins" and "shorter wins" get."""
    return [
        Bar(row["subset"], accuracy, low, high, _by_length(row))
        for row in result["rows"]
        for accuracy, low, high in [row["accuracy"]]
        if accuracy is not None
    ]


def _cells(row: dict[str, Any]) -> list[Any]:
    accuracy, low, high = row["accuracy"]
    kappa = "-" if row["kappa"] is None else f"{row['kappa']:.2f}"
    known = [row["subset"], row["items"], percent(accuracy), f"{percent(low)}–{percent(high)}"]
    known.append("/".join(map(percent, _by_length(row).values())) or "-")
    rates = [percent(row.get(key)) for key in ("first_slot", "conflict", "longer_chosen")]
    return [*known, percent(row["agreement"]), kappa, *rates, row["unparsed"]]


def show(result: dict[str, Any]) -> None:
    """The table, the plot, what does not fit into either, and the conclusion."""
    rows = [_cells(row) for row in result["rows"]]
    for rule, value in _by_length(result["rows"][-1]).items():
        name, chosen = f"· {rule}", "100.0" if rule == "longer wins" else "0.0"
        rows.append([name, "", percent(value), "", "", "100.0", "", "50.0", "0.0", chosen, ""])
    rows.append(["· first wins", "", "50.0", "", "", "0.0", "0.00", "100.0", "100.0", "50.0", ""])
    rows.append(["· coin", "", "50.0", "", "", "50.0", "0.00", "50.0", "50.0", "50.0", ""])
    console.table(HEADERS, rows)
    if drawn := bars(result):
        show_bars(drawn)
    console.emit("")
    for line in _lines(result):
        console.emit(line)
    word, why = result["conclusion"]["word"], "; ".join(result["conclusion"]["why"])
    console.emit(f"\n{result['judge']}: {word} ({why})")


def _lines(result: dict[str, Any]) -> Iterator[str]:
    """What does not fit into the table, a line each."""
    decided = result["decided"]
    if decided["share"] is not None and decided["accuracy"][0] is not None:
        yield (
            f"both orders name the same answer in {percent(decided['share'])} % of the pairs; "
            f"of these {span(decided['accuracy'])} are right"
        )
    for name, words in (
        ("length", "at equal quality the longer answer is chosen"),
        ("own", "at equal quality its own answer is chosen"),
    ):
        if lean := result["leans"].get(name):
            unit = "a standard deviation of length" if name == "length" else "its own"
            clear = "" if lean["clear"] else "; not shown to be a bias"
            yield (
                f"{words} {percent(lean['rate'])} % of the time (slope {lean['slope']:+.2f} ± "
                f"{lean['error'] or 0:.2f} log-odds for {unit}{clear})"
            )
    if people := result.get("people"):
        for name, words in (("with_ties", "with ties"), ("without_ties", "without ties")):
            yield (
                f"agreement with people {words}: {_share(people[f'judge_{name}'])}; "
                f"between people: {_share(people[f'people_{name}'])}"
            )
    if same := result.get("consistency"):
        yield f"asked again, you said the same of {_share([same['same'], same['compared']])}"
    if calibration := result.get("calibration"):
        if calibration.get("error") is not None:
            error = percent(calibration["error"])
            yield f"calibration error {error} % (0: as sure as it is right)"
            for one in calibration["bins"]:
                yield (
                    f"  {percent(one['low'], 0)}–{percent(one['high'], 0)} % sure: "
                    f"{percent(one['accuracy'])} % right of {one['count']}"
                )
        if calibration.get("length_correlation") is not None:
            within = calibration["length_correlation_in_pairs"]
            yield (
                f"correlation with length {calibration['length_correlation']:+.2f}"
                + (f", within pairs {within:+.2f}" if within is not None else "")
            )
    if cells := result.get("styles"):
        yield "accuracy by style (the better answer's / the worse one's):"
        for cell in cells:
            yield (
                f"  {cell['better']:>9} / {cell['worse']:<9} {percent(cell['accuracy']):>5} % "
                f"of {cell['count']}"
            )


def _share(counts: list[int]) -> str:
    agreed, compared = counts
    return f"{percent(agreed / compared if compared else None)} % ({agreed}/{compared})"
