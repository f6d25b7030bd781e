"""A verdict in prose, read by patterns that are tried in order."""

import re
from collections.abc import Mapping

# LLMBar's (its configuration files): for judges that answer alone, and that explain first.
LLMBAR_ALONE = {"a": r"(?:^|\n) ?Output \(a\)", "b": r"(?:^|\n) ?Output \(b\)"}
LLMBAR_EXPLAINED = {"a": r"Output \(a\) is better.", "b": r"Output \(b\) is better."}


def choice_in(text: str, patterns: Mapping[str, str]) -> str:
    """The first choice whose pattern is found anywhere in the text, else "unparsed"."""
    for choice, pattern in patterns.items():
        if re.search(pattern, text.strip()):
            return choice
    return "unparsed"
