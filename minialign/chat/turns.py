"""A conversation: its turns, and how the next answer is drawn. Nothing here knows of a terminal."""

import json
from collections.abc import Callable, Generator
from dataclasses import dataclass, field
from pathlib import Path

from minialign.chat.store import append_conversation
from minialign.durable import read_text
from minialign.engine import Engine, Piece, Sampling
from minialign.engine.next_token import sample_seed
from minialign.engine.prefill import OnPrefill
from minialign.errors import UserError
from minialign.learn.batch import encode_prompt
from minialign.records import Message, Prompted
from minialign.rewards.scorer import Scorer


@dataclass
class Conversation:
    """Messages that alternate between user and assistant, a system message first if there is one.

    The seed of an answer depends on its turn and on how often that turn was answered, so that
    regenerating gives another answer and the whole conversation can be had again.
    """

    system: str = ""
    seed: int = 0
    turns: list[Message] = field(default_factory=list)
    attempts: int = 0  # answers to the last question before the one that is kept

    @property
    def messages(self) -> list[Message]:
        """What the model sees, and what is saved."""
        start = [{"role": "system", "content": self.system}] if self.system else []
        return [*start, *self.turns]

    def ask(self, text: str) -> None:
        """Add a question.

        Raises:
            UserError: when it is empty.
        """
        if not text.strip():
            raise UserError("the question is empty", "write something, or /help")
        self.turns.append({"role": "user", "content": text})
        self.attempts = 0

    def undo(self) -> str:
        """Take the last question and its answer away; returns the question.

        Raises:
            UserError: when there is none.
        """
        if not self.turns:
            raise UserError("there is nothing to undo", "ask something first")
        while self.turns[-1]["role"] == "assistant":
            self.turns.pop()
        self.attempts = 0
        return self.turns.pop()["content"]

    def reopen(self) -> None:
        """Take the last answer away, for another one.

        Raises:
            UserError: when there is no answer.
        """
        if not self.turns or self.turns[-1]["role"] != "assistant":
            raise UserError("there is no answer to draw again", "ask something first")
        self.turns.pop()
        self.attempts += 1

    def reset(self) -> None:
        """Forget all turns; the system message stays."""
        self.turns.clear()
        self.attempts = 0

    def answer_seed(self) -> int:
        """The seed of the next answer."""
        return sample_seed(self.seed, len(self.turns) // 2, self.attempts)

    def save(self, path: Path) -> None:
        """Append the conversation to a JSONL file, as a demonstration that can be trained on.

        Raises:
            UserError: when there is nothing to save, or the file cannot be written.
        """
        if not self.turns or self.turns[-1]["role"] != "assistant":
            raise UserError("there is no answer to save yet", "ask something first")
        append_conversation(path, self.messages, "choose a file")

    @staticmethod
    def load(path: Path, seed: int = 0) -> "Conversation":
        """The last conversation of a JSONL file.

        Raises:
            UserError: when there is none.
        """
        lines = read_text(path, "give a file that /save wrote").split("\n")
        rows = [(number, line) for number, line in enumerate(lines, 1) if line.strip()]
        if not rows:
            raise UserError(f"{path} is empty", "give a file that /save wrote")
        number, line = rows[-1]
        try:
            messages = [
                {"role": str(turn["role"]), "content": str(turn["content"])}
                for turn in json.loads(line)["messages"]
            ]
        except (ValueError, KeyError, TypeError):
            messages = []
        system = messages.pop(0)["content"] if messages and messages[0]["role"] == "system" else ""
        roles = [turn["role"] for turn in messages]
        if not roles or roles != ["user", "assistant"] * (len(roles) // 2):
            fix = 'a line is {"messages": [{"role": "user", "content": …}, …]}'
            said = f"{path}:{number}: no conversation of user and assistant in turn"
            raise UserError(said, fix)
        return Conversation(system, seed, messages)


def reply(
    engine: Engine,
    conversation: Conversation,
    sampling: Sampling,
    on_prefill: OnPrefill | None = None,
) -> Generator[Piece, None, None]:
    """The pieces of the answer to the last question. What was drawn becomes the assistant's turn,
    also when the iterator is closed early; when nothing was drawn the question stays unanswered.

    The engine computes only what it does not hold from the turn before.

    Raises:
        UserError: when the conversation is longer than the model's context.
    """
    ids = _ids(engine, conversation)
    text, finished = "", False
    pieces = engine.stream(ids, sampling, conversation.answer_seed(), on_prefill)
    try:
        for piece in pieces:
            text += piece.text
            finished = piece.finish_reason is not None
            yield piece
    finally:
        pieces.close()
        if text or finished:
            conversation.turns.append({"role": "assistant", "content": text})


def best_reply(
    engine: Engine,
    conversation: Conversation,
    sampling: Sampling,
    scorer: Scorer,
    n: int,
    on_prefill: OnPrefill | None = None,
    cancelled: Callable[[], bool] = lambda: False,
) -> Generator[Piece, None, None]:
    """The best of n answers to the last question, as one piece; before it, an empty piece for each
    answer that is complete. When ``cancelled`` turns true before all are, none is taken.

    Raises:
        UserError: as ``reply``, and what the scorer raises.
    """
    ids = _ids(engine, conversation)
    drawn = []
    for one in engine.generate(
        [ids], sampling, n, conversation.answer_seed(), 16, on_prefill, cancelled
    ):
        if one.finish_reason != "cancelled":
            drawn.append(one)
            yield Piece("", -1)
    if len(drawn) < n:
        return
    drawn.sort(key=lambda one: one.sample_index)
    asked = Prompted(conversation.messages, "the conversation")
    scores = scorer.score(asked, [one.text for one in drawn])
    best = drawn[scores.index(max(scores))]
    conversation.turns.append({"role": "assistant", "content": best.text})
    yield Piece(best.text, best.ids[-1], best.finish_reason)


def _ids(engine: Engine, conversation: Conversation) -> list[int]:
    ids = encode_prompt(conversation.messages, engine.tokenizer)
    if engine.context and len(ids) >= engine.context:
        most = f"{engine.model.name} reads at most {engine.context:,}"
        said = f"the conversation is {len(ids):,} tokens long; {most}"
        raise UserError(said, "/undo takes the last turn back, /reset starts anew")
    return ids
