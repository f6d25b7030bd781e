"""``minialign evaluate``: win rates between models, adapters or files of answers."""

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from minialign.cli import console
from minialign.cli.answer_flags import sampling_arguments, sampling_from
from minialign.cli.judge_flags import judge_arguments, judge_from, shown
from minialign.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from minialign.data.prompts import Question
    from minialign.evaluate.systems import System
    from minialign.judge.ask import Duel
    from minialign.records import Verdict

EPILOG = """\
minialign evaluate dpo-1 smollm2-135m-4bit --prompts prompts.txt          # adapter against base
minialign evaluate ours.jsonl theirs.jsonl --judge reward:reward-1       # stored answers
minialign evaluate a.jsonl b.jsonl c.jsonl --judge qwen2.5-0.5b           # a leaderboard
minialign evaluate dpo-1 sft-1 --prompts ifeval.jsonl --scorer ifeval     # no judge at all

Answers that are missing are written and kept (--out FOLDER), and nothing is asked twice: after
Ctrl-C the same command goes on. Audit a judge before you believe it: minialign audit JUDGE.
"""


def add_arguments(parser: argparse.ArgumentParser, command: str) -> None:
    """The systems, the prompts, the judge, and how missing answers are sampled."""
    parser.epilog = EPILOG
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument(
        "systems", nargs="+", metavar="SYSTEM",
        help="two or more: a model, a run or adapter, or a file of answers (prompt, response)",
    )  # fmt: skip
    parser.add_argument(
        "--prompts", metavar="FILE",
        help="the lines of a .txt, or rows with prompts (those that all answer files have)",
    )  # fmt: skip
    parser.add_argument("--limit", type=int, metavar="N", help="only the first N prompts")
    parser.add_argument(
        "--judge", metavar="JUDGE", help="a model, a run, or reward:RUN (smollm2-135m-4bit)"
    )
    parser.add_argument(
        "--scorer", metavar="SCORER", help="no judge: the higher score wins (exact, ifeval, …)"
    )
    judge_arguments(parser)
    sampling_arguments(parser)
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="seed of the answers (0)")
    parser.add_argument(
        "--out", metavar="FOLDER", help="where answers and verdicts are kept (in the home)"
    )
    parser.add_argument(
        "--plot", metavar="FILE", help="draw the win rates into a picture (.png, .svg or .pdf)"
    )
    parser.add_argument("--json", action="store_true", help="everything as JSON")


def run(arguments: argparse.Namespace) -> int:
    """Answer, judge, and say who wins by how much."""
    from minialign.cli.intervals import check_picture, picture
    from minialign.evaluate import systems as evaluate
    from minialign.evaluate import win_rates

    sampling = sampling_from(arguments)
    plot = Path(arguments.plot).expanduser() if arguments.plot else None
    if plot:
        check_picture(plot)
    if len(arguments.systems) < 2:
        raise UserError("one system has nobody to win against", "minialign evaluate A B")
    if arguments.scorer and arguments.judge:
        raise UserError("both --judge and --scorer", "give one of them")
    if arguments.limit is not None and arguments.limit < 1:
        raise UserError(f"--limit {arguments.limit}", "1 or more prompts")
    systems = [evaluate.read_system(spec) for spec in arguments.systems]
    evaluate.named_apart(systems)
    asked = evaluate.read_asked(arguments.prompts, systems)[: arguments.limit]
    folder = _folder(arguments, asked)
    try:
        _answers(arguments, systems, asked, folder, sampling)
    except KeyboardInterrupt:
        console.say(f"\nwhat is finished is in {folder}; the same command goes on")
        raise
    duels = evaluate.duels(systems, asked)
    judge, given = _judge(arguments, duels, folder / "verdicts.jsonl")
    found = list(shown(zip(duels, given, strict=True), len(duels), f", and kept in {folder}"))
    result = win_rates.report(found, judge)
    (folder / "result.json").write_text(json.dumps(result) + "\n", encoding="utf-8")
    if arguments.json:
        console.emit(result)
    else:
        _show(result)
    if plot:
        picture(_bars(result), "win rates", plot)
        console.say(f"drawn in {plot}")
    steps = [] if arguments.scorer else [f"minialign audit {arguments.judge or judge}"]
    console.next_steps(*steps, f"ls {folder}")
    return 0


