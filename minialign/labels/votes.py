"""The files of what a person said: votes on pairs, thumbs on answers, pairs that wait for a vote.

Each is JSONL that is only ever appended to, one object a line, on disk (fsync) before the call
returns. Lines that do not read are counted and left as they are; several processes may write.
"""

import contextlib
import fcntl
import json
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from minialign.errors import UserError
from minialign.home import home, labels_file
from minialign.records import Rated, Vote, noted, to_json

CHOICES = ("a", "b", "tie", "both_bad", "skip")


@dataclass
class Lines:
    """A JSONL file that is appended to; ``rows`` is what was read and written so far."""

    path: Path
    rows: list[dict[str, Any]] = field(default_factory=list)
    bad: list[int] = field(default_factory=list)  # line numbers that do not read

    @staticmethod
    def open(path: Path) -> "Lines":
        """Read a file, which may be absent.

        Raises:
            UserError: when it cannot be read.
        """
        lines = Lines(path)
        lines.reload()
        return lines

    def reload(self) -> None:
        """Read the file again: another process may have written."""
        rows: list[dict[str, Any]] = []
        bad: list[int] = []
        try:
            with open(self.path, "rb") as file:
                for number, line in enumerate(file, 1):
                    if not line.strip():
                        continue
                    row = _object(line)
                    if row is None:
                        bad.append(number)
                    else:
                        rows.append(row)
        except FileNotFoundError:
            pass
        except OSError as reason:
            raise UserError(f"cannot read {self.path}: {reason.strerror}") from None
        self.rows, self.bad = rows, bad

    def append(self, row: dict[str, Any]) -> None:
        """Add a line; it is on disk when this returns, or the file is as it was.

        Raises:
            UserError: when it cannot be written.
        """
        data = (json.dumps(row, ensure_ascii=False) + "\n").encode("utf-8", "surrogatepass")
        try:
            # Unbuffered: closing the file must not write what failed once more.
            with self._locked(), open(self.path, "ab+", buffering=0) as file:
                _mend_end(file)
                end = file.seek(0, os.SEEK_END)
                try:
                    rest = memoryview(data)
                    while rest:
                        rest = rest[file.write(rest) :]
                    os.fsync(file.fileno())
                except OSError:
                    with contextlib.suppress(OSError):
                        os.ftruncate(file.fileno(), end)
                    raise
        except OSError as reason:
            raise UserError(
                f"cannot write {self.path}: {reason.strerror}",
                "nothing was saved; make room or mend the folder, and do it again",
            ) from None
        self.rows.append(row)

    def remove_last(self, wanted: Callable[[dict[str, Any]], bool]) -> dict[str, Any] | None:
        """Take the last row that is ``wanted`` out of the file; returns it, None without one.

        Raises:
            UserError: when the file cannot be written.
        """
        try:
            with self._locked():
                data = self.path.read_bytes()
                end = len(data)
                while end > 0:
                    start = data.rfind(b"\n", 0, end - 1) + 1
                    row = _object(data[start:end])
                    if row is not None and wanted(row):
                        self._cut(data, start, end)
                        with contextlib.suppress(ValueError):
                            self.rows.reverse()
                            self.rows.remove(row)
                        self.rows.reverse()
                        return row
                    end = start
        except FileNotFoundError:
            return None
        except OSError as reason:
            raise UserError(f"cannot write {self.path}: {reason.strerror}") from None
        return None

    def _cut(self, data: bytes, start: int, end: int) -> None:
        if end == len(data):
            with open(self.path, "rb+") as file:
                file.truncate(start)
                os.fsync(file.fileno())
            return
        draft = self.path.with_name(f".{self.path.name}.tmp")
        with open(draft, "wb") as file:
            file.write(data[:start] + data[end:])
            file.flush()
            os.fsync(file.fileno())
        os.replace(draft, self.path)

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        """Alone among the processes that write this file."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with open(self.path.with_name(f".{self.path.name}.lock"), "w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield


def _object(line: bytes) -> dict[str, Any] | None:
    try:
        row = json.loads(line.decode("utf-8", "surrogatepass"))
    except ValueError:
        return None
    return row if isinstance(row, dict) else None


def _mend_end(file: Any) -> None:
    """Make the file end with a newline. A half-written last line was never acknowledged: it goes
    to a file beside it."""
    size = file.seek(0, os.SEEK_END)
    if not size:
        return
    file.seek(max(0, size - 1))
    if file.read(1) == b"\n":
        return
    file.seek(0)
    data = file.read()
    start = data.rfind(b"\n") + 1
    if _object(data[start:]) is not None:
        file.write(b"\n")
        return
    with open(f"{file.name}.cut", "ab") as kept:
        kept.write(data[start:] + b"\n")
        kept.flush()
        os.fsync(kept.fileno())
    os.ftruncate(file.fileno(), start)


def vote_of(row: dict[str, Any]) -> Vote | None:
    """The vote in a row; None when the row holds none."""
    try:
        vote = Vote(
            id=str(row["id"]),
            prompt=[{"role": str(m["role"]), "content": str(m["content"])} for m in row["prompt"]],
            a=row["a"],
            b=row["b"],
            choice=row["choice"],
            edited=row.get("edited"),
            note=str(row.get("note", "")),
            a_from=dict(row.get("a_from") or {}),
            b_from=dict(row.get("b_from") or {}),
            time=str(row.get("time", "")),
        )
    except (KeyError, TypeError, ValueError):
        return None
    sound = isinstance(vote.a, str) and isinstance(vote.b, str) and vote.choice in CHOICES
    return vote if sound and vote.prompt else None


class Votes:
    """The user's votes, in the order in which they were given."""

    def __init__(self, path: Path | None = None):
        self.lines = Lines.open(path or labels_file())
        self.all = [vote for row in self.lines.rows if (vote := vote_of(row)) is not None]

    @property
    def path(self) -> Path:
        """The file."""
        return self.lines.path

    @property
    def unreadable(self) -> int:
        """How many lines of the file are no votes; they stay as they are."""
        return len(self.lines.bad) + len(self.lines.rows) - len(self.all)

    def add(self, vote: Vote) -> None:
        """Save a vote; it is on disk when this returns.

        Raises:
            UserError: when it cannot be written.
        """
        self.lines.append(to_json(vote))
        self.all.append(vote)

    def undo(self) -> Vote | None:
        """Take the last vote back, out of the file too; None when there is none.

        Raises:
            UserError: when the file cannot be written.
        """
        if not self.all:
            return None
        last = self.all[-1]
        self.lines.remove_last(lambda row: row.get("id") == last.id and row.get("a") == last.a)
        return self.all.pop()


def now() -> str:
    """The time as votes have it: ISO 8601, UTC."""
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def rate(
    prompt: list[dict[str, str]], response: str, good: bool | None, finish_reason: str | None = None
) -> None:
    """Keep a thumb up or down for an answer in ``ratings.jsonl``, with the finish reason of one
    that was cut; None takes it back.

    Raises:
        UserError: when it cannot be written.
    """
    lines = Lines.open(home() / "ratings.jsonl")
    lines.remove_last(lambda row: row.get("prompt") == prompt and row.get("response") == response)
    if good is not None:
        lines.append(to_json(Rated(prompt, response, good, "", noted([finish_reason]))))
