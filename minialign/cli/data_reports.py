"""``minialign data check|show|stats|formats``: what files hold, printed."""

import argparse
import json
from dataclasses import asdict
from itertools import islice
from typing import Any

from minialign.cli import console

SHOWN = 20  # problems printed without --all


def inputs(arguments: argparse.Namespace) -> tuple[list[Any], dict[str, str], Any]:
    """(the files meant, the columns renamed, where bad rows go: kept apart with --skip-bad)."""
    from minialign.data import check as data

    mapping = data.parse_map(arguments.map)
    with console.fetching() as tell:
        files = [file for spec in arguments.files for file in data.find(spec, tell)]
    return files, mapping, data.BadRows(keep=arguments.skip_bad)


def tell_bad(bad: Any) -> None:
    """Say where the bad rows are that were left out."""
    for file, place in bad.files.items():
        count = sum(problem.source.startswith(f"{file}:") for problem in bad.problems)
        console.say(f"{file}: {count_of(count, 'bad row')} left out, now in {place}")


def count_of(count: int, word: str) -> str:
    """A count with its noun: 1 bad row, 3 bad rows."""
    if count == 1:
        return f"1 {word}"
    return f"{count:,} {word[:-1] + 'ies' if word.endswith('y') else word + 's'}"


def _list_counts(counts: dict[str, int]) -> str:
    return ", ".join(f"{count:,} {name}" for name, count in counts.items())


def check(arguments: argparse.Namespace) -> int:
    """Problems with their fixes, then each file's counts, then leaks; 2 when rows are bad."""
    from minialign.data import check as data
    from minialign.formats.findings import FINDINGS

    files, mapping, _ = inputs(arguments)
    report = data.check(files, mapping, keep=arguments.skip_bad)
    problems = report.bad.problems
    broken = any(problem.fatal for problem in problems)
    code = 2 if problems and (broken or not arguments.skip_bad) else 0
    if arguments.json:
        console.emit(report.to_json())
        return code
    for problem in problems if arguments.all else problems[:SHOWN]:
        console.emit(f"{problem.source}: found {problem.found}")
        console.emit(f"  expected {problem.expected}")
        console.emit(f"  fix: {problem.fix}")
    if len(problems) > SHOWN and not arguments.all:
        console.emit(f"… and {len(problems) - SHOWN:,} more problems (--all shows them)")
    for file in report.files:
        console.emit(f"{file.file}: {count_of(file.rows, 'row')}, {file.bad:,} bad")
        if file.formats:
            console.emit(f"  format: {_list_counts(file.formats)}")
            console.emit(f"  gives: {_list_counts(file.records) or 'nothing'}")
        for reason, count in file.unused.items():
            console.emit(f"  not used: {count:,} × {reason}")
        for name, count in file.findings.items():
            if count:
                places = [place.removeprefix(f"{file.file}:") for place in file.places[name]]
                at, more = ", ".join(places), " …" if count > len(places) else ""
                console.emit(f"  {count:,} × {FINDINGS[name]}: line {at}{more}")
        if len(file.records) > 1:
            console.emit("  this file mixes kinds of records: a trainer uses those it can")
    for leak in report.leaks:
        shared = count_of(leak.prompts, "prompt")
        pairs = ", ".join(f"{there} = {here}" for here, there in leak.places)
        more = " …" if leak.prompts > len(leak.places) else ""
        console.emit(f"leak: {leak.first} and {leak.second} share {shared}: {pairs}{more}")
    tell_bad(report.bad)
    if broken and arguments.skip_bad:
        console.say("a file breaks off: what follows cannot be skipped, mend it first")
    first = arguments.files[0]
    steps = (f"check {first} --skip-bad",) if code else (f"show {first}", f"stats {first}")
    console.next_steps(*(f"minialign data {step}" for step in steps))
    return code


def _tokenizer(model: str | None) -> Any:
    from minialign.models import names
    from minialign.models.sources.fetch import ensure
    from minialign.models.tokens.tokenizer import Tokenizer

    with console.fetching() as tell:
        return Tokenizer.load(ensure(model or names.DEFAULT, tell))


