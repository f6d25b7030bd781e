"""Files as rows: JSON Lines, JSON, CSV, TSV and Parquet, plain or gzipped, told apart by content.

Each row comes with where it stands. What cannot be parsed comes as a ``Problem`` in its place, so
that nothing is lost in silence.
"""

import csv
import gzip
import json
import sys
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import chain
from pathlib import Path
from typing import IO, Any, cast

from minialign.errors import UserError
from minialign.formats.json_stream import DECODER, Broken, rows
from minialign.formats.problems import TO_UTF8, Problem

HEAD = 1 << 16
ENDINGS = (".jsonl", ".json", ".ndjson", ".csv", ".tsv", ".parquet")
Located = tuple[str, Any]  # ("file:line", an object, another JSON value, or a Problem)


@contextmanager
def _open(path: Path) -> Iterator[IO[bytes]]:
    """The file's bytes, unzipped where its first bytes say gzip."""
    try:
        stream = path.open("rb")
    except IsADirectoryError:
        raise UserError(f"{path} is a folder", "name a file in it") from None
    except FileNotFoundError:
        raise UserError(f"{path}: there is no such file", "check the path") from None
    except OSError as reason:
        raise UserError(f"{path}: {reason.strerror}", "check the file and its rights") from None
    with stream:
        magic = stream.read(2)
        stream.seek(0)
        if magic == b"\x1f\x8b":
            with gzip.GzipFile(fileobj=stream) as unzipped:
                yield cast(IO[bytes], unzipped)
        else:
            yield stream


def ending(path: Path) -> str:
    """The file's ending without ``.gz``, in lower case: ".jsonl"."""
    return Path(path.name.lower().removesuffix(".gz")).suffix


def kind_of(path: Path) -> str:
    """ "jsonl", "json", "csv", "tsv" or "parquet"; UserError for anything else."""
    try:
        with _open(path) as stream:
            head = stream.read(HEAD)
    except (EOFError, gzip.BadGzipFile, zlib.error) as reason:
        raise UserError(f"{path}: broken gzip ({reason})", "fetch or pack the file again") from None
    if head[:4] == b"PAR1":
        return "parquet"
    if head[:2] in (b"\xff\xfe", b"\xfe\xff"):
        fix = f"save it as UTF-8: iconv -f UTF-16 -t UTF-8 {path.name} > utf8-{path.name}"
        raise UserError(f"{path}: the file is UTF-16, expected UTF-8", fix)
    suffix = ending(path)
    if suffix in (".csv", ".tsv"):
        return suffix[1:]
    lines = [line for line in head.removeprefix(b"\xef\xbb\xbf").splitlines() if line.strip()]
    if not lines:
        raise UserError(f"{path}: the file is empty", "expected one JSON object a line")
    first = lines[0].strip()
    lined = suffix in (".jsonl", ".ndjson")
    if first[:1] not in (b"{", b"[") and not lined:
        said = f"{path}: not a data file (it begins with {first[:40].decode('utf-8', 'replace')!r})"
        raise UserError(said, f"known: {', '.join(ENDINGS)}, each also as .gz")
    if first[:1] == b"[" or first == b"{":
        return "json"
    if not lined and len(lines) > 1:
        lined = lines[1].lstrip().startswith(b'{"') or _parses(first)
    return "jsonl" if lined else "json"


def _parses(line: bytes) -> bool:
    try:
        json.loads(line)
    except ValueError:
        return False
    return True


def read_rows(path: Path, row_keys: frozenset[str]) -> Iterator[Located]:
    """Every row of a file in order: (where, JSON value or Problem)."""
    kind = kind_of(path)
    if kind == "parquet":
        yield from _parquet_rows(path)
        return
    last = "1"
    try:
        with _open(path) as stream:
            if kind == "jsonl":
                located = _json_lines(path, stream)
            elif kind == "json":
                located = _json_rows(path, stream, row_keys)
            else:
                located = _csv_rows(path, stream, "\t" if kind == "tsv" else "")
            for last, value in located:
                yield last, value
    except (EOFError, gzip.BadGzipFile, zlib.error) as reason:
        fix = "fetch or pack the file again"
        yield last, Problem(last, f"gzip that breaks off ({reason})", "whole gzip", fix, fatal=True)


