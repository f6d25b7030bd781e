"""``minialign judge``: which of two answers is better, by a model's verdict in both orders."""

import argparse
from pathlib import Path
from typing import Any

from minialign.cli import console
from minialign.cli.answer_flags import file_to_write
from minialign.cli.flags import adder
from minialign.cli.judge_flags import judge_arguments, judge_from, show_pace
from minialign.errors import UserError
from minialign.judge import Judge
from minialign.judge.ask import judge_comparisons, verdicts_to_pairs
from minialign.records import Verdict, to_json

EPILOG = """\
minialign judge pairs.jsonl --out verdicts.jsonl                  # the embedded model judges
minialign judge base.jsonl tuned.jsonl --judge llama-3b-4bit      # answers of two models
minialign judge pairs.jsonl --judge first --template rules        # a run: its model and adapter
minialign judge pairs.jsonl --judge reward:reward-1               # a reward head
minialign judge pairs.jsonl --judge-url http://127.0.0.1:8080/v1 --judge qwen --explain
minialign judge duels.jsonl --to-pairs pairs.jsonl                # RLAIF: then minialign dpo
minialign judge --show-template pairwise > mine.txt               # edit, then --template mine.txt

Each pair is asked in both orders; a preference counts when both agree, else it is a tie. A verdict
is the model's own probabilities of the verdict's words, never a reading of its prose. Of preference
pairs a is the chosen answer. What a judge said is kept: the same command again asks nothing twice.
An endpoint's key is read from the environment variable MINIALIGN_JUDGE_KEY.
"""


def add_arguments(parser: argparse.ArgumentParser, command: str) -> None:
    """What is judged, by whom, and where the verdicts go."""
    add = adder(parser)
    files = "pairs, or rows with prompt, a and b; or two files with answers to the same prompts"
    judge = "a model, a run, or reward:RUN (smollm2-135m-4bit); the server's name of a model"
    add("files FILE", files, nargs="*")
    add("-m --judge --judge-model MODEL", judge)
    add("--adapter RUN", "an adapter on the judge")
    judge_arguments(parser)
    add("--list-templates", "list the prompts and stop")
    add("--show-template NAME", "print a prompt and stop")
    add("-o --out FILE", "append the verdicts to a JSONL file")
    add("--to-pairs FILE", "write the preferred answers as training pairs")
    add("--limit N", "only the first N pairs")
    add("--json", "the summary as one JSON object")


def run(arguments: argparse.Namespace) -> int:
    """Judge every pair; the summary goes to stdout."""
    if arguments.list_templates or arguments.show_template:
        return _show_templates(arguments)
    out, pairs_file = _check_outputs(arguments)
    if not arguments.files:
        raise UserError("nothing to judge", "minialign judge pairs.jsonl --judge MODEL")
    from minialign.evaluate.comparison_files import read_comparisons

    pairs = read_comparisons(arguments.files, arguments.limit)
    judge = judge_from(arguments, arguments.judge, arguments.adapter)
    asked = judge_comparisons(judge, pairs, file=out, batch_size=arguments.batch_size)
    verdicts = list(show_pace(asked, len(pairs), ", and kept" + (f" in {out}" if out else "")))
    _report(judge, verdicts, as_json=arguments.json)
    if pairs_file is not None:
        _write_pairs(verdicts, pairs_file)
    elif out is not None and any(one.choice in ("a", "b") for one in verdicts):
        console.next_steps(f"minialign label {out}", f"minialign dpo --data {out}")
    return 0


def _show_templates(arguments: argparse.Namespace) -> int:
    from minialign.judge.templates import known_templates, own_folder, read_template

    if arguments.show_template:
        print(read_template(arguments.show_template).file.read_text(encoding="utf-8"), end="")
        return 0
    templates = [read_template(name) for name in known_templates()]
    if arguments.json:
        for one in templates:
            row = {"name": one.name, "mode": one.mode, "about": one.about}
            console.emit(row | {"words": list(one.words), "file": str(one.file)})
        return 0
    rows = [[one.name, one.mode, one.about] for one in templates]
    console.table(["template", "mode", "about"], rows)
    console.say(f"your own: FILE, or {own_folder()}/NAME.txt")
    return 0


