"""The style rule, by hand, and the shipped examples against it."""

import json
from pathlib import Path

import pytest

from minialign.demo.style import follows, reason

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"


def rows(name: str) -> list[dict]:
    return [json.loads(line) for line in (EXAMPLES / name).read_text("utf-8").splitlines()]


@pytest.mark.parametrize(
    "answer",
    [
        "Yes.",
        "Six minutes, then cold water.",
        "  Six minutes.\n",
        'Write "See you at eight!"',
        "Try yoga (it is gentle.)",
        'Ask "Why is that?" and wait. Then ask "And then?" and wait. Then go home.',
        "The score was 3.5 to 2.0 in the end.",
        "Surely a cup a day is fine.",
        "Well-aired rooms dry faster - open a window.",
        " ".join(["word"] * 44) + " end.",
        "One. Two! Three?",
    ],
)
def test_follows(answer):
    assert reason(answer) is None
    assert follows(answer)


@pytest.mark.parametrize(
    ("answer", "why"),
    [
        ("", "empty"),
        (" \n ", "empty"),
        ("Boil it.\nThen wait.", "line break"),
        ("Boil it.\r\nThen wait.", "line break"),
        ("# Eggs are easy.", "heading"),
        ("**Eggs** are easy.", "heading"),
        ("- Boil it.", "list marker"),
        ("• Boil it.", "list marker"),
        ("1. Boil it.", "list marker"),
        ("You need: 1) an egg 2) a pan.", "list marker"),
        ("Do this. * Boil it. * Peel it.", "list marker"),
        ("Sure! Boil it.", "preamble: Sure"),
        ('"Certainly, boil it."', "preamble: Certainly"),
        ("Here’s how: boil it.", "preamble: Here's"),
        ("As an AI, I cannot boil it.", "preamble: As an AI"),
        (" ".join(["word"] * 45) + " end.", "46 words, at most 45"),
        ("One. Two. Three. Four.", "4 sentences, at most 3"),
        ("Boil it for six", "no full stop at the end"),
        ("Boil it for six:", "no full stop at the end"),
    ],
)
def test_why_not(answer, why):
    assert reason(answer) == why
    assert not follows(answer)


@pytest.mark.parametrize(
    ("name", "count"), [("concise/train.jsonl", 240), ("concise/heldout.jsonl", 80)]
)
def test_every_shipped_pair_shows_the_style(name, count):
    pairs = rows(name)
    assert len(pairs) == count
    assert {tuple(pair) for pair in pairs} == {("prompt", "chosen", "rejected")}
    assert [pair["chosen"] for pair in pairs if reason(pair["chosen"])] == []
    assert [pair["rejected"] for pair in pairs if follows(pair["rejected"])] == []


def test_no_prompt_is_used_twice():
    """Not within a file, and not in two files: what is held out was never trained on."""
    prompts = [row["prompt"] for row in rows("concise/train.jsonl") + rows("concise/heldout.jsonl")]
    prompts += (EXAMPLES / "prompts.txt").read_text("utf-8").splitlines()
    for row in rows("demonstrations.jsonl"):
        prompts += [m["content"] for m in row["messages"] if m["role"] == "user"]
    folded = [" ".join(prompt.casefold().split()).rstrip(".?!") for prompt in prompts]
    assert len(set(folded)) == len(folded)


def test_demonstrations_answer_in_the_style():
    for row in rows("demonstrations.jsonl"):
        assert row["messages"][-1]["role"] == "assistant"
        for message in row["messages"]:
            if message["role"] == "assistant":
                assert reason(message["content"]) is None, message["content"]
