"""Data files looked at: counts and lengths, and examples as the model is trained on them."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

from minialign.data.check import BadRows, good_items
from minialign.formats.kinds import kind_name
from minialign.formats.measures import Measures
from minialign.records import Pair, Prompted, Ranking, Rated


def measure_files(
    files: list[Path],
    bad: BadRows,
    *,
    mapping: Mapping[str, str] | None = None,
    tokenizer: Any = None,
) -> dict[str, Any]:
    """Count and measure all rows of ``files``; tokens too with a tokenizer."""
    measures = Measures(_token_count(tokenizer) if tokenizer else None)
    forms: Counter[str] = Counter()
    unused: Counter[str] = Counter()
    for item in good_items(files, mapping, bad):
        forms[item.format] += 1
        for part in item.unused:
            unused[part.reason] += part.count
        for record in item.records:
            measures.add(record)
    bad.check()
    return {"rows": forms.total(), "formats": forms, "unused": unused, **measures.report()}


def _token_count(tokenizer: Any) -> Any:
    from minialign.learn.batch import encode_prompt, encode_response

    def count(prompt: list[dict[str, str]], answers: list[str]) -> tuple[int, list[int]]:
        if not prompt or prompt[-1]["role"] == "text":
            return 0, [len(tokenizer.encode(answer)) for answer in answers]
        in_answers = [len(encode_response(prompt, answer, tokenizer)) for answer in answers]
        return len(encode_prompt(prompt, tokenizer)), in_answers

    return count


@dataclass(frozen=True)
class Shown:
    """A record as the model is trained on it: runs of text, and whether each is trained."""

    source: str
    kind: str
    prompt: list[tuple[str, bool]]
    responses: list[tuple[str, list[tuple[str, bool]]]]  # ("chosen", runs)
    tokens: int
    trained: int
    note: str = ""


def show_record(record: Any, tokenizer: Any, max_length: int, train_on: str = "all") -> Shown:
    """Show how a record reaches the model, decoded token run by token run."""
    from minialign.learn.batch import TooLong, encode, encode_prompt

    kind = kind_name(record)
    if isinstance(record, Prompted):
        ids = encode_prompt(record.prompt, tokenizer)
        text = tokenizer.decode(ids, skip_special=False)
        return Shown(record.source, kind, [(text, False)], [], len(ids), 0, "nothing is trained")
    example = encode(record, tokenizer, max_length, train_on)
    if isinstance(example, TooLong):
        note = f"left out: its answer alone has {example.length} tokens, the limit is {max_length}"
        return Shown(record.source, kind, [], [], example.length, 0, note)
    names = ["response"] * len(example.responses)
    if isinstance(record, Pair):
        names = ["chosen", "rejected"]
    elif isinstance(record, Rated):
        names = ["good" if record.good else "bad"]
    elif isinstance(record, Ranking):
        names = [f"score {score:g}" for score in record.scores]
    runs = [
        (name, _runs(ids, mask, tokenizer))
        for name, ids, mask in zip(names, example.responses, example.masks, strict=True)
    ]
    prompt = tokenizer.decode(example.prompt, skip_special=False)
    trained = sum(sum(mask) for mask in example.masks)
    note = f"{example.cut} tokens of the prompt cut to fit" if example.cut else ""
    return Shown(record.source, kind, [(prompt, False)], runs, example.tokens, trained, note)


def _runs(ids: list[int], mask: list[int], tokenizer: Any) -> list[tuple[str, bool]]:
    runs = groupby(zip(ids, mask, strict=True), key=lambda one: bool(one[1]))
    return [
        (tokenizer.decode([token for token, _ in run], skip_special=False), trained)
        for trained, run in runs
    ]
