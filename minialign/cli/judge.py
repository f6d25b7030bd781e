"""``minialign judge``: which of two answers is better, by a model's verdict in both orders."""

import argparse
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from minialign.cli import console
from minialign.errors import UserError

if TYPE_CHECKING:
    from minialign.judge import Judge
    from minialign.records import Verdict
    from minialign.tasks.judge import Duel

EPILOG = """\
minialign judge pairs.jsonl --out verdicts.jsonl                  # the embedded model judges
minialign judge base.jsonl tuned.jsonl --judge llama-3b-4bit      # answers of two models
minialign judge pairs.jsonl --judge first --template rules        # a run: its model and adapter
minialign judge pairs.jsonl --judge reward:reward-1               # a reward head
minialign judge pairs.jsonl --judge-url http://127.0.0.1:8080/v1 --judge-model qwen --explain
minialign judge duels.jsonl --to-pairs pairs.jsonl                # RLAIF: then minialign dpo
minialign judge --show-template pairwise > mine.txt               # edit, then --template mine.txt

Each pair is asked in both orders; a preference counts when both agree, else it is a tie. A verdict
is the model's own probabilities of the verdict's words, never a reading of its prose. Of preference
pairs a is the chosen answer. What a judge said is kept: the same command again asks nothing twice.
An endpoint's key is read from the environment variable MINIALIGN_JUDGE_KEY.
"""


def add_arguments(parser: argparse.ArgumentParser, command: str) -> None:
    """What is judged, by whom, and where the verdicts go."""
    parser.epilog = EPILOG
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument(
        "files", nargs="*", metavar="FILE",
        help="pairs, or rows with prompt, a and b; or two files with answers to the same prompts",
    )  # fmt: skip
    judge = parser.add_argument_group("judge")
    judge.add_argument(
        "-m", "--judge", metavar="MODEL",
        help="a model, a run, or reward:RUN (smollm2-135m-4bit)",
    )  # fmt: skip
    judge.add_argument("--adapter", metavar="RUN", help="an adapter on the judge")
    judge.add_argument("--judge-url", metavar="URL", help="an OpenAI-compatible server, …/v1")
    judge.add_argument("--judge-model", metavar="NAME", help="the server's name of the model")
    judge.add_argument("--timeout", type=float, metavar="S", help="seconds for one request (120)")
    judge.add_argument("--retries", type=int, metavar="N", help="more tries for a request (5)")
    how = parser.add_argument_group("question")
    how.add_argument(
        "--template", metavar="NAME|FILE", help="the judge's prompt (pairwise); --list-templates"
    )
    how.add_argument(
        "--criteria",
        metavar="TEXT|FILE",
        help="a rubric or principles, for templates that ask by it",
    )
    how.add_argument("--explain", action="store_true", help="a reason first, then the verdict")
    how.add_argument(
        "--debias", action="store_true",
        help="average the two orders' log-odds; a tie only where neither is ahead",
    )  # fmt: skip
    how.add_argument("--list-templates", action="store_true", help="list the prompts and stop")
    how.add_argument("--show-template", metavar="NAME", help="print a prompt and stop")
    parser.add_argument("-o", "--out", metavar="FILE", help="append the verdicts to a JSONL file")
    parser.add_argument(
        "--to-pairs", metavar="FILE", help="write the preferred answers as training pairs"
    )
    parser.add_argument("--limit", type=int, metavar="N", help="only the first N pairs")
    parser.add_argument(
        "--batch-size", type=int, default=16, metavar="N", help="pairs asked at once (16)"
    )
    parser.add_argument("--json", action="store_true", help="the summary as one JSON object")


def run(arguments: argparse.Namespace) -> int:
    """Judge every pair; the summary goes to stdout."""
    if arguments.list_templates or arguments.show_template:
        return _templates(arguments)
    out, pairs_file = _outputs(arguments)
    if not arguments.files:
        raise UserError("nothing to judge", "minialign judge pairs.jsonl --judge MODEL")
    if arguments.batch_size < 1:
        raise UserError(f"batch size is {arguments.batch_size}", "it must be 1 or more")
    from minialign.tasks.duels import read_duels

    duels = read_duels(arguments.files, arguments.limit)
    judge = _open(arguments)
    verdicts: list[Verdict] = []
    try:
        for verdict in _shown(judge, duels, out, arguments.batch_size):
            verdicts.append(verdict)
    except (KeyboardInterrupt, UserError):
        if verdicts:
            where = f" in {out}" if out else ""
            console.say(
                f"\n{len(verdicts)} of {len(duels)} pairs are judged, and kept{where}; the same"
                " command goes on"
            )
        raise
    _report(judge, verdicts, as_json=arguments.json)
    if pairs_file is not None:
        _write_pairs(verdicts, pairs_file)
    elif out is not None and any(one.choice in ("a", "b") for one in verdicts):
        console.next_steps(f"minialign label {out}", f"minialign dpo --data {out}")
    return 0


def _templates(arguments: argparse.Namespace) -> int:
    from minialign.judge.templates import known_templates, own_folder, read_template

    if arguments.show_template:
        print(read_template(arguments.show_template).file.read_text(encoding="utf-8"), end="")
        return 0
    read = [read_template(name) for name in known_templates()]
    if arguments.json:
        for one in read:
            console.emit({"name": one.name, "mode": one.mode, "about": one.about,
                          "words": list(one.words), "file": str(one.file)})  # fmt: skip
        return 0
    console.table(["template", "mode", "about"], [[one.name, one.mode, one.about] for one in read])
    console.say(f"your own: FILE, or {own_folder()}/NAME.txt")
    return 0


