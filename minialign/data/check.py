"""Data files checked: which rows are bad, what is doubtful, what two files share."""

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from itertools import combinations
from pathlib import Path
from typing import Any

from minialign import formats
from minialign.errors import UserError, nearest
from minialign.formats import Item, Problem
from minialign.formats.advice import KEYS
from minialign.formats.findings import Findings, Prompts
from minialign.formats.folders import data_files
from minialign.formats.kinds import kind_name
from minialign.progress import Tell

OPTIONAL_KEYS = {"system", "margin", "input", "context", "history"}


def parse_map(items: Iterable[str]) -> dict[str, str]:
    """Read ``chosen=better`` as {"chosen": "better"}; UserError for a key that no format has."""
    mapping = {}
    for item in items:
        ours, _, theirs = item.partition("=")
        if not ours or not theirs:
            problem = f"--map {item}: expected KEY=COLUMN"
            raise UserError(problem, "for example: --map chosen=better")
        if ours not in KEYS | OPTIONAL_KEYS:
            hint = nearest(ours, KEYS | OPTIONAL_KEYS)
            raise UserError(f"--map {item}: no format has the key {ours!r}", hint)
        mapping[ours] = theirs
    return mapping


def find(spec: str, progress: Tell | None = None) -> list[Path]:
    """The data files behind a path, folder or hub id; a folder's train file is first."""
    path = Path(spec).expanduser()
    if not path.exists():
        from minialign.data.hub import fetch_dataset

        path = fetch_dataset(spec, progress)
    if not path.is_dir():
        return [path]
    splits = data_files(path)
    return [file for name in ("train", "valid", "test") for file in splits.get(name, ())]


@dataclass
class BadRows:
    """Problems as they come; with ``keep`` their rows go to FILE.bad.jsonl."""

    keep: bool = False
    problems: list[Problem] = field(default_factory=list)
    files: dict[Path, Path] = field(default_factory=dict)  # data file: where its bad rows are

    def add(self, file: Path, problem: Problem) -> None:
        """Note a problem; its row is appended to the file of bad rows."""
        self.problems.append(problem)
        if not self.keep:
            return
        why = f"found {problem.found}; expected {problem.expected}"
        row = problem.row if isinstance(problem.row, dict) else {"_row": problem.row}
        line = json.dumps({**row, "_source": problem.source, "_problem": why}, default=str) + "\n"
        if file not in self.files:
            self.files[file] = _start(Path(f"{file}.bad.jsonl"))
        with self.files[file].open("a", encoding="utf-8") as stream:
            stream.write(line)

    def check(self) -> None:
        """Raise UserError when the caller cannot go on: bad rows, or a file that breaks off."""
        for problem in self.problems:
            if problem.fatal:
                raise UserError(f"{problem.source}: found {problem.found}", problem.fix)
        if self.problems and not self.keep:
            count = len(self.problems)
            rows = "1 bad row" if count == 1 else f"{count} bad rows, the first"
            hint = "minialign data check lists them all; --skip-bad goes on without them"
            raise UserError(f"{rows}: {self.problems[0]}", hint)


def _start(path: Path) -> Path:
    """Make an empty file: there, or in the current folder when nothing can be written there."""
    try:
        path.write_text("")
    except OSError:
        path = Path(path.name)
        path.write_text("")
    return path


def good_items(
    files: Iterable[Path], mapping: Mapping[str, str] | None, bad: BadRows
) -> Iterator[Item]:
    """The rows that read well; the others go to ``bad``."""
    for file in files:
        for item in formats.stream(file, mapping=mapping):
            if item.problem:
                bad.add(file, item.problem)
            else:
                yield item


@dataclass
class FileReport:
    """What one file holds."""

    file: str
    rows: int = 0
    bad: int = 0
    formats: Counter[str] = field(default_factory=Counter)
    records: Counter[str] = field(default_factory=Counter)  # by kind
    unused: Counter[str] = field(default_factory=Counter)
    findings: dict[str, int] = field(default_factory=dict)
    places: dict[str, list[str]] = field(default_factory=dict)  # the first of each finding


@dataclass
class Leak:
    """Prompts that two files share."""

    first: str
    second: str
    prompts: int
    places: list[tuple[str, str]]


@dataclass
class Report:
    """What ``check`` says."""

    files: list[FileReport]
    leaks: list[Leak]
    bad: BadRows

    def to_json(self) -> dict[str, Any]:
        """The report as JSON."""
        problems = [asdict(problem) for problem in self.bad.problems]
        for problem in problems:
            del problem["row"]
        return {
            "files": [vars(file) for file in self.files],
            "leaks": [vars(leak) for leak in self.leaks],
            "problems": problems,
            "bad_rows_in": [str(path) for path in self.bad.files.values()],
        }


def check(
    files: list[Path], mapping: Mapping[str, str] | None = None, *, keep: bool = False
) -> Report:
    """What is wrong or doubtful in every row of every file; ``keep`` writes the bad rows."""
    bad = BadRows(keep)
    reports: list[FileReport] = []
    prompts: list[Prompts] = []
    for file in files:
        before = len(bad.problems)
        report, findings, seen = FileReport(str(file)), Findings(), Prompts()
        for item in good_items([file], mapping, bad):
            report.formats[item.format] += 1
            for part in item.unused:
                report.unused[part.reason] += part.count
            for record in item.records:
                report.records[kind_name(record)] += 1
                findings.of(record)
                seen.add(record)
        report.bad = len(bad.problems) - before
        report.rows = report.bad + report.formats.total()
        report.findings, report.places = findings.counts, findings.places
        reports.append(report)
        prompts.append(seen)
    leaks = []
    for (one, first), (two, second) in combinations(zip(reports, prompts, strict=True), 2):
        if places := first.shared(second):
            leaks.append(Leak(one.file, two.file, len(places), places[:3]))
    return Report(reports, leaks, bad)
