"""``minialign sample``: rankings or pairs made of a model's own answers."""

import argparse

from minialign.cli import answer_flags, console
from minialign.cli.flags import adder
from minialign.durable import Journal
from minialign.errors import UserError

EPILOG = """\
minialign sample prompts.txt --n 4 --scorer reward:reward-1 -o rankings.jsonl      # for rrhf
minialign sample prompts.txt --n 4 --scorer length --to pairs -o pairs.jsonl       # best, worst
minialign sample prompts.txt --n 2 --to pairs -o unlabelled.jsonl                  # for label

Without a scorer pairs are in random order: label them before you train on them; training refuses
them as they are. Rows with an answer cut at --max-tokens have finish_reasons: training teaches no
end of it.
"""


def add_arguments(parser: argparse.ArgumentParser, command: str) -> None:
    """Prompts, scorer, sampling and what is written."""
    answer_flags.prompt_arguments(parser, 4)
    add = adder(parser)
    add("--scorer SCORER", answer_flags.scorer_help())
    to = "all answers with scores; or the best and the worst (rankings)"
    add("--to", to, choices=("rankings", "pairs"), default="rankings")
    add("-o --output FILE", "write to a file, not to stdout")


def run(arguments: argparse.Namespace) -> int:
    """Sample and write a row for each prompt."""
    from minialign.rewards.spec import parse
    from minialign.samples import groups
    from minialign.scoring.open import open_scorer

    sampling = answer_flags.sampling_from(arguments)
    output = answer_flags.output_file(arguments)
    if arguments.n < 2:
        raise UserError(f"n is {arguments.n}", "a ranking or a pair needs 2 answers or more")
    if arguments.scorer is None and arguments.to == "rankings":
        raise UserError("rankings need a scorer", "--scorer SCORER, or --to pairs to label them")
    asked = answer_flags.read_asked(arguments)
    if arguments.scorer:
        parse(arguments.scorer)
    engine = answer_flags.open_from(arguments)
    scorer = open_scorer(arguments.scorer, engine=engine) if arguments.scorer else None
    drawn = arguments.n, sampling, arguments.seed, arguments.batch_size
    sampled = groups.sample_groups(engine, asked, *drawn)
    journal = Journal(output) if output else None
    written = 0
    for group in console.progress(sampled, len(asked), "prompts"):
        if scorer is None:
            row = groups.pair_at_random(group, arguments.seed)
        elif arguments.to == "pairs":
            row = groups.pair_best_and_worst(group, scorer)
        else:
            row = groups.rank(group, scorer)
        if row is not None:
            written += 1
            answer_flags.write_row(row, journal)
    if written < len(asked):
        console.say(f"{len(asked) - written} prompts left out: their answers or scores are equal")
    if output and written:
        trains = "rrhf" if arguments.to == "rankings" else "dpo"
        use = f"minialign {trains} --data {output}" if scorer else f"minialign label {output}"
        console.next_steps(f"minialign data show {output}", use)
    return 0
