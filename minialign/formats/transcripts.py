"""HH-RLHF's transcripts, "\\n\\nHuman: …\\n\\nAssistant: …", and pairs that share their beginning.

Anthropic's data (Bai et al. 2022, arXiv:2204.05862) has no prompt column: chosen and rejected
are two whole conversations. The prompt is what they have in common, up to a turn's boundary.
"""

import re
from itertools import groupby, takewhile
from operator import eq, itemgetter

from minialign.formats.problems import BadRow
from minialign.records import Message, Prompt

_TURN = re.compile(r"(?:\A\s*|\n\n)(Human|Assistant):")
_SIDES = {"Human": "user", "Assistant": "assistant"}


def is_transcript(text: object) -> bool:
    """Whether a text is a conversation in HH-RLHF's notation."""
    return isinstance(text, str) and bool(re.match(r"\s*Human:", text)) and "Assistant:" in text


def turns(text: str) -> list[Message]:
    """The turns of a transcript, as they stand: one may follow another of the same side."""
    parts = _TURN.split(text)
    return [
        {"role": _SIDES[side], "content": said.strip()}
        for side, said in zip(parts[1::2], parts[2::2], strict=True)
    ]


def open_prompt(text: str) -> Prompt | None:
    """The turns of a transcript that ends with an empty "Assistant:"; None for any other text."""
    parts = turns(text) if is_transcript(text) else []
    ends_open = parts[-1:] == [{"role": "assistant", "content": ""}]
    return merge_turns(parts[:-1]) if ends_open else None


def merge_turns(parts: list[Message]) -> list[Message]:
    """Turns of one side in a row become one turn, with a blank line between."""
    return [
        {"role": role, "content": "\n\n".join(part["content"] for part in same)}
        for role, same in groupby(parts, itemgetter("role"))
    ]


def shared_prompt(chosen: list[Message], rejected: list[Message]) -> tuple[Prompt, str, str]:
    """(prompt, chosen answer, rejected answer) of two conversations with a common beginning.

    Raises BadRow unless each goes on, after the turns both have, with exactly one assistant's turn.
    """
    common = sum(1 for _ in takewhile(bool, map(eq, chosen[:-1], rejected[:-1])))
    for name, conversation in (("chosen", chosen), ("rejected", rejected)):
        rest = conversation[common:]
        if len(rest) != 1:
            where = f"turn {common + 1}, where {name!r} has {len(rest)} turns left"
            expected = "one prompt and two answers: the same turns up to the last one"
            fix = f"end both at the answer that differs, turn {common + 1}, or take the row out"
            raise BadRow(f"conversations that part at {where}", expected, fix)
        if rest[0]["role"] != "assistant":
            ending = f"{name!r} that ends with a turn of the {rest[0]['role']}"
            expected = "a conversation that ends with the assistant's answer"
            raise BadRow(ending, expected, "add the answer, or take the row out")
    if not common:
        fix = "give both the same first turns"
        raise BadRow("conversations with nothing in common", "the same prompt in both", fix)
    answers = [chosen[common]["content"], rejected[common]["content"]]
    prompt = merge_turns(chosen[:common])
    if prompt[-1]["role"] == "assistant":  # the answer goes on: its beginning belongs to both
        begun = prompt.pop()["content"]
        answers = [f"{begun}\n\n{answer}" for answer in answers]
    return prompt, answers[0], answers[1]