def _outputs(arguments: argparse.Namespace) -> tuple[Path | None, Path | None]:
    paths = [arguments.out, arguments.to_pairs]
    out, pairs = (Path(path).expanduser() if path else None for path in paths)
    for path in (out, pairs):
        if path is not None and (path.is_dir() or not path.parent.is_dir()):
            raise UserError(f"cannot write {path}", "give a file in a folder that exists")
    if pairs is not None and pairs.exists():
        raise UserError(f"{pairs} is there already", "choose another file, or remove it")
    if out is not None and any(
        out.exists() and Path(file).expanduser().exists() and out.samefile(Path(file).expanduser())
        for file in arguments.files
    ):
        raise UserError(f"{out} is what is judged", "choose another --out")
    return out, pairs


def _open(arguments: argparse.Namespace) -> "Judge":
    from minialign.cli.models import fetch_progress
    from minialign.tasks.judge import open_judge

    url, spec = arguments.judge_url, arguments.judge
    if url is None:
        for flag in ("judge_model", "timeout", "retries"):
            if getattr(arguments, flag) is not None:
                raise UserError(
                    f"--{flag.replace('_', '-')} is for an endpoint", "--judge-url http://…/v1"
                )
    elif arguments.adapter or spec:
        given = "--adapter" if arguments.adapter else "--judge"
        raise UserError(
            f"both {given} and --judge-url", "an endpoint's model is --judge-model NAME"
        )
    else:
        spec = arguments.judge_model
    progress, done = fetch_progress()
    try:
        return open_judge(
            spec, template=arguments.template, adapter=arguments.adapter, url=url,
            explain=arguments.explain, debias=arguments.debias, criteria=arguments.criteria,
            timeout=arguments.timeout, retries=arguments.retries, progress=progress,
        )  # fmt: skip
    finally:
        done()


def _shown(
    judge: "Judge", duels: "list[Duel]", out: Path | None, batch_size: int
) -> "Iterator[Verdict]":
    """The verdicts, with a line that says how fast and how long; those that were known already
    come at once and do not count for the pace."""
    from minialign.tasks.judge import judge_duels

    line, stop, last = console.Line(), threading.Event(), time.monotonic()
    fresh, seconds = 0, 0.0
    try:
        for done, verdict in enumerate(
            judge_duels(judge, duels, file=out, batch_size=batch_size, stop=stop), 1
        ):
            now = time.monotonic()
            if now - last > 0.02 or fresh:
                fresh, seconds = fresh + 1, seconds + now - last
            last = now
            if seconds > 2:
                left = console.duration(seconds / fresh * (len(duels) - done))
                line.update(
                    f"verdict {done}/{len(duels)}, {60 * fresh / seconds:.0f} a minute, {left} left"
                )
            yield verdict
    finally:
        stop.set()
        line.clear()


def _report(judge: "Judge", verdicts: "list[Verdict]", *, as_json: bool) -> None:
    from minialign.tasks.judgings import standing

    found = standing({str(number): one for number, one in enumerate(verdicts)}, {})
    masses = [order["mass"] for one in verdicts for order in one.orders if "mass" in order]
    mass = sum(masses) / len(masses) if masses else None
    if as_json:
        first, conflicts, longer = found.first, found.conflicts, found.longer
        console.emit({
            "judge": judge.name, "template": judge.template.name if judge.template else None,
            "debias": judge.debias, "judged": found.judged,
            "a": found.a, "b": found.b, "tie": found.tie, "unparsed": found.unparsed,
            "win_rate_a": found.rate and found.rate[0],
            "win_rate_a_interval": found.rate and list(found.rate[1:]),
            "swap_agreement": None if judge.alone or not conflicts else 1 - conflicts[0],
            "first_slot_rate": None if judge.alone or not first else first[0],
            "longer_preferred": longer and longer[0], "verdict_mass": mass,
        })  # fmt: skip
        return
    template = f", template {judge.template.name}" if judge.template else ""
    print(f"judge      {judge.name}{template}{', debiased' if judge.debias else ''}")
    unread = f", unparsed {found.unparsed}" if found.unparsed else ""
    print(f"verdicts   {found.judged}: a {found.a}, b {found.b}, tie {found.tie}{unread}")
    if found.rate:
        rate, low, high = (100 * value for value in found.rate)
        half = "tie as half" if found.tie else "no ties"
        print(f"a wins     {rate:.1f} % ({half}; 95 % interval {low:.1f} to {high:.1f} %)")
    if not judge.alone and found.conflicts:
        share, count = found.conflicts
        print(f"orders     agree on {100 - 100 * share:.1f} % of {count} pairs")
    if not judge.alone and found.first:
        share, count = found.first
        print(f"position   the answer shown first is preferred in {100 * share:.1f} % of {count}")
    if found.longer:
        share, count = found.longer
        print(f"length     the longer answer is preferred in {100 * share:.1f} % of {count}")
    if mass is not None and mass < 0.5 and judge.template:
        console.say(
            f"only {100 * mass:.0f} % of the probability was on the verdict's words: this judge "
            "would rather say something else; try another --template"
        )


def _write_pairs(verdicts: "list[Verdict]", path: Path) -> None:
    from minialign.records import to_json
    from minialign.tasks.data_writing import json_line, written_whole
    from minialign.tasks.judge import verdicts_to_pairs

    pairs = verdicts_to_pairs(verdicts)
    if not pairs:
        console.say(f"{path} is not written: the judge preferred none")
        return
    with written_whole(path, force=False) as file:
        for pair in pairs:
            file.write(json_line(to_json(pair)))
    console.say(f"{len(pairs)} pairs in {path}")
    console.next_steps(f"minialign dpo --data {path}")
