"""What is labelled: pairs from the chat or a file, and prompts that a model answers twice."""

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from minialign.durable import Journal, digest
from minialign.errors import UserError
from minialign.home import home
from minialign.records import Prompt, as_prompt

if TYPE_CHECKING:
    from minialign.engine import Engine, Sampling
    from minialign.records import Pair

STARTERS = (
    "Explain what a black hole is to a curious ten-year-old.",
    "I slept badly. Give me three tips for tonight.",
    "Write a short, friendly email that asks a colleague to review my report by Friday.",
    "What is the difference between weather and climate?",
    "Suggest a quick vegetarian dinner with chickpeas.",
    "Summarize in two sentences why the sky is blue.",
    "How do I politely decline an invitation?",
    "Give me three names for a cat that likes to sleep.",
    "What should I pack for a weekend in the mountains?",
    "Explain compound interest with a small example.",
    "Write a four-line poem about rain.",
    "What are the pros and cons of working from home?",
    "How can I learn to touch-type?",
    "Why do leaves change colour in autumn?",
    "Turn this into a polite question: give me the file now.",
    "Name three books that are good for learning about history.",
    "How do vaccines work?",
    "Plan a relaxed Sunday with two small children.",
    "What is a good first project to learn Python?",
    "Describe the taste of a lemon to someone who never had one.",
    "How do I remove a red wine stain?",
    "Give me a warm-up for a short run.",
    "What is inflation, in plain words?",
    "Write a thank-you note to a neighbour who fed my plants.",
)


@dataclass(frozen=True)
class Shown:
    """A pair as it is shown. ``key`` is the same for the same two answers in any order."""

    prompt: Prompt
    a: str
    b: str
    a_from: dict[str, Any] = field(default_factory=dict)
    b_from: dict[str, Any] = field(default_factory=dict)
    again: bool = False

    @cached_property
    def key(self) -> str:
        """16 letters that stand for prompt and answers."""
        return digest([self.prompt, *sorted([self.a, self.b])])

    def swapped(self) -> "Shown":
        """The same, the other way round."""
        return replace(self, a=self.b, b=self.a, a_from=self.b_from, b_from=self.a_from)


Item = Shown | Prompt  # a pair, or a prompt to be answered twice


def read_items(path: str | Path) -> list[Item]:
    """The pairs of a file, or its prompts when it holds none; a .txt has a prompt a line.

    Raises:
        UserError: for a missing file, bad rows, or rows of neither kind.
    """
    path = Path(path).expanduser()
    if path.suffix == ".txt":
        from minialign.data.prompts import read_questions

        return [list(asked.prompt) for asked in read_questions(path) if asked.prompt]  # type: ignore[arg-type]
    from minialign import formats
    from minialign.records import Pair, Prompted

    if not path.is_file():
        raise UserError(f"{path}: no such file", "a .txt with a prompt a line, or JSONL of pairs")
    read = formats.read(path)
    if read.problems:
        raise UserError(str(read.problems[0]), "minialign data check lists all bad rows")
    pairs, _ = formats.as_kind(read.records, Pair)
    if pairs:
        return [_shown(pair) for pair in pairs if pair.chosen.strip() != pair.rejected.strip()]
    prompts, _ = formats.as_kind(read.records, Prompted)
    if not prompts:
        raise UserError(f"{path} holds neither pairs nor prompts", f"minialign data show {path}")
    return [prompted.prompt for prompted in prompts]


def _shown(pair: "Pair") -> Shown:
    a_from: dict[str, Any] = {"file": pair.source, "was": "chosen"}
    b_from: dict[str, Any] = {"file": pair.source, "was": "rejected"}
    for origin, reason in zip((a_from, b_from), pair.finish_reasons or (), strict=False):
        origin["finish_reason"] = reason
    return Shown(pair.prompt, pair.chosen, pair.rejected, a_from, b_from)


def starters() -> list[Item]:
    """The prompts to begin with."""
    return [as_prompt(text) for text in STARTERS]


class Waiting:
    """Pairs that were set aside in the chat, in ``pairs.jsonl``, until they have a vote."""

    def __init__(self, path: Path | None = None):
        self.journal = Journal.open(path or home() / "pairs.jsonl")

    def add(self, pair: Shown) -> None:
        """Set a pair aside; on disk when this returns."""
        self.journal.append(
            {"prompt": pair.prompt, "a": pair.a, "b": pair.b,
             "a_from": pair.a_from, "b_from": pair.b_from}
        )  # fmt: skip

    def pairs(self) -> list[Shown]:
        """All that were ever set aside."""
        found = []
        for row in self.journal.rows:
            try:
                found.append(
                    Shown(as_prompt(row["prompt"]), str(row["a"]), str(row["b"]),
                          dict(row.get("a_from") or {}), dict(row.get("b_from") or {}))
                )  # fmt: skip
            except (KeyError, TypeError, ValueError):
                continue
        return found


def two_answers(
    engine: "Engine",
    prompt: Prompt,
    sampling: "Sampling",
    origin: dict[str, Any],
    seed: int,
    pressed: Any = lambda: False,
    cancelled: Any = lambda: False,
) -> Iterator[Shown | None]:
    """Two different answers to a prompt, with different seeds; the last item is the pair, or None
    when the model gave the same answer each time. Where each came from has its seed and why it
    ended. Items before it are pauses: when ``pressed``
    turns true the work is given up and done again.

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
    found: dict[int, tuple[str, str]] = {}  # seed: text, finish reason
    for wanted in (seeds[:2], seeds[2:3], seeds[3:]):
        while missing := [one for one in wanted if one not in found]:
            waiting = [Request(ids, seed=one) for one in missing]
            for done in engine.complete(waiting, sampling, cancelled=pressed):
                if done.finish_reason != "cancelled":
                    found[done.seed] = done.text.strip(), done.finish_reason
            if cancelled():
                return
            if any(one not in found for one in wanted):
                yield None
        texts = {
            text: {"seed": one, "temperature": sampling.temperature, "finish_reason": reason}
            for one, (text, reason) in found.items()
            if text
        }
        if len(texts) > 1:
            (a, a_from), (b, b_from) = list(texts.items())[:2]
            yield Shown(prompt, a, b, {**origin, **a_from}, {**origin, **b_from})
            return
    yield None
