"""``minialign score``: log-probs, implicit rewards or reward-head values of responses."""

import argparse
from collections.abc import Iterator
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from minialign.cli import console
from minialign.cli.answer_flags import model_arguments
from minialign.cli.flags import adder
from minialign.errors import UserError
from minialign.records import Prompted, Ranking, Record, as_prompt
from minialign.statistics.shares import share_text

if TYPE_CHECKING:
    from minialign.rewards.score import Scored

EPILOG = """\
minialign score pairs.jsonl --adapter dpo-1          # DPO's implicit reward of each answer
minialign score pairs.jsonl --reward reward-1        # what the reward head says
minialign score --prompt "Hi" --response "Hello!" --response "Go away."

One JSON object a response on stdout: row, role, tokens, logp (sum), mean_logp and, with --adapter,
reference_logp and implicit_reward = beta x (logp - reference_logp); with --reward, reward.
"""

# field of a Scored: what it is
MEASURES = {
    "logp": "log-prob",
    "mean_logp": "mean log-prob a token",
    "reference_logp": "the reference's log-prob",
    "implicit_reward": "implicit reward",
    "reward": "reward head",
}


def add_arguments(parser: argparse.ArgumentParser, command: str) -> None:
    """What is scored, and by what."""
    add = adder(parser)
    add("files FILE", "pairs, rankings, ratings or demonstrations", nargs="*")
    add("--prompt TEXT", "a prompt, instead of files")
    add("--response TEXT", "a response to it (repeatable)", action="append")
    add("--system TEXT", "with --prompt: a system prompt")
    model_arguments(parser)
    add("--reward RUN", "a run of `minialign reward`")
    add("--beta X", "of the implicit reward (the run's own, or 0.1)")
    add("--max-seq-length N", "most tokens of a prompt with a response (the model's context)")
    add("--map KEY=COLUMN", "rename columns", action="append", default=[])
    add("--skip-bad", "go on without bad rows")
    add("--json", "the default: it is JSON anyway")


def run(arguments: argparse.Namespace) -> int:
    """Score every response; the summary goes to stderr."""
    from minialign.rewards.score import open_measures

    records = _records(arguments)
    if arguments.max_seq_length is not None and arguments.max_seq_length < 16:
        raise UserError(f"max-seq-length is {arguments.max_seq_length}", "it must be at least 16")
    what = arguments.model, arguments.adapter, arguments.reward, arguments.beta
    with console.fetching() as tell:
        measures = open_measures(*what, arguments.max_seq_length, tell)
    scored: list[Scored] = []
    with console.live_line() as line:
        for one in measures.score(records):
            line.clear()
            scored.append(one)
            known = {key: value for key, value in asdict(one).items() if value not in (None, "")}
            console.emit(known)
            line.update(f"row {one.row + 1}/{len(records)}")
    for row in measures.too_long[:3]:
        console.say(f"{row.source}: left out, a response of {row.length:,} tokens does not fit")
    if len(measures.too_long) > 3:
        console.say(f"… {len(measures.too_long)} rows left out in all")
    if measures.cut:
        console.say(f"{measures.cut} prompts cut from the left to fit")
    for text in summary(scored):
        console.say(text)
    return 0


def summary(scored: "list[Scored]") -> Iterator[str]:
    """How often each measure ranks the chosen response above the rejected one; a tie is wrong."""
    pairs: dict[int, dict[str, dict[str, Any]]] = {}
    for one in scored:
        if one.role:
            pairs.setdefault(one.row, {})[one.role] = asdict(one)
    if not pairs:
        return
    for key, words in MEASURES.items():
        measured = [pair for pair in pairs.values() if pair["chosen"][key] is not None]
        if measured:
            right = sum(pair["chosen"][key] > pair["rejected"][key] for pair in measured)
            yield f"{words}: chosen above rejected in {share_text(right, len(measured))}"


def _records(arguments: argparse.Namespace) -> list[Record]:
    from minialign import formats
    from minialign.data.check import find, parse_map

    if arguments.prompt is not None:
        if arguments.files:
            raise UserError("both files and --prompt", "give one of them")
        if not arguments.response:
            raise UserError("--prompt without a response", "--response TEXT")
        if not arguments.prompt.strip():
            raise UserError("the prompt is empty", "give it some text")
        prompt = as_prompt(arguments.prompt)
        if arguments.system:
            prompt = [{"role": "system", "content": arguments.system}, *prompt]
        return [Ranking(prompt, arguments.response, [0.0] * len(arguments.response))]
    if arguments.response or arguments.system:
        raise UserError("--response and --system belong to --prompt", "--prompt TEXT")
    if not arguments.files:
        raise UserError("nothing to score", "minialign score pairs.jsonl --adapter RUN")
    records: list[Record] = []
    mapping = parse_map(arguments.map)
    for path in (path for spec in arguments.files for path in find(spec)):
        read = formats.read(path, mapping=mapping)
        if read.problems and not arguments.skip_bad:
            first = read.problems[0]
            fix = f"{first.fix} (or go on without bad rows: --skip-bad)"
            raise UserError(f"{first.source}: {first.found}; expected {first.expected}", fix)
        if read.problems:
            console.say(f"{path}: {len(read.problems)} bad rows left out")
        scored = [record for record in read.records if not isinstance(record, Prompted)]
        if without := len(read.records) - len(scored):
            console.say(f"{path}: {without} rows have no response, left out")
        records += scored
    if not records:
        raise UserError("no row has a response to score", "minialign data check FILE says more")
    return records