def _folder(arguments: argparse.Namespace, asked: "list[Question]") -> Path:
    from minialign.durable import digest
    from minialign.home import folder

    if arguments.out:
        path = Path(arguments.out).expanduser()
    else:
        name = digest([arguments.systems, [one.prompt for one in asked], arguments.seed])
        path = folder("evaluations") / name
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as reason:
        raise UserError(f"cannot write {path}: {reason.strerror}", "--out FOLDER") from None
    return path


def _answers(
    arguments: argparse.Namespace,
    systems: "list[System]",
    asked: "list[Question]",
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
    arguments: argparse.Namespace, duels: "list[Duel]", file: Path
) -> "tuple[str, Iterator[Verdict]]":
    """(name, verdicts as they come)."""
    from minialign.evaluate.systems import scored
    from minialign.judge.ask import judge_duels
    from minialign.scoring.open import open_scorer

    if arguments.scorer:
        return arguments.scorer, scored(open_scorer(arguments.scorer), duels)
    judge = judge_from(arguments, arguments.judge)
    found = judge_duels(judge, duels, file=file, batch_size=arguments.batch_size)
    return judge.name, found


def _percent(interval: Any) -> str:
    value, low, high = (100 * one for one in interval)
    return f"{value:.1f} % ({low:.1f} to {high:.1f})"


def _bars(result: dict[str, Any]) -> list[Any]:
    from minialign.cli.intervals import Bar

    if "leaderboard" in result:
        return [Bar(row["system"], *row["beats_average"]) for row in result["leaderboard"]]
    (pair,) = result["pairs"]
    bars = []
    for key, word in (("win_rate", "win rate"), ("length_controlled", "length-controlled"),
                      ("position_debiased", "position-debiased")):  # fmt: skip
        if key in pair:
            bars.append(Bar(word, *pair[key]))
    bars += [
        Bar(row["category"] or "(none)", *row["win_rate"])
        for row in pair["categories"] if "win_rate" in row
    ]  # fmt: skip
    return bars


def _show(result: dict[str, Any]) -> None:
    import shutil

    from minialign.cli.intervals import in_terminal

    if "leaderboard" in result:
        console.table(
            ["system", "ability", "95 %", "beats the average", "win rate", "length"],
            [_standing(row) for row in result["leaderboard"]],
        )
        console.emit("")
    headers = ["", "prompts", "wins", "ties", "losses", "unparsed", "win rate", "length-controlled",
               "position-debiased", "lengths"]  # fmt: skip
    rows = []
    for pair in result["pairs"]:
        rows.append([f"{pair['a']} : {pair['b']}", *_cells(pair)])
        rows += [[f"· {row['category'] or '(none)'}", *_cells(row)] for row in pair["categories"]]
    console.table(headers, rows)
    console.emit("")
    for pair in result["pairs"]:
        console.emit(_sentence(pair, result["judge"]))
    if bars := _bars(result):
        console.emit("")
        console.emit(in_terminal(bars, min(100, shutil.get_terminal_size().columns)))


def _standing(row: dict[str, Any]) -> list[str]:
    span = f"{row['low']:+.2f} to {row['high']:+.2f}"
    beats, length = f"{100 * row['beats_average'][0]:.1f} %", f"{row['length']:.0f}"
    return [row["system"], f"{row['ability']:+.2f}", span, beats, _percent(row["win_rate"]), length]


def _cells(row: dict[str, Any]) -> list[Any]:
    rates = [
        _percent(row[key]) if key in row else ""
        for key in ("win_rate", "length_controlled", "position_debiased")
    ]
    lengths = f"{row['length_a']:.0f} : {row['length_b']:.0f}"
    return [
        row["prompts"],
        row["wins"],
        row["ties"],
        row["losses"],
        row["unparsed"],
        *rates,
        lengths,
    ]


def _sentence(pair: dict[str, Any], judge: str) -> str:
    if "win_rate" not in pair:
        return f"{pair['a']} : {pair['b']}: {judge} could not be read on any prompt"
    value, low, high = pair["win_rate"]
    told = f"by {judge}, {_percent((value, low, high))}"
    if not pair["difference_shown"]:
        return f"no difference shown between {pair['a']} and {pair['b']} ({told})"
    better, worse = (pair["a"], pair["b"]) if value > 0.5 else (pair["b"], pair["a"])
    if value < 0.5:
        told = f"by {judge}, {_percent((1 - value, 1 - high, 1 - low))}"
    text = f"{better} wins against {worse} ({told})"
    _, low, high = pair["length_controlled"]
    if low <= 0.5 <= high:
        text += "; at equal length no difference is shown"
    elif (low > 0.5) != (value > 0.5):
        text += f"; at equal length {worse} wins"
    return text