def _check_outputs(arguments: argparse.Namespace) -> tuple[Path | None, Path | None]:
    out, pairs = file_to_write(arguments.out), file_to_write(arguments.to_pairs)
    if pairs is not None and pairs.exists():
        raise UserError(f"{pairs} is there already", "choose another file, or remove it")
    if out is not None and out == pairs:
        raise UserError("--out and --to-pairs are one file", "verdicts and pairs need one each")
    files = [Path(file).expanduser() for file in arguments.files]
    if out and out.exists() and any(file.exists() and out.samefile(file) for file in files):
        raise UserError(f"{out} is what is judged", "choose another --out")
    return out, pairs


def _report(judge: Judge, verdicts: list[Verdict], *, as_json: bool) -> None:
    from minialign.evaluate.win_rates import win_rate
    from minialign.judge.plans import count_verdicts

    counts = count_verdicts({str(number): one for number, one in enumerate(verdicts)}, {})
    rate, low, high = win_rate(verdicts)
    first, conflicts = (None, None) if judge.alone else (counts.first, counts.conflicts)
    masses = [order["mass"] for one in verdicts for order in one.orders if "mass" in order]
    mass = sum(masses) / len(masses) if masses else None
    parsed = counts.judged - counts.unparsed
    if as_json:
        row: dict[str, Any] = {"judge": judge.name}
        row["template"] = judge.template.name if judge.template else None
        row |= {"debias": judge.debias, "judged": counts.judged, "a": counts.a, "b": counts.b}
        row |= {"tie": counts.tie, "unparsed": counts.unparsed}
        row["win_rate_a"] = rate if parsed else None
        row["win_rate_a_interval"] = [low, high] if parsed else None
        row["swap_agreement"] = conflicts and 1 - conflicts[0]
        row["first_slot_rate"] = first and first[0]
        row["longer_preferred"] = counts.longer and counts.longer[0]
        console.emit(row | {"verdict_mass": mass})
        return
    template = f", template {judge.template.name}" if judge.template else ""
    print(f"judge      {judge.name}{template}{', debiased' if judge.debias else ''}")
    unread = f", unparsed {counts.unparsed}" if counts.unparsed else ""
    print(f"verdicts   {counts.judged}: a {counts.a}, b {counts.b}, tie {counts.tie}{unread}")
    if parsed:
        half = "tie as half" if counts.tie else "no ties"
        interval = f"95 % interval {100 * low:.1f} to {100 * high:.1f} %"
        print(f"a wins     {100 * rate:.1f} % ({half}; {interval})")
    if conflicts:
        print(f"orders     agree on {100 - 100 * conflicts[0]:.1f} % of {conflicts[1]} pairs")
    answers = {"position   the answer shown first": first}
    answers["length     the longer answer"] = counts.longer
    for words, share in answers.items():
        if share:
            print(f"{words} is preferred in {100 * share[0]:.1f} % of {share[1]}")
    if mass is not None and mass < 0.5 and judge.template:
        console.say(
            f"only {100 * mass:.0f} % of the probability was on the verdict's words: this judge "
            "would rather say something else; try another --template"
        )


def _write_pairs(verdicts: list[Verdict], path: Path) -> None:
    from minialign.data.write import write_whole
    from minialign.durable import json_line

    pairs = verdicts_to_pairs(verdicts)
    if not pairs:
        console.say(f"{path} is not written: the judge preferred none")
        return
    with write_whole(path, force=False) as file:
        file.writelines(json_line(to_json(pair)) for pair in pairs)
    console.say(f"{len(pairs)} pairs in {path}")
    console.next_steps(f"minialign dpo --data {path}")
