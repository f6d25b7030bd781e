"""Answers to prompts from anywhere: which model, which prompts, what is on disk already."""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from minialign.data.prompts import check_text, prompt_ids
from minialign.durable import whole_lines
from minialign.engine import Completion, Engine, Request, Sampling, requests
from minialign.errors import UserError
from minialign.records import Prompted


def planned(engine: Engine, asked: Sequence[Prompted], n: int = 1, seed: int = 0) -> list[Request]:
    """A request for each sample of each prompt.

    Raises:
        UserError: for no samples, or a prompt that the model cannot read, with its line.
    """
    if n < 1:
        raise UserError(f"n is {n}", "ask for 1 sample of each prompt or more")
    prompts = [prompt_ids(check_text(one), engine.tokenizer) for one in asked]
    for one, ids in zip(asked, prompts, strict=True):
        if engine.context and len(ids) >= engine.context:
            raise UserError(
                f"{one.source or 'the prompt'}: {len(ids):,} tokens; {engine.model.name} "
                f"reads at most {engine.context:,}, the answer included",
                "shorten the prompt, or take it out",
            )
    return requests(prompts, n, seed)


def row(asked: Prompted, completion: Completion, origin: dict[str, str]) -> dict[str, Any]:
    """The JSON object of an answer; ``data`` commands read it as a demonstration."""
    return {
        "prompt": asked.written,
        "response": completion.text,
        "prompt_index": completion.prompt_index,
        "sample_index": completion.sample_index,
        "seed": completion.seed,
        "finish_reason": completion.finish_reason,
        "tokens": len(completion.ids),
        **origin,
        **({"extra": asked.extra} if asked.extra else {}),
    }


def resume(path: Path, asked: Sequence[Prompted], waiting: Sequence[Request]) -> list[Request]:
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
                and found["prompt"] == asked[request.prompt_index].written
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
    asked: Sequence[Prompted],
    waiting: Sequence[Request],
    sampling: Sampling,
    batch_size: int = 16,
    origin: dict[str, str] | None = None,
) -> Iterator[tuple[Completion, dict[str, Any]]]:
    """(completion, its JSON object) for each request, in the order in which they finish."""
    for completion in engine.complete(waiting, sampling, batch_size):
        yield completion, row(asked[completion.prompt_index], completion, origin or {})
