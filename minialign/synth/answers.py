"""What is wrong with an answer that a model wrote, seen from its text alone."""

import re

from minialign.records import Prompt
from minialign.synth.similarity import rouge_l, words

CUT = "cut off at the most tokens"
REPEATS = 0.5  # the least share of an answer's runs of three words that must differ
ECHO = 0.9  # the least ROUGE-L with the prompt that makes an answer its repetition
_PREFACE = re.compile(
    r"\A\s*(?:\*\*)?(?:sure|certainly|of course|okay|here(?:'s| is)|(?:the |my )?(?:new|revised|"
    r"improved|updated)? ?(?:answer|revision|response|version))\b[^\n]{0,120}?:(?:\*\*)?[ \t]*\n+",
    re.IGNORECASE,
)


def find_fault(prompt: Prompt, text: str, finish_reason: str, keep_cut: bool = False) -> str | None:
    """Say why an answer is no training data; None when nothing speaks against it."""
    if finish_reason == "too long":
        return "the prompt is too long for the model"
    if not text.strip():
        return "empty"
    if finish_reason == "length" and not keep_cut:
        return CUT
    said = words(text)
    runs = list(zip(said, said[1:], said[2:], strict=False))
    loops = len(runs) >= 20 and len(set(runs)) < REPEATS * len(runs)
    if loops or any(len(set(said[at : at + 5])) == 1 for at in range(len(said) - 4)):
        return "repeats itself"
    if rouge_l(words(prompt[-1]["content"]), said) >= ECHO:
        return "repeats the prompt"
    return None


def hardly_differ(a: str, b: str, least: float = 0.95) -> bool:
    """Whether two texts hardly differ: their ROUGE-L is ``least`` or more."""
    return a.strip() == b.strip() or rouge_l(words(a), words(b)) >= least


def strip_preface(text: str) -> str:
    """The text without a first line that only announces it ("Here is the revised answer:")."""
    rest = _PREFACE.sub("", text, count=1)
    return (rest if rest.strip() else text).strip()
