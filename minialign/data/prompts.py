"""Prompts to answer, from arguments, files and data sets."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from minialign import formats
from minialign.durable import read_text
from minialign.errors import UserError
from minialign.learn.batch import TokenizerLike, encode_prompt
from minialign.records import Demonstration, Prompted, as_prompt


def as_prompts(
    texts: Sequence[str], system: str | None = None, raw: bool = False
) -> list[Prompted]:
    """Make prompts of texts; ``raw`` ones get no chat template and are continued.

    Raises:
        UserError: for an empty text, or a system prompt without a template to put it in.
    """
    if raw and system:
        raise UserError("--raw has no place for a system prompt", "leave --system or --raw out")
    return [_put(Prompted(as_prompt(text)), system, raw) for text in texts]


def read_prompts(
    path: str | Path, system: str | None = None, raw: bool = False, *, answers: bool = True
) -> list[Prompted]:
    """Read the prompts of a file: each line of a .txt, else the rows of any format that has some.

    ``extra`` has the other keys of a row. With ``answers`` a demonstration's own answer becomes the
    key "answer" among them, for scorers that compare with a reference.

    Raises:
        UserError: for a missing or empty file, and for bad rows with their line.
    """
    path = Path(path).expanduser()
    if path.suffix == ".txt":
        lines = read_text(path, "give a text or JSONL file").split("\n")
        every = [Prompted(as_prompt(line), f"{path}:{n}") for n, line in enumerate(lines, 1)]
        asked = [one for one in every if one.prompt[0]["content"].strip()]
    else:
        asked = _read_rows(path, answers)
    if not asked:
        raise UserError(f"{path} has no prompts", "write one a line")
    return [_put(one, system, raw) for one in asked]


def _read_rows(path: Path, answers: bool) -> list[Prompted]:
    read = formats.read(path)
    if read.problems:
        first = read.problems[0]
        raise UserError(f"{first.source}: {first.found}; expected {first.expected}", first.fix)
    prompts, unused = formats.as_kind(read.records, Prompted)
    if unused:
        raise UserError(f"{path}: {unused} rows hold no prompt", "each needs a prompt")
    for number, row in enumerate(read.records if answers else ()):
        if isinstance(row, Demonstration):
            extra = {"answer": row.messages[-1]["content"], **prompts[number].extra}
            prompts[number] = replace(prompts[number], extra=extra)
    return prompts


def _put(asked: Prompted, system: str | None, raw: bool) -> Prompted:
    """Put a system message before a prompt, or make it plain text."""
    prompt = asked.prompt
    if raw:
        if len(prompt) != 1:
            problem = f"{asked.source}: --raw needs plain text, but this is {len(prompt)} messages"
            raise UserError(problem, "leave --raw out")
        prompt = [{"role": "text", "content": prompt[0]["content"]}]
    elif system and prompt[0]["role"] != "system":
        prompt = [{"role": "system", "content": system}, *prompt]
    return check_text(replace(asked, prompt=prompt))


def check_text(asked: Prompted) -> Prompted:
    """Pass a prompt through; raise UserError when it is empty."""
    text = asked.prompt[-1]["content"]
    if not (text if asked.raw else text.strip()):
        where = f"{asked.source}: " if asked.source else ""
        raise UserError(f"{where}the prompt is empty", "give it some text")
    return asked


def prompt_ids(asked: Prompted, tokenizer: TokenizerLike) -> list[int]:
    """Encode a prompt as the token ids that the model continues."""
    if not asked.raw:
        return encode_prompt(asked.prompt, tokenizer)
    start = [tokenizer.bos_id] if tokenizer.adds_bos and tokenizer.bos_id else []
    return start + tokenizer.encode(asked.prompt[0]["content"])
