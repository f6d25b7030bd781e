"""A model, or a data file, in words: what stands beside the list of the library."""

from pathlib import Path
from typing import Any

from textual.content import Content

from minialign.data.known_files import Facts
from minialign.errors import UserError
from tui.widgets.text import cut, one_line, printable

PROBLEMS = 50  # that are written out
CUT = 300  # letters of a prompt or an answer
MEMORY = (
    "\nMemory is estimated for this machine; training with LoRA, --grad-checkpoint "
    "and 1,024 tokens a batch."
)


def describe_model(row: dict[str, Any], label: str) -> Content:
    """A model: a row of ``describe.overview``."""
    parts: list[Any] = [(row["name"], "bold"), "\n\n"]
    here = "on this disk" if row["installed"] else "not here: p fetches it"
    lines = [
        ("where", here),
        ("parameters", _count(row["params"])),
        ("on disk", _size(row["disk_bytes"])),
        ("to chat", _size(row["run_bytes"])),
        ("to train", _size(row["train_bytes"])),
        ("from", row["source"].split("==")[0]),
        ("note", row["note"]),
        ("answers now", "yes" if row["name"] == label.split(" + ")[0] else ""),
    ]
    for name, value in lines:
        if value:
            parts += [(f"{name:<12}", "$text-muted"), f"{printable(str(value))}\n"]
    parts.append((MEMORY, "$text-muted"))
    return Content.assemble(*parts)


def describe_data(path: Path, facts: Facts | UserError) -> Content:
    """A data file: what it holds, what is wrong with it, its first rows."""
    folder = f"  {path.parent if path.parent.name else ''}\n"
    parts: list[Any] = [(path.name, "bold"), (folder, "$text-muted")]
    if isinstance(facts, UserError):
        hint = f"\n→ {printable(facts.hint)}" if facts.hint else ""
        return Content.assemble(*parts, ("\n✗ ", "$error"), printable(facts.problem) + hint)
    from minialign.formats.findings import FINDINGS

    problems = facts.report.bad.problems
    for file in facts.report.files:
        if len(facts.report.files) > 1:
            parts.append((f"\n{Path(file.file).name}\n", "bold"))
        bad = f", {file.bad:,} bad" if file.bad else ""
        parts.append(f"{file.rows:,} rows{bad}, {_size(facts.bytes)}\n")
        held = {"format": file.formats, "gives": file.records, "not used": file.unused}
        for name, counts in held.items():
            if counts:
                listed = ", ".join(f"{count:,} {what}" for what, count in counts.items())
                parts += [(f"{name:<9}", "$text-muted"), f"{printable(listed)}\n"]
        for name, count in file.findings.items():
            if count:
                where = ", ".join(place.rpartition(":")[2] for place in file.places[name])
                more = " …" if count > len(file.places[name]) else ""
                parts += [("! ", "$warning"), f"{count:,} × {FINDINGS[name]}: line {where}{more}\n"]
    for leak in facts.report.leaks:
        names = f"{Path(leak.first).name} and {Path(leak.second).name}"
        parts += [("! ", "$warning"), f"{names} share {leak.prompts:,} prompts\n"]
    if facts.longer is not None:
        parts.append(f"the longer answer is the chosen one in {100 * facts.longer:.0f} %\n")
    if problems:
        parts.append(("\nWhat is wrong\n", "bold $error"))
        for problem in problems[:PROBLEMS]:
            line = problem.source.rpartition(":")[2]
            what = f"line {line}: found {problem.found}; expected {problem.expected}"
            parts += [("✗ ", "$error"), printable(f"{what}\n  fix: {problem.fix}\n")]
        if len(problems) > PROBLEMS:
            parts.append(f"… and {len(problems) - PROBLEMS:,} more: minialign data check --all\n")
    elif any(file.rows for file in facts.report.files):
        parts += [("✓ ", "$success"), "every row reads\n"]
    if facts.rows:
        parts.append(("\nThe first rows\n", "bold $primary"))
    for kind, prompt, answers in facts.rows:
        marks = ("+", "-") if kind == "pairs" else ("·",) * len(answers)
        if prompt:
            parts.append(f"{cut(one_line(prompt), CUT)}\n")
        for mark, answer in zip(marks, answers, strict=False):
            parts += [(f"  {mark} ", "bold"), (f"{cut(one_line(answer), CUT)}\n", "$text-muted")]
    return Content.assemble(*parts)


def _count(number: int) -> str:
    if not number:
        return ""
    return f"{number / 1e9:.2f} G" if number >= 1e9 else f"{number / 1e6:.0f} M"


def _size(size: int) -> str:
    if not size:
        return ""
    if size >= 1e9:
        return f"{size / 1e9:.1f} GB"
    return f"{size / 1e6:,.1f} MB" if size >= 1e6 else f"{max(1, round(size / 1e3))} kB"
