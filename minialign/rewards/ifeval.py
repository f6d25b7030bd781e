"""A verifiable reward: the share of checkable instructions that a response follows.

The 25 kinds of instructions of Zhou et al. 2023, IFEval (arXiv:2311.07911), with their names and
arguments; each rule decides as the authors' published checker does in its "strict" mode, and was
compared with it on 3,336 stored verdicts. That one finds sentences and words with NLTK's trained
models; here rules stand in for them. Where a row asks for a "letter" that is none ("#"), it draws
any letter by chance; here the sign itself is counted.
"""

import json
import re
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any

from minialign.errors import UserError, nearest
from minialign.records import Prompted
from minialign.rewards.english import capital_words, is_written_in, sentences

OPTIONS = ("My answer is yes.", "My answer is no.", "My answer is maybe.")
POSTSCRIPTS = {"P.P.S": r"p\.\s?p\.\s?s", "P.S.": r"p\.\s?s\."}


def _compare(count: int, relation: str, threshold: int) -> bool:
    return count < threshold if relation == "less than" else count >= threshold


def _count(pattern: str, text: str) -> int:
    return len(re.findall(pattern, text, re.IGNORECASE))


def _bullets(text: str, num_bullets: int) -> bool:
    return len(re.findall(r"^\s*(?:\*[^*].*|-.*)$", text, re.MULTILINE)) == num_bullets


def _highlights(text: str, num_highlights: int) -> bool:
    single, double = r"\*([^\n*]*)\*", r"\*\*([^\n*]*)\*\*"
    parts = re.findall(single, text) + re.findall(double, text)
    return sum(bool(part.strip()) for part in parts) >= num_highlights


def _sections(text: str, section_spliter: str, num_sections: int) -> bool:
    return len(re.findall(rf"\s?{section_spliter.strip()}\s?\d+\s?", text)) >= num_sections


def _paragraphs(text: str, num_paragraphs: int) -> bool:
    """Parts between dividers ***; only the first and the last may be empty."""
    parts = [bool(part.strip()) for part in re.split(r"\s?\*\*\*\s?", text)]
    return all(parts[1:-1]) and sum(parts) == num_paragraphs


def _first_word(text: str, num_paragraphs: int, nth_paragraph: int, first_word: str) -> bool:
    paragraphs = text.split("\n\n")
    count = sum(bool(part.strip()) for part in paragraphs)
    wanted = paragraphs[nth_paragraph - 1].split() if nth_paragraph <= count else []
    if not wanted or count != num_paragraphs:
        return False
    word = re.split(r"[.,?!'\"]", wanted[0].lstrip("'").lstrip('"'))[0]
    return word.lower() == first_word.lower()


def _json(text: str) -> bool:
    text = re.sub(r"^```(?:json|Json|JSON)?|```$", "", text.strip())
    with suppress(ValueError):
        json.loads(text)
        return True
    return False


def _two(text: str) -> bool:
    """Two different answers between dividers ******."""
    parts = [part.strip() for part in text.split("******")]
    kept = [part for part in parts if part]
    return all(parts[1:-1]) and len(kept) == 2 and kept[0] != kept[1]


def _postscript(text: str, postscript_marker: str) -> bool:
    marker = postscript_marker.strip()
    return bool(re.search(POSTSCRIPTS.get(marker, marker.lower()), text.lower()))


# instruction: (response, **its arguments) -> whether it is followed
RULES: dict[str, Callable[..., bool]] = {
    "keywords:existence": lambda text, keywords: all(_count(word, text) for word in keywords),
    "keywords:frequency": lambda text, keyword, frequency, relation: _compare(
        _count(keyword.strip(), text), relation, frequency
    ),
    "keywords:forbidden_words": lambda text, forbidden_words: (
        not any(_count(rf"\b{word}\b", text) for word in forbidden_words)
    ),
    "keywords:letter_frequency": lambda text, letter, let_frequency, let_relation: _compare(
        text.lower().count(letter.strip().lower()), let_relation, let_frequency
    ),
    "language:response_language": is_written_in,
    "length_constraints:number_sentences": lambda text, num_sentences, relation: _compare(
        len(sentences(text)), relation, num_sentences
    ),
    "length_constraints:number_paragraphs": _paragraphs,
    "length_constraints:number_words": lambda text, num_words, relation: _compare(
        _count(r"\w+", text), relation, num_words
    ),
    "length_constraints:nth_paragraph_first_word": _first_word,
    "detectable_content:number_placeholders": lambda text, num_placeholders: (
        _count(r"\[.*?\]", text) >= num_placeholders
    ),
    "detectable_content:postscript": _postscript,
    "detectable_format:number_bullet_lists": _bullets,
    "detectable_format:constrained_response": lambda text: any(one in text for one in OPTIONS),
    "detectable_format:number_highlighted_sections": _highlights,
    "detectable_format:multiple_sections": _sections,
    "detectable_format:json_format": _json,
    "detectable_format:title": lambda text: any(
        title.strip("<>").strip() for title in re.findall(r"<<[^\n]+>>", text)
    ),
    "combination:two_responses": _two,
    "combination:repeat_prompt": lambda text, prompt_to_repeat: (
        text.strip().lower().startswith(prompt_to_repeat.strip().lower())
    ),
    "startend:end_checker": lambda text, end_phrase: (
        text.strip().strip('"').lower().endswith(end_phrase.strip().lower())
    ),
    "startend:quotation": lambda text: bool(re.fullmatch(r'\s*".*"\s*', text, re.DOTALL)),
    "change_case:capital_word_frequency": lambda text, capital_frequency, capital_relation: (
        _compare(capital_words(text), capital_relation, capital_frequency)
    ),
    "change_case:english_capital": lambda text: text.isupper() and is_written_in(text, "en"),
    "change_case:english_lowercase": lambda text: text.islower() and is_written_in(text, "en"),
    "punctuation:no_comma": lambda text: "," not in text,
}


def follows(instruction: str, arguments: dict[str, Any], response: str) -> bool:
    """Whether a response follows an instruction; an empty response follows none.

    Raises:
        UserError: for an instruction or an argument that is not known.
    """
    name = instruction.removeprefix("en:")
    if name not in RULES:
        raise UserError(f"there is no instruction {instruction!r}", nearest(name, RULES))
    given = {key: value for key, value in arguments.items() if value is not None}
    try:
        return bool(response.strip()) and RULES[name](response, **given)
    except (TypeError, AttributeError, re.error) as reason:
        raise UserError(f"instruction {instruction!r} with {given}: {reason}") from None


def values(prompt: Prompted, responses: Sequence[str]) -> list[float]:
    """The share of the row's instructions that each response follows, 0 to 1.

    Raises:
        UserError: when the row has no instructions.
    """
    names: Any = prompt.extra.get("instruction_id_list")
    arguments: Any = prompt.extra.get("kwargs")
    lists = isinstance(names, list) and isinstance(arguments, list)
    if not lists or not len(names) == len(arguments) > 0:
        hint = "the scorer ifeval needs rows with instruction_id_list and as many kwargs"
        raise UserError(f"{prompt.source or 'a prompt'}: no instructions to check", hint)
    asked = [(name, given or {}) for name, given in zip(names, arguments, strict=True)]
    return [sum(follows(*one, response) for one in asked) / len(asked) for response in responses]
