"""A loaded model as a judge: the probabilities that it gives to the verdict's words."""

import threading
from collections.abc import Iterator, Sequence

from minialign.engine import Engine, Request, Sampling
from minialign.engine.next_tokens import NextTokens
from minialign.judge.judge import Question, Reading
from minialign.judge.templates import Template
from minialign.judge.verdict_tokens import find_verdict_tokens

REASON = 192  # most tokens of a reason
AT_ONCE = 16  # answers written at once


class LocalReader:
    """Asks the model of an engine.

    Raises:
        UserError: when the template's words cannot be told apart in the model's tokens.
    """

    def __init__(self, engine: Engine, template: Template):
        self.engine = engine
        self.template = template
        self.next_tokens = NextTokens(engine)
        words, answer, where = template.words, template.answer, str(template.file)
        self.tokens = find_verdict_tokens(engine.tokenizer, words, answer, where)

    def read(
        self, questions: Sequence[Question], explain: bool, stop: threading.Event
    ) -> Iterator[tuple[int, Reading]]:
        """Read; questions that do not fit are not asked. Reasons are written a few at a
        time, each followed by its verdict, so that a kill costs no more than those."""
        step = AT_ONCE if explain else max(1, len(questions))
        for start in range(0, len(questions), step):
            asked = {i: questions[i] for i in range(start, min(start + step, len(questions)))}
            reasons: dict[int, str] = {}
            if explain:
                reasons = dict(self._write(asked, REASON, stop, (self.template.answer,)))
            if not stop.is_set():
                yield from self._read(asked, reasons, stop)

    def _read(
        self, asked: dict[int, Question], reasons: dict[int, str], stop: threading.Event
    ) -> Iterator[tuple[int, Reading]]:
        groups: dict[int, list[int]] = {}
        ids: dict[int, list[int]] = {}
        for index, question in asked.items():
            ids[index] = self._ids(question, reasons.get(index))
            if self.engine.context and len(ids[index]) > self.engine.context:
                yield index, Reading(None, 0.0, self._too_long(len(ids[index])))
            else:
                groups.setdefault(question.group, []).append(index)
        members = list(groups.values())
        prompts = [[ids[i] for i in group] for group in members]
        words, tokens = len(self.template.words), self.tokens
        for number, logps in self.next_tokens.logps(prompts, tokens.wanted(), tokens.last):
            for index, one in zip(members[number], logps, strict=True):
                yield index, tokens.read(one, words, reasons.get(index, ""))
            if stop.is_set():
                return

    def write(
        self, questions: Sequence[Question], max_tokens: int, stop: threading.Event
    ) -> Iterator[tuple[int, str]]:
        """Write answers in plain words, each the model's most likely one."""
        yield from self._write(dict(enumerate(questions)), max_tokens, stop)

    def _write(
        self,
        asked: dict[int, Question],
        max_tokens: int,
        stop: threading.Event,
        ends: tuple[str, ...] = (),
    ) -> Iterator[tuple[int, str]]:
        waiting: list[Request] = []
        for index, question in asked.items():
            ids = tuple(self.engine.tokenizer.render(question.messages, True))
            if self.engine.context and len(ids) >= self.engine.context:
                yield index, ""  # it is found too long again where it is read
            else:
                waiting.append(Request(ids, index))
        sampling = Sampling(
            temperature=0.0, max_tokens=max_tokens, stop=tuple(end for end in ends if end)
        )
        for done in self.engine.complete(waiting, sampling, AT_ONCE, cancelled=stop.is_set):
            if done.finish_reason != "cancelled":
                yield done.prompt_index, done.text.strip()

    def _ids(self, question: Question, reason: str | None) -> list[int]:
        tokenizer, answer = self.engine.tokenizer, self.template.answer
        begun = f"{reason}\n\n{answer}" if reason else answer
        ids = tokenizer.render(question.messages, True)
        return [*ids, *(tokenizer.encode(begun) if begun else []), *self.tokens.tail()]

    def _too_long(self, length: int) -> str:
        return f"not asked: {length:,} tokens, the model reads at most {self.engine.context:,}"
