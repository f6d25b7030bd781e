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
        told = template.words, template.answer, str(template.file)
        self.tokens = find_verdict_tokens(engine.tokenizer, *told)

    def read(
        self, questions: Sequence[Question], explain: bool, stop: threading.Event
    ) -> Iterator[tuple[int, Reading]]:
        """Read; questions that do not fit are not asked. Reasons are written a few at a
        time, each followed by its verdict, so that a kill costs no more than those."""
        step = AT_ONCE if explain else max(1, len(questions))
        for start in range(0, len(questions), step):
            asked, ends = questions[start : start + step], (self.template.answer,)
            reasons = dict(self.write(asked, REASON, stop, ends)) if explain else {}
            if not stop.is_set():
                for index, reading in self._read(asked, reasons, stop):
                    yield start + index, reading

    def _read(
        self, asked: Sequence[Question], reasons: dict[int, str], stop: threading.Event
    ) -> Iterator[tuple[int, Reading]]:
        render, encode = self.engine.tokenizer.render, self.engine.tokenizer.encode
        groups: dict[int, dict[int, list[int]]] = {}  # of each group the questions' token ids
        for index, question in enumerate(asked):
            begun = self.template.answer
            if reason := reasons.get(index):
                begun = f"{reason}\n\n{begun}"
            ids = [*render(question.messages, True), *(encode(begun) if begun else [])]
            ids += self.tokens.tail()
            if self.engine.context and len(ids) > self.engine.context:
                most = f"the model reads at most {self.engine.context:,}"
                yield index, Reading(None, 0.0, f"not asked: {len(ids):,} tokens, {most}")
            else:
                groups.setdefault(question.group, {})[index] = ids
        members = list(groups.values())
        prompts = [list(group.values()) for group in members]
        words, tokens = len(self.template.words), self.tokens
        for number, logps in self.next_tokens.logps(prompts, tokens.wanted(), tokens.last):
            for index, one in zip(members[number], logps, strict=True):
                yield index, tokens.read(one, words, reasons.get(index, ""))
            if stop.is_set():
                return

    def write(
        self,
        questions: Sequence[Question],
        max_tokens: int,
        stop: threading.Event,
        ends: tuple[str, ...] = (),
    ) -> Iterator[tuple[int, str]]:
        """Write answers in plain words, each the model's most likely one, up to one of ``ends``."""
        waiting: list[Request] = []
        for index, question in enumerate(questions):
            ids = tuple(self.engine.tokenizer.render(question.messages, True))
            if self.engine.context and len(ids) >= self.engine.context:
                yield index, ""  # it is found too long again where it is read
            else:
                waiting.append(Request(ids, index))
        sampling = Sampling(temperature=0.0, max_tokens=max_tokens, stop=tuple(filter(None, ends)))
        for done in self.engine.complete(waiting, sampling, AT_ONCE, cancelled=stop.is_set):
            if done.finish_reason != "cancelled":
                yield done.prompt_index, done.text.strip()
