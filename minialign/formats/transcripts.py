"""HH-RLHF's transcripts, "\\n\\nHuman: …\\n\\nAssistant: …", and pairs that share their beginning.

Anthropic's data (Bai et al. 2022, arXiv:2204.05862) has no prompt column: chosen and rejected
are two whole conversations. The prompt is what they have in common, up to a turn's boundary.
"""

import re
from itertools import pairwise

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
    if not is_transcript(text):
        return None
    parts = turns(text)
    if parts[-1] != {"role": "assistant", "content": ""}:
        return None
    return merge_turns(parts[:-1])


def merge_turns(parts: list[Message]) -> list[Message]:
    """Turns of one side in a row become one turn, with a blank line between."""
    result: list[Message] = []
    for part in parts:
        if result and result[-1]["role"] == part["role"]:
            both = f"{result[-1]['content']}\n\n{part['content']}"
            result[-1] = {"role": part["role"], "content": both}
        else:
            result.append(part)
    return result


def shared_prompt(chosen: list[Message], rejected: list[Message]) -> tuple[Prompt, str, str]:
    """(prompt, chosen answer, rejected answer) of two conversations with a common beginning.

    Raises BadRow unless each goes on, after the turns both have, with exactly one assistant's turn.
    """
    common = 0
    for ours, theirs in zip(chosen[:-1], rejected[:-1], strict=False):
        if ours != theirs:
            break
        common += 1
    prompt = chosen[:common]
    for name, conversation in (("chosen", chosen), ("rejected", rejected)):
        rest = conversation[common:]
        if len(rest) != 1:
            raise BadRow(
                f"conversations that part at turn {common + 1}, where {name!r} has"
                f" {len(rest)} turns left",
                "one prompt and two answers: the same turns up to the last one",
                f"end both at the answer that differs, turn {common + 1}, or take the row out",
            )
        if rest[0]["role"] != "assistant":
            raise BadRow(
                f"{name!r} that ends with a turn of the {rest[0]['role']}",
                "a conversation that ends with the assistant's answer",
                "add the answer, or take the row out",
            )
    if not prompt:
        fix = "give both the same first turns"
        raise BadRow("conversations with nothing in common", "the same prompt in both", fix)
    answers = [chosen[common]["content"], rejected[common]["content"]]
    if any(a["role"] == b["role"] for a, b in pairwise(prompt)):
        prompt = merge_turns(prompt)
    if prompt[-1]["role"] == "assistant":  # the answer goes on: its beginning belongs to both
        begun = prompt.pop()["content"]
        answers = [f"{begun}\n\n{answer}" for answer in answers]
    return prompt, answers[0], answers[1]
