"""A model behind an OpenAI-compatible server as a judge.

The verdict is read from the log-probs of the reply's tokens where the server gives them; else from
the reply, which must be the verdict in the form that the template asks for. Prose is never guessed
at: anything else is unparsed.
"""

import math
import queue
import re
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from minialign.judge.http_chat import ChatServer, Refused, Reply, Stopped
from minialign.judge.judge import Question, Reading
from minialign.judge.templates import Template

WORKERS = 4  # requests under way at once
SHORT, LONG = 16, 512  # most tokens of a reply without and with a reason
CREDIBLE = 0.05  # together the words' tokens must have at least this much


class EndpointReader:
    """Asks a server. Requests run on daemon threads, so that leaving never waits for one."""

    def __init__(self, server: ChatServer, template: Template):
        self.server = server
        self.template = template
        self.answered = False  # whether the server ever did

    def read(
        self, questions: Sequence[Question], explain: bool, stop: threading.Event
    ) -> Iterator[tuple[int, Reading]]:
        """Read, in the order in which replies come.

        Raises:
            UserError: the server failed for good; readings that came before were given out.
        """
        for index, reply in self._replies(questions, LONG if explain else SHORT, stop):
            if isinstance(reply, Refused):
                yield index, Reading(None, 0.0, reply.problem)
            else:
                yield index, read_reply(reply, self.template, explain)

    def write(
        self, questions: Sequence[Question], max_tokens: int, stop: threading.Event
    ) -> Iterator[tuple[int, str]]:
        """Write answers in plain words; "" where the server refused."""
        for index, reply in self._replies(questions, max_tokens, stop):
            yield index, "" if isinstance(reply, Refused) else reply.text.strip()

    def _replies(
        self, questions: Sequence[Question], max_tokens: int, stop: threading.Event
    ) -> Iterator[tuple[int, Reply | Refused]]:
        """Get a reply to each question. A refusal counts for its question only, once the server has
        answered another one; before that it means that nothing works."""

        def ask(question: Question) -> Reply | Refused:
            try:
                reply = self.server.chat(question.messages, max_tokens, halt)
            except Refused as refused:
                if not self.answered:
                    raise
                return refused
            self.answered = True
            return reply

        halt = _Either(stop)
        rest = list(enumerate(questions))
        try:
            if rest and not self.answered:
                index, first = rest.pop(0)
                yield index, ask(first)
            yield from ask_at_once(ask, rest)
        except Stopped:
            return
        finally:
            halt.set()


class _Either(threading.Event):
    """Set by itself or by another event."""

    def __init__(self, other: threading.Event):
        super().__init__()
        self.other = other

    def is_set(self) -> bool:
        return super().is_set() or self.other.is_set()

    def wait(self, timeout: float | None = None) -> bool:
        left = math.inf if timeout is None else timeout
        while left > 0 and not self.is_set():
            super().wait(min(left, 0.1))
            left -= 0.1
        return self.is_set()


def ask_at_once(
    ask: Callable[[Any], Any], asked: list[tuple[int, Any]]
) -> Iterator[tuple[int, Any]]:
    """Ask for each, a few at a time; the answers come as they are given. When one fails, those that
    were under way are waited for first: what is paid for is kept."""
    waiting = iter(asked)  # of a list: each thread takes the next one, and no two the same
    done: queue.SimpleQueue[tuple[int, Any] | None] = queue.SimpleQueue()  # None: a thread ended
    failed = threading.Event()
    errors: list[Exception] = []

    def work() -> None:
        while not failed.is_set() and (one := next(waiting, None)) is not None:
            try:
                done.put((one[0], ask(one[1])))
            except Exception as error:
                failed.set()
                errors.append(error)
        done.put(None)

    workers = min(WORKERS, len(asked))
    for _ in range(workers):
        threading.Thread(target=work, daemon=True).start()
    try:
        while workers:
            if (answer := done.get()) is None:
                workers -= 1
            else:
                yield answer
    finally:
        failed.set()
    if errors:
        raise errors[0]


def read_reply(reply: Reply, template: Template, explain: bool) -> Reading:
    """Read the shares of the words in a reply: from its tokens' log-probs, else all on the word
    that the reply gives."""
    word = parse_word(reply.text, template)
    words = [one.casefold() for one in template.words]
    reason = reply.text if explain else ""
    if reply.tokens and not (word is None and explain):
        spoken = [(_bare(token), top) for token, top in reply.tokens]
        if word is None:
            tops = [top for said, top in spoken if said][:1]
        else:
            tops = [top for said, top in spoken if said == words[word]]
        shares = [0.0] * len(words)
        for token, logprob in (tops[-1] if tops else {}).items():
            if _bare(token) in words:
                shares[words.index(_bare(token))] += math.exp(min(logprob, 0.0))
        mass = math.fsum(shares)
        if mass >= CREDIBLE:
            return Reading([share / mass for share in shares], mass, reason)
    if word is None:
        return Reading(None, 0.0, reply.text)
    return Reading([float(index == word) for index in range(len(words))], 1.0, reason)


def _bare(token: str) -> str:
    return token.strip(" \t\n*_\"'`.:()[]").casefold()


def parse_word(text: str, template: Template) -> int | None:
    """Find which word a reply gives as its verdict: as all of it, or behind the beginning of the
    template's answer ("Verdict: A"), the last one of several; None when it gives none."""
    words = [one.casefold() for one in template.words]
    if _bare(text) in words:
        return words.index(_bare(text))
    marker = template.answer.rstrip(": ").casefold()
    if not marker:
        return None
    choices = "|".join(map(re.escape, sorted(words, key=len, reverse=True)))
    pattern = rf"{re.escape(marker)}[\s:*_\"'(\[]*({choices})(?![\w-]|\.\d)"
    said = re.findall(pattern, text.casefold())
    return words.index(said[-1]) if said else None
