"""The plain rule that says whether an answer has the style of the shipped pairs (``examples/``):
a sentence or two, plainly and warmly, then stop.

It looks at the form only, never at the meaning: a short wrong answer follows the style too.
"""

import re

MAX_WORDS = 45
MAX_SENTENCES = 3

# What small instruct models like to say before the answer.
PREAMBLES = (
    "sure|certainly|of course|absolutely|great question|good question|that's a great|what a great"
    "|as an ai|i'm an ai|here is|here are|here's|i'd be happy to|i'm happy to|happy to help"
    "|thank you for asking|thanks for asking|thank you for reaching out"
)

_PREAMBLE = re.compile(rf"\W*({PREAMBLES})\b", re.IGNORECASE)
_HEADING = re.compile(r"#{1,6}\s|\*\*")
# At the start, or inside a line after punctuation: "You need: 1. flour 2. …".
_LIST_MARKER = re.compile(r"(?:^|[.:;!?]\s+)(?:[-*+•]|\d{1,2}[.)])\s")
_END = r"[.!?][\"'”’)\]»]*"
# A mark inside a running sentence ('ask "Why?" and wait') ends nothing: lower case follows it.
_SENTENCE_END = re.compile(rf"{_END}(?=\s+[^a-z\s]|$)")


def reason(answer: str) -> str | None:
    """Why ``answer`` does not follow the style, in a few words; None when it does.

    White space around the answer does not count; words are what white space separates.
    """
    text = answer.strip().replace("’", "'")
    if not text:
        return "empty"
    if len(text.splitlines()) > 1:
        return "line break"
    if _HEADING.match(text):
        return "heading"
    if _LIST_MARKER.search(text):
        return "list marker"
    if preamble := _PREAMBLE.match(text):
        return f"preamble: {preamble[1]}"
    if (words := len(text.split())) > MAX_WORDS:
        return f"{words} words, at most {MAX_WORDS}"
    if (sentences := len(_SENTENCE_END.findall(text))) > MAX_SENTENCES:
        return f"{sentences} sentences, at most {MAX_SENTENCES}"
    if not re.search(_END + "$", text):
        return "no full stop at the end"
    return None


def follows(answer: str) -> bool:
    """Whether ``answer`` has the style of the shipped pairs."""
    return reason(answer) is None
