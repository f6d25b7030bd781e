"""From the words behind ``--judge`` to a judge: a loaded model, a server, a reward head."""

import os
import threading
from collections.abc import Callable, Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from minialign.durable import digest
from minialign.engine import Engine
from minialign.engine.identity import weights_of, weights_of_engine
from minialign.engine.open import Fetching, open_engine
from minialign.errors import UserError
from minialign.judge.endpoint import EndpointReader
from minialign.judge.http_chat import KEY_VARIABLE, RETRIES, TIMEOUT, ChatServer
from minialign.judge.judge import Judge, Question, Reader, Reading
from minialign.judge.local import LocalReader
from minialign.judge.templates import read_template
from minialign.judge.values import ValueReader
from minialign.models.adapter import resolve_adapter
from minialign.models.head import FILE as HEAD
from minialign.models.names import DEFAULT, catalog
from minialign.records import Prompted
from minialign.rewards.runs import run_scorer
from minialign.rewards.spec import parse


def open_judge(
    spec: str | None = None,
    *,
    template: str | None = None,
    adapter: str | None = None,
    url: str | None = None,
    explain: bool = False,
    debias: bool = False,
    criteria: str | None = None,
    timeout: float | None = None,
    retries: int | None = None,
    engine: Engine | None = None,
    progress: Fetching | None = None,
) -> Judge:
    """The judge that a text names.

    Args:
        spec: a model's name, id, folder or GGUF file; a run, which is its model with its adapter;
            ``reward:RUN`` or ``dpo:RUN``; with ``url`` the server's name of a model.
        template: a name or a file; "pairwise", or "criteria" when criteria are given.
        url: of an OpenAI-compatible server, whose key is in ``MINIALIGN_JUDGE_KEY``.
        explain: a reason is written before the verdict.
        debias: the two orders' log-odds are averaged, instead of both having to agree.
        criteria: a text, or a file that holds it.
        timeout, retries: seconds for one request to an endpoint, and how often it is tried again.
        engine: the judge itself, loaded; open it again when its weights have changed.

    Raises:
        UserError: there is no such judge or template, or they do not fit together.
    """
    if spec and not url and spec.partition(":")[0] in ("reward", "dpo"):
        return _valuing(spec, template, explain, debias, progress)
    criteria = _criteria(criteria)
    read = read_template(template or ("criteria" if criteria else None))
    if criteria and "criteria" not in read.sections["user"]:
        raise UserError(f"template {read.name} has no place for criteria", "--template criteria")
    how = [read.digest, explain, criteria]
    options: dict[str, Any] = {
        "template": read, "explain": explain, "debias": debias, "criteria": criteria,
    }  # fmt: skip
    if url is not None:
        if not spec:
            raise UserError("which model is asked at the endpoint?", "--judge NAME, as it has it")
        server = ChatServer(
            url, spec, os.environ.get(KEY_VARIABLE) or None,
            timeout=TIMEOUT if timeout is None else timeout,
            retries=RETRIES if retries is None else retries,
        )  # fmt: skip
        who = digest([server.url, spec, *how])
        return Judge(spec, who, EndpointReader(server, read), **options)
    name = f"{spec} with {adapter}" if spec and adapter else spec or adapter
    if engine is not None:
        who = digest([*weights_of_engine(engine), *how])
        return Judge(name or engine.model.name, who, LocalReader(engine, read), **options)
    if spec and adapter is None and _is_run(spec):
        spec, adapter = None, spec
    who = digest([*weights_of(spec, adapter, progress), *how])
    reader = WhenAsked(lambda: LocalReader(open_engine(spec, adapter, progress), read))
    return Judge(name or DEFAULT, who, reader, **options)


class WhenAsked:
    """A reader that is opened when it is first asked: what was said before needs no model."""

    def __init__(self, opened: Callable[[], Reader]):
        self.opened = cache(opened)

    def read(
        self, questions: Sequence[Question], explain: bool, stop: threading.Event
    ) -> Iterator[tuple[int, Reading]]:
        """As the reader that is opened."""
        return self.opened().read(questions, explain, stop)

    def write(
        self, questions: Sequence[Question], max_tokens: int, stop: threading.Event
    ) -> Iterator[tuple[int, str]]:
        """As the reader that is opened."""
        return self.opened().write(questions, max_tokens, stop)


def _is_run(spec: str) -> bool:
    if spec in catalog():
        return False
    try:
        resolve_adapter(spec)
    except UserError:
        return False
    return True


def _criteria(text: str | None) -> str | None:
    if text is None or "\n" in text or len(text) > 1000:
        return text
    file = Path(os.path.expanduser(text))
    if not os.path.isfile(file):  # where Path raises, when a text is too long for a name
        return text
    try:
        return file.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as reason:
        raise UserError(f"{file}: {reason}", "criteria are a text file (UTF-8)") from None


def _valuing(
    spec: str, template: str | None, explain: bool, debias: bool, progress: Fetching | None
) -> Judge:
    """A reward head, or a DPO run's implicit reward."""
    if template or explain:
        raise UserError(f"{spec} reads no template and explains nothing", "leave them out")
    kind, run = parse(spec)
    folder = resolve_adapter(run)
    stamp = [kind, *weights_of(None, run, progress)]
    stamp += [digest(file.read_bytes().hex()) for file in (folder / HEAD, folder / "config.json")
              if file.exists()]  # fmt: skip

    def opened() -> ValueReader:
        scorer = run_scorer(spec, progress)
        return ValueReader(lambda prompt, texts: scorer.score(Prompted(prompt), texts))

    return Judge(spec, digest(stamp), WhenAsked(opened), None, debias=debias)