def show(arguments: argparse.Namespace) -> int:
    """Examples, the trained tokens in colour or in brackets."""
    from minialign.data import check as data
    from minialign.data.show import show_record

    files, mapping, bad = inputs(arguments)
    tokenizer = _tokenizer(arguments.model)
    records = (record for item in data.good_items(files, mapping, bad) for record in item.records)
    start = max(arguments.start, 1) - 1
    count = 0
    for record in islice(records, start, start + arguments.n):
        view = show_record(record, tokenizer, arguments.max_seq_length, arguments.train_on)
        count += 1
        if arguments.json:
            console.emit(asdict(view))
        else:
            _print_view(view)
    for problem in bad.problems:
        console.say(f"bad row passed over: {problem}")
    if not count:
        console.say(f"no records from the {start + 1}. on")
        return 2 if bad.problems else 0
    if not arguments.json:
        marks = "in colour" if console.has_colour() else "in ⟦ ⟧"
        console.say(f"trained tokens are {marks}; everything else is only read")
    return 0


def _print_view(view: Any) -> None:
    count = f"{view.trained} of {view.tokens} tokens trained" if view.tokens else ""
    note = f" · {view.note}" if view.note else ""
    parts = [(f"{view.source} · {view.kind} · {count}{note}", view.prompt), *view.responses]
    for name, runs in parts:
        console.emit(f"── {name}")
        console.emit("".join(_mark(text, trained) for text, trained in runs))
    console.emit("")


def _mark(text: str, trained: bool) -> str:
    # A text of the data must not steer the terminal.
    text = "".join(c if c >= " " or c in "\n\t" else f"\\x{ord(c):02x}" for c in text)
    if console.has_colour():
        return f"\x1b[{'1;32' if trained else '2'}m{text}\x1b[0m"
    return f"⟦{text}⟧" if trained else text


def stats(arguments: argparse.Namespace) -> int:
    """Counts and lengths of all files together."""
    from minialign.data.show import measure_files

    files, mapping, bad = inputs(arguments)
    tokenizer = _tokenizer(arguments.model) if arguments.model else None
    result = measure_files(files, bad, mapping=mapping, tokenizer=tokenizer)
    tell_bad(bad)
    if arguments.json:
        console.emit(result)
        return 0
    console.emit(f"{count_of(result['rows'], 'row')} ({_list_counts(result['formats'])})")
    with_system = f"{result['with_system']:,} with a system message"
    console.emit(f"{_list_counts(result['kinds'])}; {with_system}")
    turns = ", ".join(f"{count:,} × {number}" for number, count in result["user_turns"].items())
    console.emit(f"turns of the user: {turns}")
    for reason, count in result["unused"].items():
        console.emit(f"not used: {count:,} × {reason}")
    columns = ("mean", "median", "p95", "max", "total")
    rows = []
    for part, units in result["lengths"].items():
        for unit, values in units.items():
            cells = [f"{values[column]:,g}" for column in columns[:-1]]
            rows.append([part, unit, *cells, f"{values['total']:,}"])
    console.table(["", "in", *columns], rows)
    if "pairs" in result:
        pairs = count_of(result["pairs"], "pair")
        console.emit(f"{pairs}, {result['same_length']:,} of one length")
        for name in ("longer", "shorter"):
            share, low, high = (
                100 * result[f"{name}_wins"][key] for key in ("share", "low", "high")
            )
            interval = f"95 % interval {low:.1f} to {high:.1f} %"
            console.emit(f"the {name} answer is the chosen one: {share:.1f} % ({interval})")
    return 0


def formats(arguments: argparse.Namespace) -> int:
    """The table of formats."""
    from minialign.formats import FORMATS
    from minialign.formats.kinds import KINDS

    names = {kind: name for name, kind in KINDS.items()}
    for form in FORMATS:
        if arguments.json:
            row = {"name": form.name, "keys": form.keys, "gives": names[form.record]}
            console.emit({**row, "example": form.example, "note": form.note})
            continue
        keys = ", ".join(key.replace("|", " or ") for key in form.keys)
        console.emit(f"{form.name} → {names[form.record]}: {form.note}")
        console.emit(f"  keys: {keys}")
        console.emit(f"  {json.dumps(form.example, ensure_ascii=False)}")
    return 0
