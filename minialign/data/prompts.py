"""Prompts to answer, from arguments, files and data sets."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from minialign import formats
from minialign.errors import UserError
from minialign.learn.batch import TokenizerLike, encode_prompt
from minialign.records import Demonstration, Prompt, Prompted, as_prompt


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

    def ids(self, tokenizer: TokenizerLike) -> list[int]:
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


def read_prompts(path: str | Path, system: str | None = None) -> list[Question]:
    """The prompts of a file with the other keys of their rows. A demonstration's own answer becomes
    the key "answer", for scorers that compare with a reference.

    Raises:
        UserError: for a missing or empty file, and for bad rows with their line.
    """
    asked = read_questions(path, system)
    if Path(path).suffix == ".txt":
        return asked
    rows = [row for row in formats.read(path).records if formats.as_kind([row], Prompted)[0]]
    answers = [
        {"answer": row.messages[-1]["content"]} if isinstance(row, Demonstration) else {}
        for row in rows
    ]
    return [
        Question(question.prompt, question.source, {**answer, **question.extra})
        for question, answer in zip(asked, answers, strict=True)
    ]


def prompted(question: Question) -> Prompted:
    """What a scorer is given."""
    prompt = question.prompt
    turns = [{"role": "user", "content": prompt}] if isinstance(prompt, str) else prompt
    return Prompted(turns, question.source, question.extra)
