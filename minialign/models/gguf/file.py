"""Read a GGUF file: its metadata, and its tensors as views into the file.

Format: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md (versions 2 and 3, little
endian). Nothing is loaded but the header; a cut or damaged file is an error when it is opened.
The gguf package's own reader takes 13 s for a Llama 3's vocabulary, where this takes half a second,
and answers a damaged file with NumPy's errors; its tables of types are used here.
"""

import math
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from minialign.errors import UserError

MAGIC = b"GGUF"
STRING, ARRAY = 8, 9
# the codes of Python's struct, by GGUF's number of the type
SCALARS = {**dict(enumerate("BbHhIif?")), 10: "Q", 11: "q", 12: "d"}
LARGEST = 1 << 30  # no count or length in a sound header is larger


@dataclass(frozen=True)
class Tensor:
    """A tensor of the file: ``data`` holds its blocks, (rows, bytes a row), read when used."""

    name: str
    kind: str  # ggml's name of the type: "F32", "Q4_1", "Q4_K", …
    shape: tuple[int, ...]  # row-major, as in NumPy: (out, in)
    data: np.ndarray


@dataclass(frozen=True)
class GGUF:
    """An open GGUF file."""

    path: Path
    metadata: dict[str, Any]
    tensors: dict[str, Tensor]

    @property
    def architecture(self) -> str:
        """ "llama", "qwen2", …"""
        return str(self.metadata.get("general.architecture", ""))

    def get(self, key: str, default: Any = None) -> Any:
        """The value of ``ARCHITECTURE.key``."""
        return self.metadata.get(f"{self.architecture}.{key}", default)


class _Damaged(Exception):
    """The header is cut or makes no sense; the text says where."""


def _take(stream: BinaryIO, count: int) -> bytes:
    if not 0 <= count <= LARGEST:
        raise _Damaged(f"a length of {count} at byte {stream.tell()}")
    data = stream.read(count)
    if len(data) != count:
        raise _Damaged(f"the file ends at byte {stream.tell()}, inside its header")
    return data


def _scalar(stream: BinaryIO, code: str) -> Any:
    return struct.unpack("<" + code, _take(stream, struct.calcsize("<" + code)))[0]


def _text(stream: BinaryIO) -> str:
    # Vocabularies hold pieces that are no valid UTF-8 now and then; keep their place.
    return _take(stream, _scalar(stream, "Q")).decode("utf-8", errors="replace")


def _value(stream: BinaryIO, kind: int) -> Any:
    if kind == STRING:
        return _text(stream)
    if kind == ARRAY:
        inner, count = _scalar(stream, "I"), _scalar(stream, "Q")
        if inner in SCALARS:
            size = struct.calcsize("<" + SCALARS[inner])
            data = _take(stream, count * size)
            return [value for (value,) in struct.iter_unpack("<" + SCALARS[inner], data)]
        if count > LARGEST:
            raise _Damaged(f"an array of {count} values at byte {stream.tell()}")
        return [_value(stream, inner) for _ in range(count)]
    if kind not in SCALARS:
        raise _Damaged(f"a value of unknown type {kind} at byte {stream.tell()}")
    return _scalar(stream, SCALARS[kind])


def _headers(
    stream: BinaryIO, path: Path, metadata: dict[str, Any]
) -> list[tuple[str, tuple[int, ...], int, int]]:
    """(name, shape, type, offset) of each tensor; fills ``metadata``."""
    version = _scalar(stream, "I")
    if version not in (2, 3):
        fix = "versions 2 and 3 (little endian) are; convert it again with a new llama.cpp"
        raise UserError(f"{path}: GGUF version {version} is not supported", fix)
    tensor_count, value_count = _scalar(stream, "Q"), _scalar(stream, "Q")
    for _ in range(value_count):
        key = _text(stream)
        metadata[key] = _value(stream, _scalar(stream, "I"))
    headers = []
    for _ in range(tensor_count):
        name, dimensions = _text(stream), _scalar(stream, "I")
        if dimensions > 8:
            raise _Damaged(f"tensor {name!r} with {dimensions} dimensions")
        shape = tuple(_scalar(stream, "Q") for _ in range(dimensions))[::-1]
        headers.append((name, shape, _scalar(stream, "I"), _scalar(stream, "Q")))
    return headers


def read_gguf(path: Path) -> GGUF:
    """Open a GGUF file.

    Raises:
        UserError: not a GGUF file, of another version, cut short or damaged.
    """
    from gguf.constants import GGML_QUANT_SIZES, GGMLQuantizationType  # only GGUF files need it

    again = "get the file again: its copy here is incomplete or damaged"
    metadata: dict[str, Any] = {}
    with path.open("rb") as stream:
        if stream.read(4) != MAGIC:
            raise UserError(f"{path}: this is not a GGUF file", "a GGUF file begins with 'GGUF'")
        try:
            headers = _headers(stream, path, metadata)
        except (_Damaged, MemoryError, RecursionError) as reason:
            raise UserError(f"{path}: damaged GGUF file: {reason}", again) from None
        alignment = metadata.get("general.alignment", 32)
        if not isinstance(alignment, int) or not 0 < alignment <= LARGEST:
            raise UserError(f"{path}: damaged GGUF file: alignment {alignment!r}", again)
        start = -(-stream.tell() // alignment) * alignment
    contents = np.memmap(path, dtype=np.uint8, mode="r")
    tensors = {}
    for name, shape, code, offset in headers:
        try:
            kind = GGMLQuantizationType(code)
        except ValueError:
            fix = "upgrade the gguf package (pip install -U gguf), or use another quantization"
            raise UserError(f"{path}: tensor {name!r} has the unknown type {code}", fix) from None
        block, width = GGML_QUANT_SIZES[kind]
        columns, rows = shape[-1] if shape else 1, math.prod(shape[:-1])
        begin, length = start + offset, rows * (columns // block) * width
        end = begin + length
        if columns % block or not length or end > len(contents):
            said = f"tensor {name!r} ends at byte {end}, the file has {len(contents)}"
            raise UserError(f"{path}: damaged GGUF file: {said}", again)
        tensors[name] = Tensor(name, kind.name, shape, contents[begin:end].reshape(rows, -1))
    return GGUF(path, metadata, tensors)
