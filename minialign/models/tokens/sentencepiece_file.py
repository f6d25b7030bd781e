"""Read a SentencePiece ``tokenizer.model`` (a protocol buffer) as a fast tokenizer.

Format: sentencepiece_model.proto of https://github.com/google/sentencepiece. Only the fields that
encoding needs are read.
"""

import json
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import tokenizers

from minialign.errors import UserError
from minialign.models.tokens import vocabulary

UNIGRAM, BPE = 1, 2  # TrainerSpec.model_type


def _varint(data: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = data[at]
        value |= (byte & 127) << shift
        at += 1
        if byte < 128:
            return value, at
        shift += 7


def _fields(data: bytes) -> Iterator[tuple[int, Any]]:
    """(number, value) of a message's fields: int, float or bytes."""
    at = 0
    while at < len(data):
        key, at = _varint(data, at)
        kind = key & 7
        value: Any
        if kind == 0:
            value, at = _varint(data, at)
        elif kind == 5:
            value, at = struct.unpack_from("<f", data, at)[0], at + 4
        elif kind == 1:
            value, at = struct.unpack_from("<d", data, at)[0], at + 8
        elif kind == 2:
            length, at = _varint(data, at)
            value, at = data[at : at + length], at + length
            if len(value) != length:
                raise IndexError
        else:
            raise IndexError
        yield key >> 3, value


def read_spm(path: Path, settings: dict[str, Any]) -> tokenizers.Tokenizer:
    """The tokenizer of a ``tokenizer.model``, with the tokens that the files beside it add.

    ``settings`` is ``tokenizer_config.json``. Llama's BOS is added by default, as Llama's own code
    does.

    Raises:
        UserError: damaged, or of another kind than BPE and unigram.
    """
    pieces: list[tuple[str, float, int]] = []
    trainer: dict[int, Any] = {}
    normalizer: dict[int, Any] = {}
    try:
        for number, value in _fields(path.read_bytes()):
            if number == 1:
                entry = dict(_fields(value))
                pieces.append((entry[1].decode(), entry.get(2, 0.0), entry.get(3, 1)))
            elif number == 2:
                trainer = dict(_fields(value))
            elif number == 3:
                normalizer = dict(_fields(value))
    except (IndexError, struct.error, UnicodeDecodeError, KeyError, AttributeError, TypeError):
        pieces = []
    if not pieces:
        raise UserError(f"{path}: not a SentencePiece model, or damaged", "get the model again")
    kind = trainer.get(3, UNIGRAM)
    if kind not in (UNIGRAM, BPE) or trainer.get(24, 0):
        raise UserError(f"{path}: only BPE and unigram SentencePiece models can be read")
    tokens, scores, types = (list(column) for column in zip(*pieces, strict=True))
    bos: Any = settings.get("bos_token", "<s>")
    bos = bos.get("content") if isinstance(bos, dict) else bos
    add_bos = settings.get("add_bos_token") is not False and bos in tokens
    fast = vocabulary.sentencepiece(
        tokens,
        types,
        scores,
        unigram=kind == UNIGRAM,
        add_space_prefix=bool(normalizer.get(3, True)),
        remove_extra_spaces=bool(normalizer.get(4, True)),
        charsmap=normalizer.get(2, b""),
        bos=(bos, tokens.index(bos)) if add_bos else None,
    )
    settings.setdefault("bos_token", bos)
    settings.setdefault("eos_token", "</s>" if "</s>" in tokens else None)
    _add_more(fast, path.parent, settings)
    return fast


def _add_more(fast: tokenizers.Tokenizer, folder: Path, settings: dict[str, Any]) -> None:
    """Add the tokens of ``added_tokens_decoder`` and ``added_tokens.json``, at their ids."""
    more: dict[int, tuple[str, bool]] = {}
    path = folder / "added_tokens.json"
    if path.exists():
        for text, index in json.loads(path.read_text(encoding="utf-8")).items():
            more[int(index)] = (text, True)
    for index, entry in (settings.get("added_tokens_decoder") or {}).items():
        more[int(index)] = (entry["content"], bool(entry.get("special", True)))
    for index, (text, special) in sorted(more.items()):
        token = tokenizers.AddedToken(text, special=special, normalized=False)
        (fast.add_special_tokens if special else fast.add_tokens)([token])
        if fast.token_to_id(text) != index:
            raise UserError(
                f"{folder}: the added token {text!r} should have the id {index}, which is not free",
                "get the model again, with its tokenizer.json",
            )
