"""What survives a kill: files replaced whole, lines that are only appended."""

import contextlib
import fcntl
import hashlib
import json
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from minialign.errors import UserError


def write_atomic(path: Path, text: str) -> None:
    """Replace a small text file so that it is never seen half-written, and survives a power cut."""
    draft = path.with_name(f".{path.name}.tmp")
    with open(draft, "w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    os.replace(draft, path)


def write_json(path: Path, value: Any, indent: int | None = 2) -> None:
    """Replace a JSON file so that it is never seen half-written, and survives a power cut."""
    write_atomic(path, json.dumps(value, indent=indent) + "\n")


def read_object(path: Path) -> dict[str, Any]:
    """The JSON object in a file.

    Raises:
        OSError, ValueError: when there is no file, or something else in it.
    """
    value = json.loads(path.read_text(encoding="utf-8"))
    if not isinstance(value, dict):
        raise ValueError("expected a JSON object")
    return value


def read_jsonl(path: Path) -> Iterator[dict[str, Any]]:
    """The objects of a JSONL file that this program appends to; a line cut by a kill is skipped."""
    if not path.exists():
        return
    with open(path, encoding="utf-8", errors="replace") as file:
        for line in file:
            with contextlib.suppress(json.JSONDecodeError):
                row = json.loads(line)
                if isinstance(row, dict):
                    yield row


def json_line(row: Any) -> str:
    """A row as a line; characters that UTF-8 cannot hold stay escaped."""
    text = json.dumps(row, ensure_ascii=False, default=str)
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        text = json.dumps(row, default=str)
    return text + "\n"


def whole_lines(path: Path) -> Iterator[tuple[str, bytes]]:
    """("FILE:LINE", line) of what was appended to a file, if it is there; a last line cut by a kill
    is taken away. Lines end at "\\n" alone: ``str.splitlines`` tears rows apart at U+2028."""
    whole = path.read_bytes() if path.exists() else b""
    *lines, cut = whole.split(b"\n")
    if cut:
        path.write_bytes(whole[: -len(cut)])
    for number, line in enumerate(lines, 1):
        yield f"{path}:{number}", line


def digest(value: Any) -> str:
    """16 letters that stand for a JSON value."""
    text = json.dumps(value, ensure_ascii=False, sort_keys=True)
    return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).hexdigest()


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


def now() -> str:
    """The time as votes have it: ISO 8601, UTC."""
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
