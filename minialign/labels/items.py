"""What is labelled: pairs from the chat or a file, and prompts that a model answers twice."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from minialign.durable import Journal
from minialign.errors import UserError
from minialign.home import home
from minialign.records import Comparison, Pair, Prompt, Prompted, as_prompt, read_comparison

if TYPE_CHECKING:
    from minialign.engine import Engine, Sampling

Item = Comparison | Prompt  # a pair, or a prompt to be answered twice


def read_items(path: str | Path) -> list[Item]:
    """Read the pairs of a file, or its prompts when it holds none; a .txt has a prompt a line.

    Raises:
        UserError: for a missing file, bad rows, or rows of neither kind.
    """
    path = Path(path).expanduser()
    if path.suffix == ".txt":
        from minialign.data.prompts import read_prompts

        return [asked.prompt for asked in read_prompts(path)]
    from minialign import formats

    if not path.is_file():
        raise UserError(f"{path}: no such file", "a .txt with a prompt a line, or JSONL of pairs")
    read = formats.read(path)
    if read.problems:
        raise UserError(str(read.problems[0]), "minialign data check lists all bad rows")
    pairs, _ = formats.as_kind(read.records, Pair)
    if pairs:
        return [_compare(pair) for pair in pairs if pair.chosen.strip() != pair.rejected.strip()]
    prompts, _ = formats.as_kind(read.records, Prompted)
    if not prompts:
        raise UserError(f"{path} holds neither pairs nor prompts", f"minialign data show {path}")
    return [prompted.prompt for prompted in prompts]


def _compare(pair: Pair) -> Comparison:
    ends = [{"finish_reason": reason} for reason in pair.finish_reasons or ()] or [{}, {}]
    a_from = {"file": pair.source, "was": "chosen"} | ends[0]
    b_from = {"file": pair.source, "was": "rejected"} | ends[1]
    return Comparison(pair.prompt, pair.chosen, pair.rejected, a_from=a_from, b_from=b_from)


def starters() -> list[Item]:
    """Return the prompts to begin with."""
    text = Path(__file__).with_name("starters.txt").read_text(encoding="utf-8")
    return [as_prompt(line) for line in text.splitlines()]


class Waiting:
    """Pairs that were set aside in the chat, in ``pairs.jsonl``, until they have a vote."""

    def __init__(self, path: Path | None = None):
        self.journal = Journal.open(path or home() / "pairs.jsonl")

    def add(self, pair: Comparison) -> None:
        """Set a pair aside; on disk when this returns."""
        self.journal.append(pair.sides)

    def pairs(self) -> list[Comparison]:
        """Return all that were ever set aside."""
        return [pair for row in self.journal.rows if (pair := read_comparison(row)) is not None]


def write_two_answers(
    engine: "Engine",
    prompt: Prompt,
    sampling: "Sampling",
    origin: dict[str, Any],
    seed: int,
    pressed: Any = lambda: False,
    cancelled: Any = lambda: False,
) -> Iterator[Comparison | None]:
    """Write two different answers to a prompt, with different seeds.

    The last item is the pair, or None when the model gave the same answer each time. Where each
    came from has its seed and why it ended. Items before it are pauses: when ``pressed`` turns true
    the work is given up and done again.

    Raises:
        UserError: when the prompt is too long.
    """
    from minialign.engine import Request
    from minialign.engine.next_token import sample_seed
    from minialign.learn.batch import encode_prompt

    if sampling.greedy:
        sampling = replace(sampling, temperature=0.7)  # else both are the same
    ids = tuple(encode_prompt(prompt, engine.tokenizer))
    seeds = [sample_seed(seed, 1, index) for index in range(4)]
    written: dict[int, tuple[str, str]] = {}  # seed: text, finish reason
    for wanted in (seeds[:2], seeds[2:3], seeds[3:]):
        while missing := [one for one in wanted if one not in written]:
            waiting = [Request(ids, seed=one) for one in missing]
            for done in engine.complete(waiting, sampling, cancelled=pressed):
                if done.finish_reason != "cancelled":
                    written[done.seed] = done.text.strip(), done.finish_reason
            if cancelled():
                return
            if any(one not in written for one in wanted):
                yield None
        texts = {
            text: {"seed": one, "temperature": sampling.temperature, "finish_reason": reason}
            for one, (text, reason) in written.items()
            if text
        }
        if len(texts) > 1:
            (a, a_from), (b, b_from) = list(texts.items())[:2]
            yield Comparison(prompt, a, b, a_from=origin | a_from, b_from=origin | b_from)
            return
    yield None
