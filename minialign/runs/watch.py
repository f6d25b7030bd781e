"""Runs looked at again and again: only what changed since the last look is read."""

import contextlib
import os
import time
from collections.abc import Sequence
from dataclasses import replace

from minialign.errors import UserError
from minialign.run_folder import Run, list_runs
from minialign.runs import summary
from minialign.runs.charts import in_terminal
from minialign.runs.summary import Sample, Summary


class Watch:
    """What runs there are, and what each is doing. Not for several threads at once."""

    def __init__(self) -> None:
        self._known: dict[str, tuple[object, Summary, float]] = {}  # read when

    def look(self) -> list[Summary]:
        """All runs, the newest first; damaged ones are "broken"."""
        summaries = []
        for run in reversed(list_runs()):
            stamp = self._stamp(run)
            before = self._known.get(run.name)
            if before is None or before[0] != stamp:
                try:
                    before = stamp, summary.summarize(run), time.time()
                except (UserError, OSError):  # it vanished while it was read
                    continue
                self._known[run.name] = before
            _, one, read = before
            summaries.append(replace(one, age=one.age + time.time() - read))
        names = {one.name for one in summaries}
        self._known = {name: entry for name, entry in self._known.items() if name in names}
        return summaries

    @staticmethod
    def _stamp(run: Run) -> object:
        parts: list[object] = [run.is_locked()]
        for name in ("metrics.jsonl", "outcome.json", "config.json"):
            try:
                status = os.stat(run.path / name)
                parts.append((status.st_size, status.st_mtime_ns))
            except OSError:
                parts.append(None)
        return tuple(parts)


def keys_of(names: Sequence[str]) -> list[str]:
    """The metrics that these runs logged, the ones that are plotted by default first."""
    runs = _open(names)
    first = summary.default_keys(runs)
    return first + [key for key in summary.metric_keys(runs) if key not in first]


def charts(
    names: Sequence[str], keys: Sequence[str], width: int, height: int, smooth: float = 0.0
) -> str:
    """Charts with axes as text with ANSI colours, one below the other; "" without any step."""
    runs = _open(names)
    known = set(summary.metric_keys(runs))
    wanted = [key for key in keys if key in known]
    if not wanted:
        return ""
    drawn = []
    for key, lines in summary.series(runs, wanted, ("train", "eval"), smooth).items():
        legend = len(lines) if len(lines) > 1 else 1
        rows = max(3, height // len(wanted) - 4 - legend)
        short = [replace(line, run=line.run[:24]) for line in lines]
        drawn.append(in_terminal(key, short, max(30, width), rows, colour=True))
    return "\n\n".join(drawn).replace("\u2800", " ")  # empty Braille: not every font has it


def _open(names: Sequence[str]) -> list[Run]:
    runs = []
    for name in names:
        with contextlib.suppress(UserError):  # it vanished
            runs.append(Run.open(name))
    return runs


def samples_of(name: str) -> list[Sample]:
    """What a run answered while it trained; [] when it has vanished."""
    return [sample for run in _open([name]) for sample in summary.samples(run)]
