"""One answer while it is written: its tokens, its text, and why it ended."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np

from minialign.engine.next_token import choose, sample_seed, uniforms
from minialign.sampling import Sampling


class Detokenizer(Protocol):
    """Turns ids into the text that is certain, never half a character; or all of them at once."""

    def add(self, token: int) -> str: ...

    def finish(self) -> str: ...

    def whole(self, ids: Sequence[int]) -> str: ...


@dataclass(frozen=True)
class Piece:
    """One token of a streamed answer and the text that is now certain, possibly ""."""

    text: str
    id: int
    finish_reason: str | None = None  # on the last piece


@dataclass(frozen=True)
class Request:
    """One answer to be drawn; ``seed`` alone decides which."""

    prompt: tuple[int, ...]
    prompt_index: int = 0
    sample_index: int = 0
    seed: int = 0


@dataclass(frozen=True)
class Completion:
    """A finished answer. ``ids`` has every generated token: the end token where there is one, and
    the tokens of a stop string; ``text`` ends before either."""

    prompt_index: int
    sample_index: int
    ids: list[int]
    text: str
    finish_reason: str  # "stop" (end token) | "length" | "stop_string" | "cancelled"
    seed: int  # ``stream(prompt, sampling, seed)`` gives this answer again


def requests(prompts: Sequence[Sequence[int]], n: int = 1, seed: int = 0) -> list[Request]:
    """n requests a prompt, each with its own seed."""
    return [
        Request(tuple(ids), p, i, sample_seed(seed, p, i))
        for p, ids in enumerate(prompts)
        for i in range(n)
    ]


@dataclass(eq=False)
class Answer:
    """One answer while it is written.

    Attributes:
        limit: most tokens it may have.
        ends: the ids that end it.
        by_piece: whether its text is made token by token, as stop strings need it and a stream
            shows it; else ``text`` stays empty, and ``completion`` makes the text once.
    """

    request: Request
    sampling: Sampling
    limit: int
    ends: frozenset[int]
    detokenizer: Detokenizer
    by_piece: bool
    seen: np.ndarray | None = None  # (V,) bool, with a repetition penalty
    ids: list[int] = field(default_factory=list)
    text: str = ""
    finish_reason: str | None = None
    held: str = ""  # text that may be the beginning of a stop string

    def __post_init__(self) -> None:
        greedy = self.sampling.greedy
        self.uniforms = None if greedy else uniforms(self.request.seed, self.limit)

    def accept(self, token: int) -> Piece:
        """Take the next token; returns it with the text that it adds, if made token by token."""
        self.ids.append(token)
        if self.seen is not None:
            self.seen[token] = True
        if token in self.ends:
            self.finish_reason = "stop"
        elif len(self.ids) >= self.limit:
            self.finish_reason = "length"
        text = ""
        if self.by_piece:
            new = "" if self.finish_reason == "stop" else self.detokenizer.add(token)
            if self.finish_reason:
                new += self.detokenizer.finish()
            text = self._release(new)
            self.text += text
        return Piece(text, token, self.finish_reason)

    def _release(self, new: str) -> str:
        """The text that no stop string can reach any more; ends the answer at a stop string."""
        text = self.held + new
        places = [at for stop in self.sampling.stop if (at := text.find(stop)) >= 0]
        if places:
            self.finish_reason, self.held = "stop_string", ""
            return text[: min(places)]
        begun = [stop[:size] for stop in self.sampling.stop for size in range(1, len(stop))]
        sizes = [len(part) for part in begun if text.endswith(part)]
        hold = 0 if self.finish_reason else max(sizes, default=0)
        self.held = text[len(text) - hold :]
        return text[: len(text) - hold]

    def completion(self) -> Completion:
        """The answer as it is now; "cancelled" when it has not ended."""
        if self.by_piece:  # what was held back of an answer cut off is text after all
            text = self.text if self.finish_reason else self.text + self.held
        else:
            ended = self.finish_reason == "stop"
            text = self.detokenizer.whole(self.ids[:-1] if ended else self.ids)
        return Completion(
            self.request.prompt_index,
            self.request.sample_index,
            self.ids,
            text,
            self.finish_reason or "cancelled",
            self.request.seed,
        )


def draw(answers: Sequence[Answer], logits: np.ndarray, sampling: Sampling) -> list[Piece]:
    """Draw the next token of each answer from (B, V) logits and give it to the answer."""
    seen = None
    if sampling.repetition_penalty != 1:
        for answer in answers:
            if answer.seen is None:
                answer.seen = np.zeros(logits.shape[1], bool)
        seen = np.stack([answer.seen for answer in answers])  # type: ignore[misc]
    uniform = np.array(
        [0.0 if answer.uniforms is None else answer.uniforms[len(answer.ids)] for answer in answers]
    )
    chosen = choose(logits, sampling, uniform, seen).tolist()
    return [answer.accept(token) for answer, token in zip(answers, chosen, strict=True)]
