"""How answers are drawn: the settings alone, so that a help text needs no engine."""

import math
from dataclasses import dataclass

from minialign.errors import UserError


@dataclass(frozen=True)
class Sampling:
    """How answers are drawn. The filters look at the model's own probabilities and the temperature
    comes last, as in mlx-lm and llama.cpp; a token must pass every filter."""

    temperature: float = 0.7  # 0 takes the most likely token
    top_p: float = 1.0  # the fewest tokens that hold this much probability
    top_k: int = 0  # the k most likely tokens; 0: all
    min_p: float = 0.0  # tokens at least this likely, relative to the most likely one
    repetition_penalty: float = 1.0  # divides the logits of tokens already generated (CTRL)
    max_tokens: int = 256
    stop: tuple[str, ...] = ()  # texts that end an answer; the answer is cut before them

    def __post_init__(self) -> None:
        penalty = self.repetition_penalty
        rules = [
            (0 <= self.temperature < math.inf, "temperature", self.temperature, "0 or more"),
            (0 < self.top_p <= 1, "top-p", self.top_p, "above 0, at most 1"),
            (self.top_k >= 0, "top-k", self.top_k, "0 (all tokens) or more"),
            (0 <= self.min_p <= 1, "min-p", self.min_p, "from 0 to 1"),
            (0 < penalty < math.inf, "repetition penalty", penalty, "above 0; 1 changes nothing"),
            (self.max_tokens >= 1, "max tokens", self.max_tokens, "1 or more"),
            ("" not in self.stop, "stop", "''", "a text that is not empty"),
        ]
        for holds, name, value, wanted in rules:
            if not holds:
                raise UserError(f"{name} is {value}", f"it must be {wanted}")

    @property
    def greedy(self) -> bool:
        """Whether the same prompt always gives the same answer."""
        return self.temperature == 0

    @property
    def filtered(self) -> bool:
        """Whether some tokens may not be drawn at all."""
        return self.min_p > 0 or self.top_k > 0 or self.top_p < 1
