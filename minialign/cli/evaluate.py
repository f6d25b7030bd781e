"""``minialign evaluate``: win rates between models, adapters or files of answers."""

import argparse
import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from minialign.cli import console
from minialign.cli.answer_flags import check_limit, sampling_arguments, sampling_from
from minialign.cli.figure import picture_to_write
from minialign.cli.flags import adder
from minialign.cli.intervals import Bar, percent, picture, show_bars, span
from minialign.cli.judge_flags import judge_arguments, judge_from, show_pace
from minialign.durable import digest
from minialign.errors import UserError
from minialign.home import folder as home_folder
from minialign.records import Comparison, Prompted, Verdict

if TYPE_CHECKING:
    from minialign.evaluate.systems import System

EPILOG = """\
minialign evaluate dpo-1 smollm2-135m-4bit --prompts prompts.txt          # adapter against base
minialign evaluate ours.jsonl theirs.jsonl --judge reward:reward-1       # stored answers
minialign evaluate a.jsonl b.jsonl c.jsonl --judge qwen2.5-0.5b           # a leaderboard
minialign evaluate dpo-1 sft-1 --prompts ifeval.jsonl --scorer ifeval     # no judge at all

Answers that are missing are written and kept (--out FOLDER), and nothing is asked twice: after
Ctrl-C the same command goes on. Audit a judge before you believe it: minialign audit JUDGE.
"""
COUNTS = ("prompts", "wins", "ties", "losses", "unparsed")
RATES = {
    "win_rate": "win rate",
    "length_controlled": "length-controlled",
    "position_debiased": "position-debiased",
}


def add_arguments(parser: argparse.ArgumentParser, command: str) -> None:
    """The systems, the prompts, the judge, and how missing answers are sampled."""
    add = adder(parser)
    systems = "two or more: a model, a run or adapter, or a file of answers (prompt, response)"
    prompts = "the lines of a .txt, or rows with prompts (those that all answer files have)"
    add("systems SYSTEM", systems, nargs="+")
    add("--prompts FILE", prompts)
    add("--limit N", "only the first N prompts")
    add("--judge JUDGE", "a model, a run, or reward:RUN (smollm2-135m-4bit)")
    add("--scorer SCORER", "no judge: the higher score wins (exact, ifeval, …)")
    judge_arguments(parser)
    sampling_arguments(parser)
    add("--seed N", "seed of the answers (0)", default=0)
    add("--out FOLDER", "where answers and verdicts are kept (in the home)")
    add("--plot FILE", "draw the win rates into a picture (.png, .svg or .pdf)")
    add("--json", "everything as JSON")


def run(arguments: argparse.Namespace) -> int:
    """Answer, judge, and say who wins by how much."""
    from minialign.evaluate import systems as evaluate
    from minialign.evaluate import win_rates

    sampling = sampling_from(arguments)
    plot = picture_to_write(arguments.plot)
    if len(arguments.systems) < 2:
        raise UserError("one system has nobody to win against", "minialign evaluate A B")
    if arguments.scorer and arguments.judge:
        raise UserError("both --judge and --scorer", "give one of them")
    check_limit(arguments, "prompts")
    systems = [evaluate.read_system(spec) for spec in arguments.systems]
    evaluate.name_apart(systems)
    asked = evaluate.read_asked(arguments.prompts, systems)[: arguments.limit]
    folder = _make_folder(arguments, asked)
    try:
        _answer(arguments, systems, asked, folder, sampling)
    except KeyboardInterrupt:
        console.say(f"\nwhat is finished is in {folder}; the same command goes on")
        raise
    pairs = evaluate.pair_answers(systems, asked)
    judge, verdicts = _judge(arguments, pairs, folder / "verdicts.jsonl")
    judgements = zip(pairs, verdicts, strict=True)
    shown = show_pace(judgements, len(pairs), f", and kept in {folder}")
    result = win_rates.report(list(shown), judge)
    (folder / "result.json").write_text(json.dumps(result) + "\n", encoding="utf-8")
    console.emit_or_show(result, arguments.json, _show)
    if plot:
        picture(_bars(result), "win rates", plot)
    steps = [] if arguments.scorer else [f"minialign audit {arguments.judge or judge}"]
    console.next_steps(*steps, f"ls {folder}")
    return 0


