"""Systems against each other on the same prompts: their answers, the verdicts, the win rates.

A system is a model, an adapter (a run), or a file of answers. Missing answers are written with the
engine and kept in a folder, from which a stopped evaluation goes on.
"""

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import combinations
from pathlib import Path
from typing import Any

from minialign.data.prompts import check_text, read_prompts
from minialign.durable import digest, read_jsonl
from minialign.engine import Sampling
from minialign.engine.identity import weights_of
from minialign.engine.open import open_engine
from minialign.errors import UserError
from minialign.evaluate.comparison_files import prompt_key, read_answers
from minialign.judge.open import is_run
from minialign.progress import Tell
from minialign.records import Comparison, Prompted, reference_in
from minialign.samples import generate

ANSWER_FILES = (".jsonl", ".json", ".gz", ".csv", ".tsv", ".parquet")


@dataclass
class System:
    """Somebody who answers. ``answers`` by ``prompt_key``; a file has them already."""

    name: str
    spec: str
    file: Path | None = None  # of answers
    adapter: str | None = None
    answers: dict[str, str] = field(default_factory=dict)
    prompts: list[Prompted] = field(default_factory=list)  # of a file


def read_system(spec: str) -> System:
    """Read what a text names: a file of answers, a run or adapter, else a model.

    Raises:
        UserError: for a file without answers.
    """
    path = Path(spec).expanduser()
    is_file = path.name.endswith(ANSWER_FILES)
    if is_file and not path.exists():
        raise UserError(f"{spec}: no such file", "a file of answers, a model, or a run")
    if not is_file or not path.is_file():
        return System(spec, spec, adapter=spec if is_run(spec) else None)
    system = System(path.name.partition(".")[0], str(path), file=path)
    for (key, before), one in read_answers(path).items():
        if not before:  # of several samples the first
            system.answers[key] = one.text
            system.prompts.append(check_text(one.asked))
    return system


def name_apart(systems: Sequence[System]) -> None:
    """Give systems of the same name different ones.

    Raises:
        UserError: when two are the very same.
    """
    specs = [system.spec for system in systems]
    for system in systems:
        if specs.count(system.spec) > 1:
            raise UserError(f"{system.spec} against itself", "give two different systems")
    names = [system.name for system in systems]
    for system in systems:
        if names.count(system.name) > 1:
            system.name = system.spec


def read_asked(path: str | None, systems: Sequence[System]) -> list[Prompted]:
    """Read the prompts: of the file, else those that every answer file answers.

    Raises:
        UserError: when there are none.
    """
    files = [system for system in systems if system.file is not None]
    if path is not None:
        asked = read_prompts(path, answers=False)
    elif files:
        asked = files[0].prompts
    else:
        raise UserError("which prompts?", "--prompts FILE (the lines of a .txt, or JSONL)")
    keys = {prompt_key(one.prompt): one for one in asked}
    every = {k: one for k, one in keys.items() if all(k in system.answers for system in files)}
    if not every:
        problem = f"{', '.join(one.name for one in files)}: no prompt is answered by all of them"
        raise UserError(problem, "answers belong together by their prompt")
    return list(every.values())


def write_answers(
    system: System,
    asked: Sequence[Prompted],
    folder: Path,
    sampling: Sampling,
    seed: int = 0,
    batch_size: int = 16,
    progress: Tell | None = None,
) -> Iterator[int]:
    """Answer what is not in the system's file yet; gives how many there are each time one more is
    there. Other weights, sampling or seed are another file; the model is loaded when it has to be.

    Raises:
        UserError: no such model, or the file holds answers to other prompts.
    """
    model = None if system.adapter else system.spec
    how = digest([*weights_of(model, system.adapter, progress), repr(sampling), seed])
    word = re.sub(r"[^\w.-]+", "-", system.name).strip("-")
    file = folder / f"answers-{word}-{digest([system.spec, how])[:6]}.jsonl"
    system.answers = _answers(read_jsonl(file))
    if all(prompt_key(one.prompt) in system.answers for one in asked):
        yield len(asked)
        return
    engine = open_engine(model, system.adapter, progress)
    waiting = generate.plan_requests(engine, asked, 1, seed)
    journal, left = generate.resume(file, asked, waiting)
    done = len(waiting) - len(left)
    yield done
    origin = {"adapter" if system.adapter else "model": system.spec}
    with journal:
        for _, row in generate.write_answers(engine, asked, left, sampling, batch_size, origin):
            journal.append(row)
            done += 1
            yield done
    system.answers = _answers(journal.rows)


def _answers(rows: Iterable[dict[str, Any]]) -> dict[str, str]:
    return {prompt_key(row["prompt"]): row["response"] for row in rows}


def pair_answers(systems: Sequence[System], asked: Sequence[Prompted]) -> list[Comparison]:
    """Put every two systems' answers to every prompt against each other."""
    pairs = []
    for first, second in combinations(systems, 2):
        origins = {"model": first.name}, {"model": second.name}
        for one in asked:
            key, reference = prompt_key(one.prompt), reference_in(one.extra)
            told = reference, one.source, *origins, one.extra
            pairs.append(Comparison(one.prompt, first.answers[key], second.answers[key], *told))
    return pairs
