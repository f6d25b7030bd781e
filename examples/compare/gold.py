"""The gold scorer of the example comparison: four checks that anybody can repeat by hand."""

import re

WORDS = 25


def plain_sentence(prompt, responses):
    """The share of four checks that each response passes.

    It is one sentence; it has 5 to 25 words; it ends with a full stop; it mentions a word of the
    question (of four letters or more, their first four are enough: "plants" mentions "plant").
    """
    question = prompt[-1]["content"].lower()
    asked = {word[:4] for word in re.findall(r"[a-z]{4,}", question)}
    return [sum(checks(response.strip(), asked)) / 4 for response in responses]


def checks(response, asked):
    """The four checks, in order."""
    sentences = re.split(r"[.!?]+(?:\s+|$)", response)
    one = len([part for part in sentences if part.strip()]) == 1 and "\n" not in response
    mentioned = {word[:4] for word in re.findall(r"[a-z]{4,}", response.lower())}
    return [
        one,
        5 <= len(response.split()) <= WORDS,
        response.endswith("."),
        bool(asked & mentioned),
    ]
