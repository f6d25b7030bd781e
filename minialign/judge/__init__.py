"""Judges: which of two answers is better, by a model's own probabilities of the verdict's tokens.

``templates`` are the questions, files that a user can edit; ``verdict_tokens`` finds the verdict's
words in a tokenizer; ``local`` asks a loaded model, ``endpoint`` a server, ``values`` anything that
gives an answer a number; ``judge`` puts both orders together into a choice.
"""

from minialign.judge.judge import Judge, JudgeOptions, Question, Reading, decide
from minialign.judge.templates import Template, known_templates, read_template

__all__ = [
    "Judge",
    "JudgeOptions",
    "Question",
    "Reading",
    "Template",
    "decide",
    "known_templates",
    "read_template",
]
