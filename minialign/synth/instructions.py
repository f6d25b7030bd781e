"""Self-Instruct (Wang et al. 2023, arXiv:2212.10560): new instructions behind a list of old ones.

The prompt is a request for a list, and the first entries of the answer: eight instructions, six
of people and two made before (the paper's mix), with the next number open. A small chat model
goes on with a list of its own far better than with one that it is shown.
"""

import re
from collections.abc import Sequence
from random import Random

from minialign.synth.similarity import most_similar, words

SEEDS, MADE = 6, 2  # instructions shown: of people, of the model
SHOWN_WORDS = 60  # longer ones, or ones of several lines, are not shown
ASKED = 8  # new ones that are asked for; more are taken as well

_NUMBER = re.compile(
    r"^[ \t]*(?:\*\*)?(?:Task[ \t]+)?\d{1,3}[.):][ \t]*(?:\*\*)?[ \t]*", re.MULTILINE
)
_ABSENT = re.compile(
    r"\b(?:following|(?:given|above|below|provided)(?! (?:that|by|name))|"
    r"(?:this|these) (?:text|sentence|paragraph|passage|article|list|word|poem|story|essay)s?)\b",
    re.IGNORECASE,
)


def is_showable(text: str) -> bool:
    """Whether an instruction fits on a line of the list."""
    return "\n" not in text.strip() and 0 < len(text.split()) <= SHOWN_WORDS


def draw(seeds: Sequence[str], made: Sequence[str], chance: Random) -> list[str]:
    """The instructions that a prompt shows, in random order."""
    of_model = chance.sample(made, min(MADE, len(made)))
    of_people = chance.sample(seeds, min(SEEDS + MADE - len(of_model), len(seeds)))
    shown = [*of_people, *of_model]
    chance.shuffle(shown)
    return [" ".join(text.split()) for text in shown]


def opening(shown: Sequence[str]) -> str:
    """The beginning of the answer: the numbered list up to the open number."""
    entries = [f"{number}. {text}" for number, text in enumerate([*shown, ""], 1)]
    return "\n".join(entries).rstrip()


def parse(text: str, cut: bool) -> tuple[list[str], str]:
    """(the instructions that continue a numbered list, the last one if it was cut off, else "").

    An entry ends with its line or paragraph of lines; what stands behind a blank line is talk.
    """
    entries = [part.split("\n\n")[0] for part in _NUMBER.split(text)]
    entries = [" ".join(part.split()).strip("*").strip() for part in entries]
    entries = [part.removeprefix('"').removesuffix('"') for part in entries]
    last = entries.pop() if cut and entries else ""
    return [part for part in entries if part], last


class Pool:
    """All instructions there are, and what a new one must be to become one of them.

    Args:
        known: what new ones are compared with, besides each other.
        avoid: words and phrases that none may have; "photo*" is also "photos".
        similarity: a ROUGE-L of this much or more with a known one is too similar (paper: 0.7).
        shortest, longest: words that one must and may have (paper: 4 and 150).
    """

    def __init__(
        self,
        known: Sequence[str],
        avoid: Sequence[str] = (),
        similarity: float = 0.7,
        shortest: int = 4,
        longest: int = 150,
    ):
        self.made: list[str] = []
        self._words = [words(text) for text in known]
        self._similarity = similarity
        self._shortest, self._longest = shortest, longest
        phrases = [
            re.escape(one.removesuffix("*")) + (r"\w*" if one.endswith("*") else "")
            for one in avoid
        ]
        self._avoid = re.compile(rf"\b(?:{'|'.join(phrases)})\b", re.I) if phrases else None

    def add(self, text: str) -> str | None:
        """Take an instruction in; or the reason why not, in words that can be counted."""
        said = words(text)
        if len(said) < self._shortest:
            return f"shorter than {self._shortest} words"
        if len(said) > self._longest:
            return f"longer than {self._longest} words"
        if not text[0].isalnum():
            return "begins with a sign"
        if self._avoid and self._avoid.search(text):
            return "has a word to avoid"
        if ":" not in text and _ABSENT.search(text):
            return "needs a text that is not there"
        if most_similar(said, self._words, self._similarity):
            return f"ROUGE-L with a seed or an earlier one is {self._similarity:g} or more"
        self._words.append(said)
        self.made.append(text)
        return None
