"""Texts written by a model on request, each of them kept: what was written once is never again.

A command that makes data is a plain function of its inputs and of the texts that a model wrote.
The texts are in a journal beside its output, so going on after a kill is running it again: what
the journal has comes from there, and the output comes out the same.
"""

import hashlib
import json
import os
import threading
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from minialign.durable import Journal
from minialign.engine import Engine, Request, Sampling
from minialign.engine.open import origin_of
from minialign.errors import UserError
from minialign.judge.endpoint import ask_at_once
from minialign.judge.http_chat import KEY_VARIABLE, ChatServer, Refused
from minialign.models.adapter import adapter_hash, resolve_adapter
from minialign.progress import Progress
from minialign.records import Prompt


@dataclass(frozen=True)
class TextRequest:
    """One text to be written: an answer to ``prompt`` that begins with ``opening``."""

    prompt: Prompt
    seed: int
    opening: str = ""

    @property
    def key(self) -> str:
        """Stands for it in the journal."""
        value = json.dumps([self.prompt, self.opening, self.seed], ensure_ascii=False)
        return hashlib.blake2b(value.encode(), digest_size=12).hexdigest()


@dataclass(frozen=True)
class Written:
    """A text, without its opening."""

    text: str
    finish_reason: str  # "stop" | "stop_string" | "length" | "too long": the prompt
    tokens: int = 0


# (what is asked, how many at once) -> (place, text), in the order in which they are ready
Write = Callable[[Sequence[TextRequest], int], Iterator[tuple[int, Written]]]


@dataclass(frozen=True)
class TextModel:
    """What writes texts: ``identity`` is what they depend on, ``origin`` what their rows say."""

    write: Write
    origin: dict[str, Any]
    identity: dict[str, Any]


def local_model(engine: Engine, sampling: Sampling, adapter: str | None = None) -> TextModel:
    """A loaded model that writes."""

    def write(requests: Sequence[TextRequest], batch_size: int) -> Iterator[tuple[int, Written]]:
        waiting = []
        for place, request in enumerate(requests):
            ids = engine.tokenizer.render(request.prompt, True)
            ids = ids + engine.tokenizer.encode(request.opening)
            if engine.context and len(ids) >= engine.context:
                yield place, Written("", "too long")
            else:
                waiting.append(Request(tuple(ids), place, 0, request.seed))
        for one in engine.complete(waiting, sampling, batch_size):
            yield one.prompt_index, Written(one.text, one.finish_reason, len(one.ids))

    origin = origin_of(engine, adapter)
    identity = {**origin, "fingerprint": engine.model.fingerprint, **_describe(sampling)}
    if adapter:
        identity["adapter_hash"] = adapter_hash(resolve_adapter(adapter))
    return TextModel(write, origin, identity)


def endpoint_model(url: str, model: str, sampling: Sampling) -> TextModel:
    """A model behind an OpenAI-compatible server that writes. An opening cannot be put into its
    mouth, so it is shown, to be gone on with. The key is in ``MINIALIGN_JUDGE_KEY``.

    Raises:
        UserError: the address is none, or a setting is not of that protocol.
    """
    for name in ("top_k", "min_p", "repetition_penalty"):
        if getattr(sampling, name) != getattr(Sampling(), name):
            said = f"--{name.replace('_', '-')}: the endpoint's protocol has no such setting"
            raise UserError(said, "--temperature, --top-p, --stop and --max-tokens are")
    server = ChatServer(url, model, os.environ.get(KEY_VARIABLE) or None, logprobs=False)
    options: dict[str, Any] = {"temperature": sampling.temperature, "top_p": sampling.top_p}
    if sampling.stop:
        options["stop"] = list(sampling.stop)

    def write(requests: Sequence[TextRequest], batch_size: int) -> Iterator[tuple[int, Written]]:
        halt = threading.Event()

        def answer(request: TextRequest) -> Written:
            last = request.prompt[-1]
            if request.opening:
                content = f"{last['content']}\n\nGo on with this list:\n\n{request.opening}"
                last = {**last, "content": content}
            drawn = {**options, "seed": request.seed % 2**31}
            messages = [*request.prompt[:-1], last]
            try:
                reply = server.chat(messages, sampling.max_tokens, halt, drawn)
            except Refused as refused:
                if "context" not in refused.problem:
                    raise
                return Written("", "too long")
            return Written(reply.text, reply.finish_reason, reply.count)

        try:
            yield from ask_at_once(answer, list(enumerate(requests)))
        finally:
            halt.set()

    origin = {"model": model, "url": server.url}
    return TextModel(write, origin, {**origin, **_describe(sampling)})


def _describe(sampling: Sampling) -> dict[str, Any]:
    return {**asdict(sampling), "stop": list(sampling.stop)}


class TextJournal:
    """The file of all texts written so far: a line of settings, then a line a text.

    Raises:
        UserError: when it is another command's, or was begun with other settings.
    """

    def __init__(self, path: Path, settings: dict[str, Any]):
        self._journal = Journal.open(path)
        self.texts: dict[str, Written] = {}
        if not self._journal.rows:
            self._journal.append({"settings": settings})
        try:
            before = self._journal.rows[0]["settings"]
            for row in self._journal.rows[1:]:
                key = row.pop("key")
                self.texts[key] = Written(**row)
        except (KeyError, TypeError):
            raise UserError(f"{path}: synth did not write it", "choose another -o FILE") from None
        for key in {**before, **settings}:
            if before.get(key) != settings.get(key):
                values = f"{before.get(key)!r}, now {settings.get(key)!r}"
                fix = "go on with what it was begun with, or choose another -o FILE"
                raise UserError(f"{path}: begun with {key} = {values}", fix)

    def add(self, key: str, written: Written) -> None:
        """Keep a text, on disk when this returns."""
        self.texts[key] = written
        self._journal.append({"key": key, **asdict(written)})


@dataclass
class RememberingModel:
    """A model that writes nothing twice: what its journal has comes from there."""

    model: TextModel
    journal: TextJournal
    seed: int = 0
    batch_size: int = 16
    fresh: int = field(default=0, init=False)  # texts written by this process
    tokens: int = field(default=0, init=False)  # of these

    def write(
        self, requests: Sequence[TextRequest], at: Progress, unit: int = 1
    ) -> Generator[Progress, None, list[Written]]:
        """The texts in the order of ``requests``; yields how far it is with each new one, counted
        from ``at`` on (``unit`` 0: it stands still)."""
        texts = [self.journal.texts.get(request.key) for request in requests]
        missing = [place for place, text in enumerate(texts) if text is None]
        at = replace(at, done=at.done + unit * (len(requests) - len(missing)))
        yield at
        asked = [requests[place] for place in missing]
        for index, text in self.model.write(asked, self.batch_size):
            self.journal.add(asked[index].key, text)
            texts[missing[index]] = text
            self.fresh += 1
            self.tokens += text.tokens
            at = replace(at, done=at.done + unit)
            yield at
        return [text for text in texts if text is not None]
