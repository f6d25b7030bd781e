"""A verifiable reward: is the final answer the reference's, as on GSM8K.

Cobbe et al. 2021 (arXiv:2110.14168): an answer ends with "#### 18", or "A: 18" in the authors'
published solutions; it is right when the numbers are the same text without commas. Here numbers are
also the same when they are equal ("18.0", "$18"), and an answer may be a word ("yes", "B").
"""

import re
from collections.abc import Sequence
from decimal import Decimal, InvalidOperation
from typing import Any

from minialign.errors import UserError
from minialign.records import Prompted

# What announces a final answer, the most explicit first; the last one in a text counts.
MARKS = (
    r"####[ \t]*(.+)",
    r"\\boxed\{([^{}]+)\}",
    r"(?m:^)\W*A(?:nswer)?:\**[ \t]*(.+)",
    r"(?i:final answer|answer)(?:[ \t]+is|:)\**:?[ \t]*(.+)",
)
NUMBER = re.compile(r"-?\$?(?:\d[\d,]*\.?\d*|\.\d+)")
KEYS = ("reference", "answer", "ground_truth", "target", "solution")


def final_answer(text: str) -> str | None:
    """The announced answer of a text: its number if it has one, else its words; None without one.
    A text that announces nothing answers with its last number."""
    for mark in MARKS:
        if answers := re.findall(mark, text):
            number = NUMBER.search(answers[-1])
            return number.group() if number else answers[-1].strip().strip(" .*\"'`") or None
    numbers = NUMBER.findall(text)
    return numbers[-1] if numbers else None


def _normalise(answer: str) -> Decimal | str:
    try:
        return Decimal(answer.replace(",", "").replace("$", "").rstrip("."))
    except InvalidOperation:
        return " ".join(answer.lower().split())


def same_answer(response: str, reference: str) -> bool:
    """Whether the final answers of both texts are equal; never when the response has none.

    A reference that announces nothing and is no number is the answer as it stands.
    """
    given, wanted = final_answer(response), final_answer(reference)
    wanted = reference.strip(" .\"'`\n") if wanted is None else wanted
    return given is not None and _normalise(given) == _normalise(wanted)


def reference_of(prompt: Prompted) -> str:
    """The reference answer in a prompt's row.

    Raises:
        UserError: when there is none.
    """
    value: Any = next((prompt.extra[key] for key in KEYS if key in prompt.extra), None)
    sound = isinstance(value, str | int | float) and not isinstance(value, bool)
    if not sound or not str(value).strip():
        problem = f"{prompt.source or 'a prompt'}: no reference answer to compare with"
        hint = f"the scorer exact needs one of the keys {', '.join(KEYS)} in each row"
        raise UserError(problem, hint)
    return str(value)


def values(prompt: Prompted, responses: Sequence[str]) -> list[float]:
    """1 for a right answer, 0 for any other."""
    reference = reference_of(prompt)
    return [float(same_answer(response, reference)) for response in responses]
