"""From files to examples: read, convert, hold out, encode; what is left out is counted by name."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from minialign import formats
from minialign.data.check import BadRows, good_items, parse_map
from minialign.data.hold_out import hold_out
from minialign.data.hub import check_spec, fetch_dataset
from minialign.data.prompts import read_prompts
from minialign.errors import UserError
from minialign.formats.folders import data_files
from minialign.formats.kinds import answers_of, digest, opening_of
from minialign.formats.reading import files_of
from minialign.home import labels_file
from minialign.learn.batch import Example, TooLong
from minialign.methods import Method
from minialign.records import Demonstration, Pair, Prompted, Record
from minialign.training.settings import Settings


@dataclass
class Rows:
    """Examples to train and to evaluate on, and what happened on the way."""

    train: list[Example]
    held_out: list[Example]
    notes: list[str] = field(default_factory=list)


def check_data(settings: Settings) -> None:
    """Raise a UserError for data that are not there: before a model is fetched and a run begun."""
    for spec in (*settings.data, *settings.eval_data):
        check_spec(spec)
    if not settings.data:
        _labels_file()


def _fetch(path: str) -> Path:
    here = Path(path).expanduser()
    if here.exists():
        return here
    return fetch_dataset(path)


def _read(
    paths: Sequence[Path], settings: Settings, method: Method, split: str, rows: Rows
) -> list[Record]:
    bad = BadRows(keep=settings.skip_bad)
    mapping = parse_map(settings.map)
    read: list[Record] = []
    for path in paths:
        if path.suffix == ".txt" and method.record is Prompted:
            read += read_prompts(path)
            continue
        for item in good_items(files_of(path, split), mapping, bad):
            if item.unlabelled:
                said = f"{item.source}: an unlabelled pair, its answers are in random order"
                raise UserError(said, f"say which is better first: minialign label {path}")
            read += item.records
    bad.check()
    if bad.problems:
        files = ", ".join(map(str, bad.files.values()))
        rows.notes.append(f"{len(bad.problems)} bad rows left out, kept in {files}")
    if method.record is Prompted:
        read = [_keep_answer(record) for record in read]
    records, unused = formats.as_kind(read, method.record)
    if unused:
        rows.notes.append(f"{unused} rows left out: {method.name} needs {method.needs}")
    same = [r for r in records if isinstance(r, Pair) and r.chosen.strip() == r.rejected.strip()]
    if same:
        rows.notes.append(f"{len(same)} pairs left out: chosen and rejected are the same")
        names = {id(record) for record in same}
        records = [record for record in records if id(record) not in names]
    if empty := sum(not all(text.strip() for text in answers_of(record)) for record in records):
        rows.notes.append(f"{empty} rows have an empty response (kept)")
    return list(records)


def _keep_answer(record: Record) -> Record:
    """A demonstration as a prompt that keeps its answer, for scorers that compare with one."""
    if not isinstance(record, Demonstration) or record.messages[-1]["role"] != "assistant":
        return record
    extra = {"answer": record.messages[-1]["content"]}
    return Prompted(record.messages[:-1], record.source, extra)


def _note_examples(coded: Sequence[Example | TooLong], limit: int, rows: Rows) -> list[Example]:
    """The examples among these; what is left out, or cut, is noted."""
    long = [row for row in coded if isinstance(row, TooLong)]
    examples = [row for row in coded if isinstance(row, Example)]
    if long:
        named = ", ".join(row.source for row in long[:3]) + (" …" if len(long) > 3 else "")
        rows.notes.append(
            f"{len(long)} rows left out: a response does not fit into {limit} tokens ({named})"
        )
    if cut := sum(example.cut > 0 for example in examples):
        rows.notes.append(f"{cut} prompts cut from the left to fit")
    if dropped := sum(example.meta.get("dropped_turns", 0) for example in examples):
        rows.notes.append(f"{dropped} early assistant turns left out to fit")
    return examples


def load_rows(settings: Settings, method: Method, config: Any, tokenizer: Any) -> Rows:
    """The examples of a run.

    Held out are the rows of ``eval_data``, else those of a data folder's own validation files,
    else a share of the data.

    Raises:
        UserError: for a bad row (unless ``skip_bad``), or when nothing is left to train on.
    """
    rows = Rows([], [])
    if other := method.other_record(config):
        method = replace(method, record=other)
    paths = [_fetch(path) for path in settings.data] or [_labels_file()]
    records = _read(paths, settings, method, "train", rows)
    held_paths = [_fetch(path) for path in settings.eval_data]
    own = [path for path in paths if path.is_dir() and "valid" in data_files(path)]
    if held_paths or own:
        held = _read(held_paths or own, settings, method, "train" if held_paths else "valid", rows)
        known = {digest(opening_of(record)) for record in held}
        kept = [record for record in records if digest(opening_of(record)) not in known]
        if len(kept) < len(records):
            rows.notes.append(
                f"{len(records) - len(kept)} training rows left out: they share a prompt with "
                "the evaluation rows"
            )
        records = kept
    else:
        records, held = hold_out(records, settings.eval_split, settings.seed)
    if records:
        method.check_rows(records, config)
    limit = settings.max_seq_length
    rows.train = _note_examples(method.encode(records, tokenizer, limit, config), limit, rows)
    rows.held_out = _note_examples(method.encode(held, tokenizer, limit, config), limit, rows)
    if not rows.train:
        why = "; ".join(rows.notes) or f"{method.name} needs {method.needs}"
        raise UserError(f"nothing to train on: {len(records)} rows, none usable", why)
    return rows


def _labels_file() -> Path:
    file = labels_file()
    if not file.exists() or not file.stat().st_size:
        fix = "give a file: --data pairs.jsonl   (examples/concise/train.jsonl is one)"
        raise UserError("no --data, and no pairs labelled here yet", fix)
    return file
