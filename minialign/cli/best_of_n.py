"""``minialign best-of-n``: the best of n answers to each prompt, and what n buys."""

import argparse
import time
from pathlib import Path
from typing import Any

from minialign.cli import answer_flags, console
from minialign.cli.figure import blank, picture_to_write, save
from minialign.cli.flags import adder

EPILOG = """\
minialign best-of-n prompts.txt --n 16 --scorer reward:reward-1 -o best.jsonl --plot best.png
minialign best-of-n gsm8k.jsonl --n 4 --scorer exact
minialign best-of-n ifeval.jsonl --n 8 --scorer length --gold ifeval     # what does length buy?

One JSON object a prompt: all candidates with their scores, and the best. The table has the expected
score of the best of n for every n, from the same samples, and how far that choice is from the
policy at most: KL <= log n - (n - 1) / n.
"""


def add_arguments(parser: argparse.ArgumentParser, command: str) -> None:
    """Prompts, scorer and sampling."""
    answer_flags.prompt_arguments(parser, 16)
    add = adder(parser)
    add("--scorer SCORER", answer_flags.scorer_help(), required=True)
    add("--gold SCORER", "a second scorer that only judges")
    add("-o --output FILE", "append the JSON objects to a file")
    add("--resume", "with -o: only prompts that are not in the file yet")
    add("--plot FILE", "draw the expected score against KL (.png, .svg or .pdf)")
    add("--json", "with -o: the table as JSON")


def run(arguments: argparse.Namespace) -> int:
    """Sample, score, write, and say what n buys."""
    from minialign.durable import Journal
    from minialign.engine.open import origin_of
    from minialign.rewards.spec import parse
    from minialign.samples import best_of_n
    from minialign.samples.groups import sample_groups
    from minialign.scoring.open import open_scorer

    sampling = answer_flags.sampling_from(arguments)
    output = answer_flags.output_file(arguments)
    plot = picture_to_write(arguments.plot)
    asked = answer_flags.read_asked(arguments)
    for spec in filter(None, (arguments.scorer, arguments.gold)):
        parse(spec)
    journal = Journal(output) if output else None
    if output and arguments.resume:
        how = {"seed": arguments.seed, "adapter": arguments.adapter}
        scorers = arguments.scorer, arguments.gold
        journal = best_of_n.resume(output, asked, arguments.n, *scorers, **how)
        console.say(f"{len(journal.rows)} of {len(asked)} prompts are in {output} already")
    rows = list(journal.rows) if journal else []
    engine = answer_flags.open_from(arguments)
    scorer = open_scorer(arguments.scorer, engine=engine)
    gold = open_scorer(arguments.gold, engine=engine) if arguments.gold else None
    origin = origin_of(engine, arguments.adapter)
    start, known = time.monotonic(), [row["prompt_index"] for row in rows]
    drawn = arguments.n, sampling, arguments.seed, arguments.batch_size
    groups = sample_groups(engine, asked, *drawn, skip=known)
    scored = (best_of_n.score_group(group, scorer, gold, origin) for group in groups)
    for row in console.progress(scored, len(asked) - len(known), "prompts"):
        rows.append(row)
        answer_flags.write_row(row, journal)
    summary = best_of_n.summary(rows)
    if fresh := len(rows) - len(known):
        summary["seconds_per_prompt"] = (time.monotonic() - start) / fresh
    _show(summary, table=output is not None, as_json=arguments.json)
    if plot:
        picture(summary, plot)
        console.say(f"drawn in {plot}")
    if output:
        console.next_steps(f"minialign data show {output}", f"minialign rrhf --data {output}")
    return 0


def _show(summary: dict[str, Any], *, table: bool, as_json: bool) -> None:
    if table and as_json:
        console.emit(summary)
        return
    first, last = summary["points"][0], summary["points"][-1]
    text = f"best of {last['n']}: {summary['scorer']} {_plus(last['proxy'], last['proxy_error'])}"
    text += f" against {_plus(first['proxy'], first['proxy_error'])} for one answer"
    cost = f"{summary['tokens_per_prompt']:.0f} tokens"
    if "seconds_per_prompt" in summary:
        cost += f" and {summary['seconds_per_prompt']:.1f} s"
    console.say(f"{text}; {cost} a prompt")
    if not table:
        return
    headers = ["n", "KL at most", summary["scorer"], "±"]
    headers += [summary["gold"], "±"] if "gold" in summary else []
    console.table(headers, [_cells(point) for point in summary["points"]])


def _plus(value: float, error: float) -> str:
    return f"{value:.4g} ± {error:.2g}" if error else f"{value:.4g}"


def _cells(point: dict[str, Any]) -> list[str]:
    cells = [str(point["n"]), f"{point['kl']:.3f}"]
    for name in ("proxy", "gold"):
        if name in point:
            cells += [f"{point[name]:.4f}", f"{point[f'{name}_error']:.4f}"]
    return cells


def picture(summary: dict[str, Any], path: Path) -> None:
    """Draw the expected score, with its standard error, against the KL bound."""
    points = summary["points"]
    names = [name for name in ("proxy", "gold") if name in points[0]]
    figure = blank(7, 3 * len(names), "--plot")
    for index, name in enumerate(names):
        axes = figure.add_subplot(len(names), 1, index + 1)
        kl, values, errors = ([p[key] for p in points] for key in ("kl", name, f"{name}_error"))
        axes.errorbar(kl, values, errors, marker="o", capsize=3)
        for point in points:
            if point["n"] & (point["n"] - 1) == 0:  # 1, 2, 4, 8 …
                at = point["kl"], point[name]
                axes.annotate(f"n = {point['n']}", at, xytext=(4, -12), textcoords="offset points")
        axes.set_ylabel(summary["scorer" if name == "proxy" else "gold"])
        axes.grid(alpha=0.3)
    axes.set_xlabel("KL from the policy, at most (nats)")
    save(figure, path)
