"""Answers to prompts from anywhere: which model, which prompts, what is on disk already."""

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from minialign import formats
from minialign.engine import Completion, Engine, Request, Sampling, requests
from minialign.errors import UserError
from minialign.learn.batch import encode_prompt
from minialign.models import control
from minialign.models.adapter import CONFIG, resolve_adapter
from minialign.models.load import load
from minialign.models.names import DEFAULT
from minialign.models.sources.fetch import ensure
from minialign.models.tokens.tokenizer import Tokenizer
from minialign.records import Prompt, Prompted, as_prompt

Fetching = Callable[[str, int, int], None]  # (what, bytes done, bytes in all)


def base_of(adapter: str | Path | None) -> str | None:
    """The model that an adapter says it was trained on; None when it does not say."""
    if adapter is None:
        return None
    try:
        config = json.loads((resolve_adapter(adapter) / CONFIG).read_text(encoding="utf-8"))
        return config.get("model") if isinstance(config, dict) else None
    except (OSError, ValueError):
        return None  # load_adapter says what is wrong with it


def open_engine(
    model: str | None = None,
    adapter: str | Path | None = None,
    progress: Fetching | None = None,
) -> Engine:
    """An engine for a model, by default the adapter's base or the embedded one. An adapter's
    control text, if it has one, goes into every prompt that its tokenizer renders.

    Raises:
        UserError: when there is no such model or adapter, or they do not fit together.
    """
    name = model or base_of(adapter) or DEFAULT
    ensure(name, progress)
    opened = load(name, adapter)
    if adapter is not None and (words := control.read(resolve_adapter(adapter))):
        opened.tokenizer = control.Controlled(opened.tokenizer, words)  # type: ignore[assignment]
    return Engine(opened)


def origin_of(engine: Engine, adapter: str | Path | None) -> dict[str, str]:
    """What the rows of an engine's answers say of it."""
    return {"model": engine.model.name, **({"adapter": str(adapter)} if adapter else {})}


@dataclass(frozen=True)
class Question:
    """A prompt to answer: messages, or plain text to be continued (``raw``)."""

    prompt: Prompt | str
    source: str = ""  # "file:line"
    extra: dict[str, Any] = field(default_factory=dict)  # the row's other keys

    def __post_init__(self) -> None:
        text = self.prompt if isinstance(self.prompt, str) else self.prompt[-1]["content"].strip()
        if not text:
            where = f"{self.source}: " if self.source else ""
            raise UserError(f"{where}the prompt is empty", "give it some text")

    def ids(self, tokenizer: Tokenizer) -> list[int]:
        """The token ids that the model continues."""
        if isinstance(self.prompt, str):
            start = [tokenizer.bos_id] if tokenizer.adds_bos and tokenizer.bos_id else []
            return start + tokenizer.encode(self.prompt)
        return encode_prompt(self.prompt, tokenizer)


def questions(texts: Sequence[str], system: str | None = None, raw: bool = False) -> list[Question]:
    """Questions from texts; ``raw`` ones get no chat template.

    Raises:
        UserError: for an empty text, or a system prompt without a template to put it in.
    """
    if raw and system:
        raise UserError("--raw has no place for a system prompt", "leave --system or --raw out")
    return [Question(text if raw else _with_system(as_prompt(text), system)) for text in texts]


def read_questions(
    path: str | Path, system: str | None = None, raw: bool = False
) -> list[Question]:
    """The prompts of a file: each line of a .txt, else the rows of any format that has prompts.

    Raises:
        UserError: for a missing or empty file, and for bad rows with their line.
    """
    path = Path(path).expanduser()
    if path.suffix == ".txt":
        try:
            lines = path.read_text(encoding="utf-8").split("\n")
        except (OSError, UnicodeDecodeError) as reason:
            raise UserError(f"{path}: {_reason(reason)}", "give a text or JSONL file") from None
        found = [
            replace(one, source=f"{path}:{number}")
            for number, line in enumerate(lines, 1)
            if line.strip()
            for one in questions([line], system, raw)
        ]
    else:
        read = formats.read(path)
        if read.problems:
            first = read.problems[0]
            raise UserError(f"{first.source}: {first.found}; expected {first.expected}", first.fix)
        records, unused = formats.as_kind(read.records, Prompted)
        if unused:
            raise UserError(f"{path}: {unused} rows hold no prompt", "each needs a prompt")
        found = [_question(record, system, raw) for record in records]
    if not found:
        raise UserError(f"{path} has no prompts", "write one a line")
    return found


