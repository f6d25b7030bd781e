"""What survives a kill: files replaced whole, and journals, whose rows are only appended."""

import contextlib
import fcntl
import hashlib
import json
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, BinaryIO

from minialign.errors import UserError

Row = dict[str, Any]


def to_disk(path: Path) -> None:
    """fsync a file or folder."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def write_atomic(path: Path, text: str | bytes) -> None:
    """Replace a small file so that it is never seen half-written, and survives a power cut."""
    draft = path.with_name(f".{path.name}.tmp")
    draft.write_bytes(text.encode() if isinstance(text, str) else text)
    to_disk(draft)
    os.replace(draft, path)


def write_json(path: Path, value: Any, indent: int | None = 2) -> None:
    """Replace a JSON file so that it is never seen half-written, and survives a power cut."""
    write_atomic(path, json.dumps(value, indent=indent) + "\n")


def read_text(path: Path, hint: str) -> str:
    """The text of a file that a user named.

    Raises:
        UserError: with this ``hint``, when it cannot be read.
    """
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as reason:
        said = getattr(reason, "strerror", None) or str(reason)
        raise UserError(f"{path}: {said}", hint) from None


def read_object(path: Path) -> Row:
    """The JSON object in a file.

    Raises:
        OSError, ValueError: when there is no file, or something else in it.
    """
    value = json.loads(path.read_text(encoding="utf-8"))
    if not isinstance(value, dict):
        raise ValueError("expected a JSON object")
    return value


def numbered_rows(path: Path) -> Iterator[tuple[int, Row | None]]:
    """(number, object) of each line; None for one that does not read. The file may be absent."""
    with contextlib.suppress(FileNotFoundError, NotADirectoryError), open(path, "rb") as file:
        for number, line in enumerate(file, 1):
            if line.strip():
                yield number, _object(line)


def read_jsonl(path: Path) -> Iterator[Row]:
    """The objects of a JSONL file that this program appends to; a line cut by a kill is skipped."""
    return (row for _, row in numbered_rows(path) if row is not None)


def json_line(row: Any) -> str:
    """A row as a line; characters that UTF-8 cannot hold stay escaped."""
    text = json.dumps(row, ensure_ascii=False, default=str)
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        text = json.dumps(row, default=str)
    return text + "\n"


def digest(value: Any) -> str:
    """16 letters that stand for a JSON value."""
    text = json.dumps(value, ensure_ascii=False, sort_keys=True)
    return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).hexdigest()


@dataclass
class Journal:
    """A JSONL file that is appended to; ``rows`` is what was read and written so far.

    ``synced``: a person waits for it, and other programs may write it. Each row is then on disk
    when ``append`` returns, writers take turns (``.NAME.lock`` beside it, which a killed process
    leaves free), and half a row that a kill left is set aside in ``NAME.cut``.
    """

    path: Path
    synced: bool = False
    rows: list[Row] = field(default_factory=list)
    bad: list[int] = field(default_factory=list)  # line numbers that do not read
    _held: BinaryIO | None = field(default=None, init=False, repr=False)

    @staticmethod
    def open(path: Path) -> "Journal":
        """Read a synced journal, whose file may be absent.

        Raises:
            UserError: when it cannot be read.
        """
        return Journal(path, synced=True).reload()

    @staticmethod
    def resume(path: Path) -> "Journal":
        """Read what a killed program wrote, to go on with it; half a row at its end is taken away.

        Raises:
            UserError: when it cannot be read.
        """
        if path.exists() and not (whole := path.read_bytes()).endswith(b"\n"):
            os.truncate(path, whole.rfind(b"\n") + 1)
        return Journal(path).reload()

    def reload(self) -> "Journal":
        """Read the file again: another process may have written."""
        try:
            lines = list(numbered_rows(self.path))
        except OSError as reason:
            raise UserError(f"cannot read {self.path}: {reason.strerror}") from None
        self.rows = [row for _, row in lines if row is not None]
        self.bad = [number for number, row in lines if row is None]
        return self

    def known(self, key: str) -> dict[Any, Row]:
        """The last row of each value of ``key``: what need not be done again."""
        return {row[key]: row for row in self.rows if key in row}

    def __enter__(self) -> "Journal":
        """Hold the file open, for many rows.

        Raises:
            UserError: when it cannot be written.
        """
        try:
            self._held = self._open()
        except OSError as reason:
            raise self._unwritable(reason) from None
        return self

    def __exit__(self, *_: object) -> None:
        """Close the file."""
        if self._held is not None:
            self._held.close()
            self._held = None

    def claim(self) -> bool:
        """Keep the open file from other processes that claim it; false when one has.

        The file itself is locked, not one beside it: ``FileLock`` would leave another file there.
        """
        assert self._held is not None
        with contextlib.suppress(BlockingIOError):
            fcntl.flock(self._held, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
        return False

    def append(self, *rows: Row) -> None:
        """Add rows, all of them, or the file is as it was.

        Raises:
            UserError: when they cannot be written.
        """
        data = "".join(map(json_line, rows)).encode()
        try:
            held = contextlib.nullcontext(self._held) if self._held else None
            with self._locked(), held or self._open() as file:
                self._write(file, data)
        except OSError as reason:
            raise self._unwritable(reason) from None
        self.rows += rows

    def _unwritable(self, reason: OSError) -> UserError:
        fix = "nothing was saved; make room or mend the folder, and do it again"
        return UserError(f"cannot write {self.path}: {reason.strerror}", fix)

    def _open(self) -> BinaryIO:
        # Unbuffered: closing the file must not write what failed once more.
        return open(self.path, "ab+", buffering=0)

    def _write(self, file: BinaryIO, data: bytes) -> None:
        end = _end_line(file, set_aside=self.synced) if file.seekable() else 0
        try:
            rest = memoryview(data)
            while rest:
                rest = rest[file.write(rest) :]
            if self.synced:
                os.fsync(file.fileno())
        except OSError:
            with contextlib.suppress(OSError):
                os.ftruncate(file.fileno(), end)
            raise

    def remove_last(self, wanted: Callable[[Row], bool]) -> Row | None:
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
                        if row in self.rows:
                            del self.rows[-1 - self.rows[::-1].index(row)]
                        return row
                    end = start
        except FileNotFoundError:
            return None
        except OSError as reason:
            raise UserError(f"cannot write {self.path}: {reason.strerror}") from None
        return None

    def _cut(self, data: bytes, start: int, end: int) -> None:
        if end < len(data):
            write_atomic(self.path, data[:start] + data[end:])
            return
        with open(self.path, "rb+") as file:
            file.truncate(start)
            os.fsync(file.fileno())

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        """Alone among the processes that write this file, if it is synced."""
        if not self.synced:
            yield
            return
        from filelock import FileLock  # takes 0.03 s: not before the first row

        self.path.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(self.path.with_name(f".{self.path.name}.lock"), poll_interval=0.005):
            yield


def _object(line: bytes) -> Row | None:
    try:
        row = json.loads(line.decode("utf-8", "surrogatepass"))
    except ValueError:
        return None
    return row if isinstance(row, dict) else None


def _end_line(file: BinaryIO, *, set_aside: bool) -> int:
    """Make the file end with a newline, and return where that is. Half a row at its end was never
    acknowledged: it can be ``set_aside`` to a file beside it."""
    size = file.seek(0, os.SEEK_END)
    file.seek(max(size - 1, 0))
    if file.read() in (b"", b"\n"):
        return size
    file.seek(0)
    *_, last = file.read().rpartition(b"\n")
    if set_aside and _object(last) is None:
        with open(f"{file.name}.cut", "ab") as kept:
            kept.write(last + b"\n")
        to_disk(Path(kept.name))
        os.ftruncate(file.fileno(), size - len(last))
    else:
        file.write(b"\n")
    return file.seek(0, os.SEEK_END)


def now() -> str:
    """The time as votes have it: ISO 8601, UTC."""
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