def _json_lines(path: Path, stream: IO[bytes]) -> Iterator[Located]:
    for number, data in enumerate(stream, 1):
        where = f"{path}:{number}"
        if number == 1:
            data = data.removeprefix(b"\xef\xbb\xbf")
        data = data.strip(b" \t\r\n")
        if not data:
            continue
        try:
            line = data.decode("utf-8")
            yield where, DECODER.decode(line)
        except UnicodeDecodeError as reason:
            raw = data.decode("utf-8", "backslashreplace")
            byte = f"the byte 0x{data[reason.start]:02x} at column {reason.start + 1}"
            yield where, Problem(where, byte, "UTF-8 text", TO_UTF8, raw)
        except (ValueError, RecursionError) as reason:
            said, fix = _explain_json(reason, line), _json_fix(reason, line)
            yield where, Problem(where, said, "one JSON object on the line", fix, line)


def _explain_json(reason: Exception, line: str) -> str:
    if not isinstance(reason, json.JSONDecodeError):
        return f"broken JSON ({reason or 'nested too deeply'})"
    near = line[max(0, reason.pos - 12) : reason.pos + 12]
    return f"broken JSON at column {reason.pos + 1}: {reason.msg}, near {near!r}"


def _json_fix(reason: Exception, line: str) -> str:
    message = str(reason)
    if "stands twice" in message:
        return "keep one of the two"
    if "Unterminated" in message or line.count("{") > line.count("}"):
        return "the line seems cut off: write it whole, or take it out"
    if "Extra data" in message:
        return "put each object on a line of its own"
    if line.startswith("{'") or "double quotes" in message:
        return "use double quotes around keys and texts, and no comma behind the last one"
    return "mend the JSON of that line"


def _json_rows(path: Path, stream: IO[bytes], row_keys: frozenset[str]) -> Iterator[Located]:
    try:
        for line, value in rows(stream, row_keys):
            yield f"{path}:{line}", value
    except Broken as broken:
        where = f"{path}:{broken.line}"
        fix = "mend the JSON there (as JSON Lines, single bad rows could be skipped)"
        said = f"broken JSON: {broken.reason}; what follows it cannot be read"
        yield where, Problem(where, said, "a JSON array of objects", fix, broken.text, fatal=True)


def _csv_rows(path: Path, stream: IO[bytes], delimiter: str) -> Iterator[Located]:
    csv.field_size_limit(sys.maxsize)
    # A byte that is not UTF-8 becomes half a surrogate, which is found when its text is read.
    lines = (data.decode("utf-8", "surrogateescape") for data in stream)
    header_line = next(lines, "").removeprefix("\ufeff")
    if not delimiter:
        delimiter = ";" if ";" in header_line and "," not in header_line else ","
    table = csv.reader(chain([header_line], lines), delimiter=delimiter, strict=True)
    where = f"{path}:1"
    try:
        header = [name.strip() for name in next(table, [])]
        where = f"{path}:{table.line_num + 1}"
        for cells in table:
            row = dict(zip(header, cells, strict=False))
            if cells not in ([], [""]) and len(cells) != len(header):
                fix = "put texts with commas or line ends in double quotes"
                expected = f"{len(header)}, as many as the header has"
                yield where, Problem(where, f"{len(cells)} cells", expected, fix, row)
            elif cells not in ([], [""]):
                yield where, row
            where = f"{path}:{table.line_num + 1}"
    except csv.Error as reason:
        fix = "check the double quotes there: inside a quoted text each one is written twice"
        said = f"broken CSV ({reason}); what follows it cannot be read"
        yield where, Problem(where, said, "quoted cells", fix, fatal=True)


def _parquet_rows(path: Path) -> Iterator[Located]:
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError:
        fix = "pip install 'minialign[parquet]'"
        raise UserError(f"{path}: reading Parquet needs pyarrow", fix) from None
    number = 0
    try:
        with parquet.ParquetFile(path) as file:
            for batch in file.iter_batches(batch_size=1024):
                for row in batch.to_pylist():
                    number += 1
                    yield f"{path}:row {number}", row
    except (pyarrow.ArrowException, OSError) as reason:
        where = f"{path}:row {number + 1}"
        first = str(reason).splitlines()[0]
        fix = "fetch or write the file again"
        yield where, Problem(where, f"broken Parquet ({first})", "whole Parquet", fix, fatal=True)
