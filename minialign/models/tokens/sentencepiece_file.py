"""Read a SentencePiece ``tokenizer.model`` (a protocol buffer) as a fast tokenizer."""

import json
from pathlib import Path
from typing import Any

import tokenizers

from minialign.errors import UserError
from minialign.models.tokens import vocabulary

UNIGRAM, BPE = 1, 2  # TrainerSpec.model_type


def _read_proto(path: Path) -> Any:
    """The ``ModelProto`` in a file, read by what sentencepiece generates from its ``.proto``."""
    try:
        from google.protobuf.message import DecodeError
        from sentencepiece import sentencepiece_model_pb2 as generated
    except Exception as reason:  # that code refuses a protobuf older than what generated it
        said = f"{path}: sentencepiece and protobuf do not fit together: {reason}"
        raise UserError(said, "pip install --upgrade protobuf sentencepiece") from None
    try:
        proto = generated.ModelProto.FromString(path.read_bytes())  # type: ignore[attr-defined]
        if all(piece.piece for piece in proto.pieces) and proto.pieces:
            return proto
    except (DecodeError, UnicodeDecodeError):
        pass
    raise UserError(f"{path}: not a SentencePiece model, or damaged", "get the model again")


def token_text(value: Any) -> str | None:
    """The text of a token as ``tokenizer_config.json`` has it: a text, or an object with one."""
    if isinstance(value, dict):
        value = value.get("content")
    return value if isinstance(value, str) else None


def read_spm(path: Path, settings: dict[str, Any]) -> tokenizers.Tokenizer:
    """The tokenizer of a ``tokenizer.model``, with the tokens that the files beside it add.

    ``settings`` is ``tokenizer_config.json``. Llama's BOS is added by default, as Llama's own code
    does.

    Raises:
        UserError: damaged, or of another kind than BPE and unigram.
    """
    proto = _read_proto(path)
    kind, normalizer = proto.trainer_spec.model_type, proto.normalizer_spec
    if kind not in (UNIGRAM, BPE) or proto.trainer_spec.treat_whitespace_as_suffix:
        raise UserError(f"{path}: only BPE and unigram SentencePiece models can be read")
    tokens = [piece.piece for piece in proto.pieces]
    bos: Any = token_text(settings.get("bos_token", "<s>"))
    add_bos = settings.get("add_bos_token") is not False and bos in tokens
    fast = vocabulary.sentencepiece(
        tokens,
        [piece.type for piece in proto.pieces],
        [piece.score for piece in proto.pieces],
        unigram=kind == UNIGRAM,
        add_space_prefix=normalizer.add_dummy_prefix,
        remove_extra_spaces=normalizer.remove_extra_whitespaces,
        charsmap=normalizer.precompiled_charsmap,
        bos=(bos, tokens.index(bos)) if add_bos else None,
    )
    settings.setdefault("bos_token", bos)
    settings.setdefault("eos_token", "</s>" if "</s>" in tokens else None)
    _add_more(fast, path.parent, settings)
    return fast


def _add_more(fast: tokenizers.Tokenizer, folder: Path, settings: dict[str, Any]) -> None:
    """Add the tokens of ``added_tokens_decoder`` and ``added_tokens.json``, at their ids."""
    more: dict[int, tuple[str, bool]] = {}
    if (path := folder / "added_tokens.json").exists():
        for text, index in json.loads(path.read_text(encoding="utf-8")).items():
            more[int(index)] = (text, True)
    for index, entry in (settings.get("added_tokens_decoder") or {}).items():
        more[int(index)] = (entry["content"], bool(entry.get("special", True)))
    for index, (text, special) in sorted(more.items()):
        token = tokenizers.AddedToken(text, special=special, normalized=False)
        (fast.add_special_tokens if special else fast.add_tokens)([token])
        if fast.token_to_id(text) != index:
            said = f"the added token {text!r} should have the id {index}, which is not free"
            raise UserError(f"{folder}: {said}", "get the model again, with its tokenizer.json")
