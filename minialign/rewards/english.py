"""Sentences, words in capitals and the language of a text, by rules and ``langdetect``."""

import re
from functools import cache
from typing import Any

from minialign.errors import UserError

ABBREVIATIONS = re.compile(
    r"(?:\b(?:mr|mrs|ms|dr|prof|sr|jr|st|vs|etc|inc|ltd|co|corp|no|vol|fig|al|gen|col|capt|lt|sgt|"
    r"rev|hon|e\.g|i\.e|u\.s|u\.k|p\.s|a\.m|p\.m|ph\.d)|\b[a-z])\.$",
    re.IGNORECASE,
)
_END = re.compile(r"[.!?]+[\"'”’)\]*_]*(?=\s+\S|$)")


def sentences(text: str) -> list[str]:
    """The sentences of a text: what ends in . ! or ? before white space, abbreviations and initials
    excepted. A line break alone ends none."""
    pieces, start = [], 0
    for match in _END.finditer(text):
        piece = text[start : match.end()]
        before = text[max(start, match.start() - 8) : match.start() + 1]
        if match.group()[0] == "." and ABBREVIATIONS.search(before):
            continue
        pieces.append(piece.strip())
        start = match.end()
    if rest := text[start:].strip():
        pieces.append(rest)
    return pieces


def capital_words(text: str) -> int:
    """How many words have all their letters in capitals; hyphenated ones count once."""
    return sum(word.isupper() for word in re.findall(r"[^\s\"()\[\]{}<>?!,;:]+", text))


@cache
def _detector() -> Any:
    try:
        import langdetect
    except ImportError:
        raise UserError(
            "the language of a text is found with langdetect, which is not installed",
            "pip install 'minialign[ifeval]'   (or: pip install langdetect)",
        ) from None
    langdetect.DetectorFactory.seed = 0  # the same text, the same language
    return langdetect


def is_written_in(text: str, language: str) -> bool:
    """Whether langdetect sees a text in a language (ISO 639-1), or sees none in it."""
    detector = _detector()
    try:
        return detector.detect(text) == language
    except detector.LangDetectException:
        return True
