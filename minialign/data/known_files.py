"""Data files as a list to choose from, and what one holds: counts, first rows, what is wrong.

The list is what the home has itself, what runs were trained on, and what the user added, which
``datafiles.json`` in the home remembers.
"""

import json
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from minialign.durable import write_json
from minialign.errors import UserError
from minialign.home import home, labels_file
from minialign.run_folder import list_runs

FIRST = 5  # rows that are shown
TRAINED_BY = {"pairs": "dpo", "messages": "sft", "ratings": "kto", "rankings": "rrhf"}
LABELLED = ("pairs", "prompts", "rankings")  # what a person can be asked about


@dataclass(frozen=True)
class Facts:
    """What a data file holds."""

    path: Path
    bytes: int
    report: Any  # data.check.Report
    rows: list[tuple[str, str, list[str]]]  # (kind, prompt, answers) of the first
    longer: float | None  # the share of pairs whose chosen answer is the longer one

    @property
    def kind(self) -> str:
        """The kind of record that it holds most of; "" for none."""
        counts: Counter[str] = sum((file.records for file in self.report.files), Counter())
        return max(counts, key=lambda name: counts[name], default="")


def _read_remembered() -> list[str]:
    with suppress(OSError, ValueError):
        paths = json.loads((home() / "datafiles.json").read_text(encoding="utf-8"))
        if isinstance(paths, list):
            return [path for path in paths if isinstance(path, str)]
    return []


def list_known() -> list[tuple[Path, str]]:
    """List (file or folder, where it is known from), the user's own first, without those that are
    gone."""
    files: dict[Path, str] = {Path(path): "added" for path in reversed(_read_remembered())}
    for path, why in ((labels_file(), "your votes"), (home() / "ratings.jsonl", "your thumbs")):
        files.setdefault(path, why)
    for run in reversed(list_runs()):
        try:
            config = run.config
        except UserError:  # told on the screen of the runs
            continue
        for key in ("data", "eval_data"):
            named = config.get(key) or []
            for spec in [named] if isinstance(named, str) else named:
                files.setdefault(Path(str(spec)).expanduser(), f"of {run.name}")
    return [(path, why) for path, why in files.items() if path.exists()]


def remember(path: Path) -> None:
    """Put a file on the list.

    Raises:
        UserError: when there is no such file, or the list cannot be written.
    """
    if not path.exists():
        raise UserError(f"{path}: no such file", "give a file, or a folder of data files")
    _write([*(one for one in _read_remembered() if one != str(path)), str(path)])


def forget(path: Path) -> None:
    """Take a file off the list; the file stays.

    Raises:
        UserError: when the list cannot be written.
    """
    _write([one for one in _read_remembered() if one != str(path)])


def _write(paths: list[str]) -> None:
    file = home() / "datafiles.json"
    try:
        home().mkdir(parents=True, exist_ok=True)
        write_json(file, paths, indent=1)
    except OSError as reason:
        raise UserError(f"cannot write {file}: {reason.strerror}") from None


def stamp(path: Path) -> object:
    """Changes when the file does."""
    with suppress(OSError):
        status = path.stat()
        return status.st_size, status.st_mtime_ns
    return None


def read_facts(path: Path) -> Facts:
    """Read and check every row of a file, or of a folder's files.

    Raises:
        UserError: when it cannot be read.
    """
    from minialign import formats
    from minialign.data.check import check, find
    from minialign.formats.kinds import answers_of, kind_name, prompt_of
    from minialign.formats.measures import Measures

    files = find(str(path))
    report = check(files)
    rows: list[tuple[str, str, list[str]]] = []
    measures = Measures()
    for file in files:
        for item in formats.stream(file):
            for record in item.records:
                measures.add(record)
                if len(rows) < FIRST:
                    prompt = "\n".join(turn["content"] for turn in prompt_of(record))
                    rows.append((kind_name(record), prompt, answers_of(record)))
    decided = measures.wins["longer"] + measures.wins["shorter"]
    longer = measures.wins["longer"] / decided if decided else None
    return Facts(path, sum(file.stat().st_size for file in files), report, rows, longer)
