"""The tokenizer inside a GGUF file, as ``tokenizer.json`` and ``tokenizer_config.json``."""

import json
from pathlib import Path
from typing import Any

from minialign.errors import UserError
from minialign.models.gguf.file import GGUF
from minialign.models.tokens import vocabulary

PREFIX = "tokenizer.ggml."
KEYS = {"bos": "bos", "eos": "eos", "unk": "unknown", "pad": "padding"}


def _tokens(gguf: GGUF) -> tuple[list[str], list[int], dict[str, tuple[str, int]]]:
    """(texts, types, the special ones by role: (text, id))."""
    tokens = list(gguf.metadata.get(PREFIX + "tokens") or [])
    if not tokens:
        fix = "convert the model again with a current llama.cpp"
        raise UserError(f"{gguf.path}: there is no vocabulary in it", fix)
    types = list(gguf.metadata.get(PREFIX + "token_type") or [vocabulary.NORMAL] * len(tokens))
    seen: set[str] = set()
    for index, token in enumerate(tokens):  # a text can stand once in a vocabulary
        if token in seen:
            tokens[index], types[index] = f"<|duplicate_{index}|>", vocabulary.UNUSED
        seen.add(tokens[index])
    roles = {}
    for role, key in KEYS.items():
        own = gguf.metadata.get(f"{PREFIX}{key}_token_id")
        if own is not None and 0 <= own < len(tokens):
            roles[role] = (tokens[own], int(own))
    return tokens, types, roles


def write_tokenizer(gguf: GGUF, folder: Path) -> None:
    """Write the two files into ``folder``.

    Raises:
        UserError: no vocabulary, or one of a kind that is not known here.
    """
    metadata = gguf.metadata
    tokens, types, roles = _tokens(gguf)
    model = metadata.get(PREFIX + "model", "")
    # llama.cpp's defaults where the file says nothing
    bos_wanted = model == "llama" or metadata.get(PREFIX + "pre") in ("llama-bpe", "llama3")
    add_bos = bool(metadata.get(PREFIX + "add_bos_token", bos_wanted)) and "bos" in roles
    bos = roles["bos"] if add_bos else None
    if model == "gpt2":
        merges, pre = metadata.get(PREFIX + "merges") or [], metadata.get(PREFIX + "pre", "default")
        tokenizer = vocabulary.byte_level_bpe(tokens, types, merges, str(pre), bos)
    elif model == "llama":
        scores = metadata.get(PREFIX + "scores")
        if not scores or len(scores) != len(tokens):
            raise UserError(f"{gguf.path}: its vocabulary has no scores", "convert it again")
        options: Any = {
            "add_space_prefix": bool(metadata.get(PREFIX + "add_space_prefix", True)),
            "remove_extra_spaces": bool(metadata.get(PREFIX + "remove_extra_whitespaces", False)),
        }
        tokenizer = vocabulary.sentencepiece(tokens, types, scores, bos=bos, **options)
    else:
        said = f"{gguf.path}: its tokenizer is of the kind {model!r}, which is not supported"
        raise UserError(said, "supported: gpt2 (byte-level BPE) and llama (SentencePiece)")
    tokenizer.save(str(folder / "tokenizer.json"))
    settings: dict[str, Any] = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "add_bos_token": add_bos,
        "clean_up_tokenization_spaces": False,
        "model_max_length": int(gguf.get("context_length", 2048)),
        **{f"{role}_token": text for role, (text, _) in roles.items()},
    }
    if template := metadata.get("tokenizer.chat_template"):
        settings["chat_template"] = template
    text = json.dumps(settings, indent=2, ensure_ascii=False)
    (folder / "tokenizer_config.json").write_text(text, encoding="utf-8")
