"""JSON that is not one object a line, read row by row without holding the whole file.

The rows are the elements of an array, the elements of the one list inside an object, or objects
one after another. Our own reader on the standard library's decoder: streaming parsers (ijson) give
no line numbers and no text of what is broken, which every problem is told with.
"""

import codecs
import json
from collections.abc import Iterator
from typing import IO, Any

CHUNK = 1 << 20


class Broken(Exception):
    """The text stops being JSON at ``line``; ``text`` is what stands there."""

    def __init__(self, line: int, reason: str, text: str):
        super().__init__(reason)
        self.line, self.reason, self.text = line, reason, text


def _no_twins(items: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(items)
    if len(result) != len(items):
        names = [name for name, _ in items]
        twin = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"the key {twin!r} stands twice in one object")
    return result


DECODER = json.JSONDecoder(object_pairs_hook=_no_twins, strict=False)


class JsonText:
    """A text that is read as it is needed, and where in it we are."""

    def __init__(self, stream: IO[bytes], chunk: int = CHUNK):
        self._stream, self._chunk = stream, chunk
        self._decode = codecs.getincrementaldecoder("utf-8-sig")("strict").decode
        self._text, self._at = "", 0
        self._counted, self._line = 0, 1  # the line of position ``_counted``
        self._ended = False

    def line(self) -> int:
        """The line of the current position, from 1."""
        self._line += self._text.count("\n", self._counted, self._at)
        self._counted = self._at
        return self._line

    def _more(self) -> None:
        self.line()
        self._text, self._at, self._counted = self._text[self._at :], 0, 0
        data = self._stream.read(max(self._chunk, len(self._text)))
        self._ended = not data
        try:
            self._text += self._decode(data, final=not data)
        except UnicodeDecodeError as reason:
            before = reason.object[: reason.start].count(b"\n") + self._text.count("\n")
            shown = reason.object[max(0, reason.start - 40) : reason.start + 40]
            text = shown.decode("utf-8", "backslashreplace")
            raise Broken(self.line() + before, f"{reason.reason} (not UTF-8)", text) from None

    def peek(self) -> str:
        """The next character that is not white space; "" at the end."""
        while True:
            while self._at < len(self._text):
                if self._text[self._at] not in " \t\r\n":
                    return self._text[self._at]
                self._at += 1
            if self._ended:
                return ""
            self._more()

    def take(self, wanted: str) -> None:
        """Step over ``wanted``, which must be next."""
        there = self.peek()
        if there != wanted:
            raise self.broken(f"{wanted!r} is missing" if there else "the file ends too early")
        self._at += 1

    def broken(self, reason: str) -> Broken:
        """The error for what stands at the current position."""
        return Broken(self.line(), reason, self._text[self._at : self._at + 80])

    def value(self) -> Any:
        """The JSON value that is next."""
        if not self.peek():
            raise self.broken("the file ends too early")
        while True:
            try:
                value, end = DECODER.raw_decode(self._text, self._at)
                if end < len(self._text) or self._ended:  # else a number may go on
                    self._at = end
                    return value
            except json.JSONDecodeError as reason:
                # Far from the end of what was read, more text cannot mend it.
                cut = reason.msg.startswith("Unterminated") or reason.pos > len(self._text) - 16
                if self._ended or not cut:
                    self._at = min(reason.pos, len(self._text))
                    raise self.broken(reason.msg) from None
            except (ValueError, RecursionError) as reason:
                raise self.broken(str(reason) or "nested too deeply") from None
            self._more()

    def elements(self) -> Iterator[tuple[int, Any]]:
        """(line, value) of each element of the array that is next."""
        self.take("[")
        if self.peek() == "]":
            return self.take("]")
        while True:
            self.peek()
            yield self.line(), self.value()
            if self.peek() == "]":
                return self.take("]")
            self.take(",")


def rows(
    stream: IO[bytes], row_keys: frozenset[str], chunk: int = CHUNK
) -> Iterator[tuple[int, Any]]:
    """(line, value) of each row of a JSON text.

    An object whose only list of objects stands under a key that is no row's key (``row_keys``)
    is a wrapper: its list holds the rows. Any other object is a row itself. Raises Broken.
    """
    text = JsonText(stream, chunk)
    while start := text.peek():
        if start == "[":
            yield from text.elements()
        elif start == "{":
            yield from _object(text, row_keys)
        else:
            yield text.line(), text.value()


def _object(text: JsonText, row_keys: frozenset[str]) -> Iterator[tuple[int, Any]]:
    line = text.line()
    text.take("{")
    row: dict[str, Any] = {}
    wrapped = ""
    while text.peek() != "}":
        if row or wrapped:
            text.take(",")
        key = text.value()
        if not isinstance(key, str):
            raise text.broken("a key must be a text in double quotes")
        text.take(":")
        if text.peek() == "[" and key not in row_keys and not row_keys.intersection(row):
            listed = text.elements()
            first = next(listed, None)
            if first is not None and isinstance(first[1], dict):
                if wrapped:
                    raise text.broken(f"two lists of rows, {wrapped!r} and {key!r}")
                wrapped = key
                yield first
                yield from listed
            else:
                row[key] = [value for _, value in ([first] if first else []) + list(listed)]
        else:
            value = text.value()
            if key in row:
                raise text.broken(f"the key {key!r} stands twice in one object")
            row[key] = value
    text.take("}")
    if not wrapped:
        yield line, row
