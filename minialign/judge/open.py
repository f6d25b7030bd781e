"""From the words behind ``--judge`` to a judge: a loaded model, a server, a reward head."""

import os
from collections.abc import Callable
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any

from minialign.durable import digest
from minialign.engine import Engine
from minialign.engine.identity import weights_of, weights_of_engine
from minialign.engine.open import open_engine
from minialign.errors import UserError
from minialign.judge.endpoint import EndpointReader
from minialign.judge.http_chat import KEY_VARIABLE, ChatServer
from minialign.judge.judge import Judge, JudgeOptions, Reader
from minialign.judge.local import LocalReader
from minialign.judge.templates import read_template
from minialign.judge.values import ValueReader
from minialign.models.adapter import resolve_adapter
from minialign.models.head import FILE as HEAD
from minialign.models.names import DEFAULT, catalog
from minialign.progress import Tell
from minialign.rewards.runs import run_scorer
from minialign.rewards.spec import parse


def open_judge(
    spec: str | None = None,
    options: JudgeOptions | None = None,
    *,
    engine: Engine | None = None,
    progress: Tell | None = None,
) -> Judge:
    """Open the judge that a text names.

    Args:
        spec: a model's name, id, folder or GGUF file; a run, which is its model with its adapter;
            ``reward:RUN`` or ``dpo:RUN``; with a ``url`` the server's name of a model.
        engine: the judge itself, loaded; open it again when its weights have changed.

    Raises:
        UserError: there is no such judge or template, or they do not fit together.
    """
    options = options or JudgeOptions()
    if spec and not options.url and spec.partition(":")[0] in ("reward", "dpo"):
        return _open_values(spec, options, progress)
    criteria = _read_criteria(options.criteria)
    template = read_template(options.template or ("criteria" if criteria else None))
    if criteria and "criteria" not in template.sections["user"]:
        problem = f"template {template.name} has no place for criteria"
        raise UserError(problem, "--template criteria")
    name, adapter = spec, options.adapter
    reader: Any
    if options.url is not None:
        if not spec:
            raise UserError("which model is asked at the endpoint?", "--judge NAME, as it has it")
        limits: dict[str, Any] = {"timeout": options.timeout, "retries": options.retries}
        limits = {name: value for name, value in limits.items() if value is not None}
        server = ChatServer(options.url, spec, os.environ.get(KEY_VARIABLE) or None, **limits)
        weights, reader = [server.url, spec], EndpointReader(server, template)
    else:
        if adapter:
            name = f"{spec} with {adapter}" if spec else adapter
        if engine is not None:
            name = name or engine.model.name
            weights, reader = weights_of_engine(engine), LocalReader(engine, template)
        else:
            if spec and adapter is None and is_run(spec):
                spec, adapter = None, spec
            reader = LazyReader(lambda: LocalReader(open_engine(spec, adapter, progress), template))
            weights = weights_of(spec, adapter, progress)
    identity = digest([*weights, template.digest, options.explain, criteria])
    told = options.explain, options.debias, criteria
    return Judge(name or DEFAULT, identity, reader, template, *told)


class LazyReader:
    """A reader that is opened when it is first asked: what was said before needs no model."""

    def __init__(self, opened: Callable[[], Reader]):
        self.opened = cache(opened)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.opened(), name)


def is_run(spec: str) -> bool:
    """Whether a text names a run or an adapter, and no model of the catalog."""
    with suppress(UserError):
        return spec not in catalog() and resolve_adapter(spec) is not None
    return False


def _read_criteria(text: str | None) -> str | None:
    file = os.path.expanduser(text or "")
    if "\n" in file or not os.path.isfile(file):  # where Path raises: too long for a name
        return text
    try:
        return Path(file).read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as reason:
        raise UserError(f"{file}: {reason}", "criteria are a text file (UTF-8)") from None


def _open_values(spec: str, options: JudgeOptions, progress: Tell | None) -> Judge:
    """Open a reward head, or a DPO run's implicit reward."""
    if options.template or options.explain:
        raise UserError(f"{spec} reads no template and explains nothing", "leave them out")
    kind, run = parse(spec)
    stamp = [kind, *weights_of(None, run, progress)]
    files = [resolve_adapter(run) / name for name in (HEAD, "config.json")]
    stamp += [digest(file.read_bytes().hex()) for file in files if file.exists()]
    reader: Any = LazyReader(lambda: ValueReader(run_scorer(spec, progress)))
    return Judge(spec, digest(stamp), reader, None, debias=options.debias)
