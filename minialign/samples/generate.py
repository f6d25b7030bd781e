"""Answers to prompts from anywhere: which model, which prompts, what is on disk already."""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from minialign.data.prompts import check_text, prompt_ids
from minialign.durable import Journal, numbered_rows
from minialign.engine import Completion, Engine, Request, Sampling, requests
from minialign.errors import UserError
from minialign.records import Prompted

Row = dict[str, Any]


def plan_requests(
    engine: Engine, asked: Sequence[Prompted], n: int = 1, seed: int = 0
) -> list[Request]:
    """Plan a request for each sample of each prompt.

    Raises:
        UserError: for no samples, or a prompt that the model cannot read, with its line.
    """
    if n < 1:
        raise UserError(f"n is {n}", "ask for 1 sample of each prompt or more")
    prompts = [prompt_ids(check_text(one), engine.tokenizer) for one in asked]
    for one, ids in zip(asked, prompts, strict=True):
        if engine.context and len(ids) >= engine.context:
            most = f"{engine.model.name} reads at most {engine.context:,}, the answer included"
            said = f"{one.source or 'the prompt'}: {len(ids):,} tokens; {most}"
            raise UserError(said, "shorten the prompt, or take it out")
    return requests(prompts, n, seed)


def resume(
    path: Path, asked: Sequence[Prompted], waiting: Sequence[Request]
) -> tuple[Journal, list[Request]]:
    """The journal of a file of answers, and the requests whose answers are not in it yet.

    Raises:
        UserError: when the file holds answers to other prompts or with other seeds.
    """
    wanted = {(request.prompt_index, request.sample_index): request for request in waiting}

    def is_wanted(row: Row) -> bool:
        request = wanted.pop((row["prompt_index"], row["sample_index"]), None)
        return request is None or (
            row["seed"] == request.seed and row["prompt"] == asked[request.prompt_index].written
        )

    fix = "resume with the same prompts and --seed, or choose another file"
    other = UserError("an answer to another prompt, or with another seed", fix)
    alien = UserError("this is no line that generate wrote", "choose another file")
    return resume_rows(path, is_wanted, other, alien), list(wanted.values())


def resume_rows(
    path: Path, is_wanted: Callable[[Any], bool], other: UserError, alien: UserError
) -> Journal:
    """The journal of a file to go on with.

    Raises:
        UserError: ``other``, with the line, for a row that is not wanted; ``alien`` for a line
            of another program's.
    """
    journal = Journal.resume(path)
    for number, row in numbered_rows(path):
        try:
            error = None if is_wanted(row) else other
        except (ValueError, KeyError, TypeError, IndexError):
            error = alien
        if error:
            raise UserError(f"{path}:{number}: {error.problem}", error.hint)
    return journal


def write_answers(
    engine: Engine,
    asked: Sequence[Prompted],
    waiting: Sequence[Request],
    sampling: Sampling,
    batch_size: int = 16,
    origin: dict[str, str] | None = None,
) -> Iterator[tuple[Completion, Row]]:
    """Answer each request: (completion, its JSON object) in the order in which they finish;
    ``data`` commands read the objects as demonstrations."""
    for completion in engine.complete(waiting, sampling, batch_size):
        one = asked[completion.prompt_index]
        yield (
            completion,
            {
                "prompt": one.written,
                "response": completion.text,
                "prompt_index": completion.prompt_index,
                "sample_index": completion.sample_index,
                "seed": completion.seed,
                "finish_reason": completion.finish_reason,
                "tokens": len(completion.ids),
                **(origin or {}),
                **({"extra": one.extra} if one.extra else {}),
            },
        )