def _make_folder(arguments: argparse.Namespace, asked: list[Prompted]) -> Path:
    if arguments.out:
        path = Path(arguments.out).expanduser()
    else:
        name = digest([arguments.systems, [one.prompt for one in asked], arguments.seed])
        path = home_folder("evaluations") / name
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as reason:
        raise UserError(f"cannot write {path}: {reason.strerror}", "--out FOLDER") from None
    return path


def _answer(
    arguments: argparse.Namespace,
    systems: "list[System]",
    asked: list[Prompted],
    folder: Path,
    sampling: Any,
) -> None:
    from minialign.evaluate.systems import write_answers

    for system in systems:
        if system.file is not None:
            continue
        how = sampling, arguments.seed, arguments.batch_size
        with console.fetching() as tell:
            written = write_answers(system, asked, folder, *how, tell)
            before = next(written)
        if before:
            console.say(f"{system.name}: {before} of {len(asked)} answers are there already")
        for _ in console.progress(written, len(asked) - before, f"answers of {system.name}"):
            pass


def _judge(
    arguments: argparse.Namespace, pairs: list[Comparison], file: Path
) -> tuple[str, Iterator[Verdict]]:
    """(name, verdicts as they come)."""
    from minialign.judge.ask import judge_comparisons
    from minialign.judge.values import score_comparisons
    from minialign.scoring.open import open_scorer

    if arguments.scorer:
        return arguments.scorer, score_comparisons(open_scorer(arguments.scorer), pairs)
    judge = judge_from(arguments, arguments.judge)
    size = arguments.batch_size
    return judge.name, judge_comparisons(judge, pairs, file=file, batch_size=size)


def _bars(result: dict[str, Any]) -> list[Bar]:
    if "leaderboard" in result:
        return [Bar(row["system"], *row["beats_average"]) for row in result["leaderboard"]]
    (pair,) = result["pairs"]
    rows = [row for row in pair["categories"] if "win_rate" in row]
    return [
        *(Bar(words, *pair[rate]) for rate, words in RATES.items() if rate in pair),
        *(Bar(row["category"] or "(none)", *row["win_rate"]) for row in rows),
    ]


def _show(result: dict[str, Any]) -> None:
    if "leaderboard" in result:
        console.table(
            ["system", "ability", "95 %", "beats the average", "win rate", "length"],
            [_standing(row) for row in result["leaderboard"]],
        )
        console.emit("")
    rows = []
    for pair in result["pairs"]:
        rows.append([f"{pair['a']} : {pair['b']}", *_cells(pair)])
        rows += [[f"· {row['category'] or '(none)'}", *_cells(row)] for row in pair["categories"]]
    console.table(["", *COUNTS, *RATES.values(), "lengths"], rows)
    console.emit("")
    for pair in result["pairs"]:
        console.emit(_sentence(pair, result["judge"]))
    if bars := _bars(result):
        console.emit("")
        show_bars(bars)


def _standing(row: dict[str, Any]) -> list[str]:
    ability, between = f"{row['ability']:+.2f}", f"{row['low']:+.2f} to {row['high']:+.2f}"
    beats, length = f"{percent(row['beats_average'][0])} %", f"{row['length']:.0f}"
    return [row["system"], ability, between, beats, span(row["win_rate"]), length]


def _cells(row: dict[str, Any]) -> list[Any]:
    rates = [span(row[key]) if key in row else "" for key in RATES]
    lengths = f"{row['length_a']:.0f} : {row['length_b']:.0f}"
    return [*(row[key] for key in COUNTS), *rates, lengths]


def _sentence(pair: dict[str, Any], judge: str) -> str:
    if "win_rate" not in pair:
        return f"{pair['a']} : {pair['b']}: {judge} could not be read on any prompt"
    value, low, high = pair["win_rate"]
    told = f"by {judge}, {span((value, low, high))}"
    if not pair["difference_shown"]:
        return f"no difference shown between {pair['a']} and {pair['b']} ({told})"
    better, worse = (pair["a"], pair["b"]) if value > 0.5 else (pair["b"], pair["a"])
    if value < 0.5:
        told = f"by {judge}, {span((1 - value, 1 - high, 1 - low))}"
    text = f"{better} wins against {worse} ({told})"
    _, low, high = pair["length_controlled"]
    if low <= 0.5 <= high:
        text += "; at equal length no difference is shown"
    elif (low > 0.5) != (value > 0.5):
        text += f"; at equal length {worse} wins"
    return text
