"""From the words behind ``--judge`` to a judge: a loaded model, a server, a reward head."""

import hashlib
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np

from minialign.control import Controlled
from minialign.engine import Engine
from minialign.errors import UserError
from minialign.judge.endpoint import EndpointReader
from minialign.judge.http_chat import KEY_VARIABLE, RETRIES, TIMEOUT, ChatServer
from minialign.judge.judge import Judge
from minialign.judge.local import LocalReader
from minialign.judge.templates import read_template
from minialign.judge.values import ValueReader
from minialign.models.adapter import adapter_hash, adapter_weights, resolve_adapter
from minialign.models.fetch import ensure
from minialign.models.head import FILE as HEAD
from minialign.models.load import fingerprint
from minialign.models.names import DEFAULT, catalog
from minialign.records import Prompt, Prompted
from minialign.tasks.generate import Fetching, base_of, open_engine
from minialign.tasks.label import digest


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
            raise UserError("which model is asked at the endpoint?", "--judge-model NAME")
        server = ChatServer(
            url, spec, os.environ.get(KEY_VARIABLE) or None,
            timeout=TIMEOUT if timeout is None else timeout,
            retries=RETRIES if retries is None else retries,
        )  # fmt: skip
        who = digest([server.url, spec, *how])
        return Judge(spec, who, EndpointReader(server, read), **options)
    name = f"{spec} with {adapter}" if spec and adapter else spec or adapter
    if engine is None:
        if spec and adapter is None and _is_run(spec):
            spec, adapter = None, spec
        engine = open_engine(spec, adapter, progress)
    who = digest([*_weights(engine), *how])
    return Judge(str(name or engine.model.name), who, LocalReader(engine, read), **options)


def _weights(engine: Engine) -> list[str]:
    """What tells an engine's answers from another's: its weights as they are now, its template."""
    adapter = hashlib.sha256()
    for name, value in sorted(adapter_weights(engine.model.module).items()):
        adapter.update(name.encode() + np.array(value.astype(mx.float32)).tobytes())
    tokenizer = engine.tokenizer
    words = tokenizer.control if isinstance(tokenizer, Controlled) else None
    return [
        engine.model.fingerprint, adapter.hexdigest(), repr(words), tokenizer.template_hash,
    ]  # fmt: skip


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
    file = Path(text).expanduser()
    if not file.is_file():
        return text
    try:
        return file.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as reason:
        raise UserError(f"{file}: {reason}", "criteria are a text file (UTF-8)") from None


def _valuing(
    spec: str, template: str | None, explain: bool, debias: bool, progress: Fetching | None
) -> Judge:
    """A reward head, or a DPO run's implicit reward."""
    from minialign.tasks.scorers import open_scorer

    if template or explain:
        raise UserError(f"{spec} reads no template and explains nothing", "leave them out")
    run = spec.partition(":")[2]
    folder = resolve_adapter(run) if run else None
    scorer = open_scorer(spec, progress)
    stamp = [fingerprint(ensure(base_of(run) or DEFAULT)), adapter_hash(folder)]
    for name in (HEAD, "config.json"):
        if folder and (folder / name).exists():
            stamp.append(digest((folder / name).read_bytes().hex()))

    def values(prompt: Prompt, responses: Sequence[str]) -> list[float]:
        return scorer.score(Prompted(prompt), responses)

    return Judge(spec, digest([spec.partition(":")[0], *stamp]), ValueReader(values), None,
                 debias=debias)  # fmt: skip