def _question(record: Prompted, system: str | None, raw: bool) -> Question:
    if not raw:
        return Question(_with_system(record.prompt, system), record.source, record.extra)
    if len(record.prompt) != 1:
        raise UserError(
            f"{record.source}: --raw needs plain text, but this is {len(record.prompt)} messages",
            "leave --raw out",
        )
    return Question(record.prompt[0]["content"], record.source, record.extra)


def _with_system(prompt: Prompt, system: str | None) -> Prompt:
    if not system or prompt[0]["role"] == "system":
        return prompt
    return [{"role": "system", "content": system}, *prompt]


def _reason(reason: Exception) -> str:
    return getattr(reason, "strerror", None) or str(reason)


def planned(engine: Engine, asked: Sequence[Question], n: int = 1, seed: int = 0) -> list[Request]:
    """A request for each sample of each question.

    Raises:
        UserError: for no samples, or a question that the model cannot read, with its line.
    """
    if n < 1:
        raise UserError(f"n is {n}", "ask for 1 sample of each prompt or more")
    prompts = [question.ids(engine.tokenizer) for question in asked]
    for question, ids in zip(asked, prompts, strict=True):
        if engine.context and len(ids) >= engine.context:
            raise UserError(
                f"{question.source or 'the prompt'}: {len(ids):,} tokens; {engine.model.name} "
                f"reads at most {engine.context:,}, the answer included",
                "shorten the prompt, or take it out",
            )
    return requests(prompts, n, seed)


def row(question: Question, completion: Completion, origin: dict[str, str]) -> dict[str, Any]:
    """The JSON object of an answer; ``data`` commands read it as a demonstration."""
    return {
        "prompt": question.prompt,
        "response": completion.text,
        "prompt_index": completion.prompt_index,
        "sample_index": completion.sample_index,
        "seed": completion.seed,
        "finish_reason": completion.finish_reason,
        "tokens": len(completion.ids),
        **origin,
        **({"extra": question.extra} if question.extra else {}),
    }


def whole_lines(path: Path) -> Iterator[tuple[str, bytes]]:
    """("FILE:LINE", line) of what was appended to a file, if it is there; a last line cut by a kill
    is taken away. Lines end at "\\n" alone: ``str.splitlines`` tears rows apart at U+2028."""
    whole = path.read_bytes() if path.exists() else b""
    *lines, cut = whole.split(b"\n")
    if cut:
        path.write_bytes(whole[: -len(cut)])
    for number, line in enumerate(lines, 1):
        yield f"{path}:{number}", line


def resume(path: Path, asked: Sequence[Question], waiting: Sequence[Request]) -> list[Request]:
    """The requests whose answers are not in the file yet; a last line cut by a kill is taken away.

    Raises:
        UserError: when the file holds answers to other prompts or with other seeds.
    """
    wanted = {(request.prompt_index, request.sample_index): request for request in waiting}
    for where, line in whole_lines(path):
        try:
            found = json.loads(line)
            request = wanted.get((found["prompt_index"], found["sample_index"]))
            same = request is None or (
                found["seed"] == request.seed
                and found["prompt"] == asked[request.prompt_index].prompt
            )
        except (ValueError, KeyError, TypeError):
            raise UserError(
                f"{where}: this is no line that generate wrote", "choose another file"
            ) from None
        if not same:
            raise UserError(
                f"{where}: an answer to another prompt, or with another seed",
                "resume with the same prompts and --seed, or choose another file",
            )
        wanted.pop((found["prompt_index"], found["sample_index"]), None)
    return list(wanted.values())


def answers(
    engine: Engine,
    asked: Sequence[Question],
    waiting: Sequence[Request],
    sampling: Sampling,
    batch_size: int = 16,
    origin: dict[str, str] | None = None,
) -> Iterator[tuple[Completion, dict[str, Any]]]:
    """(completion, its JSON object) for each request, in the order in which they finish."""
    for completion in engine.complete(waiting, sampling, batch_size):
        yield completion, row(asked[completion.prompt_index], completion, origin or {})
