"""Judges: which of two answers is better, by a model's own probabilities of the verdict's tokens.

``templates`` are the questions, files that a user can edit; ``verdict_tokens`` finds the verdict's
words in a tokenizer; ``local`` asks a loaded model, ``endpoint`` a server, ``values`` anything that
gives an answer a number; ``judge`` puts both orders together into a choice; ``open`` opens whom a
text names, ``ask`` has pairs judged, and ``plans`` keeps what is judged in the home.
"""

from minialign.judge.judge import Judge, JudgeOptions, decide

__all__ = ["Judge", "JudgeOptions", "decide"]
