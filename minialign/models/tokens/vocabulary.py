"""Build a fast tokenizer (``tokenizers``) from a bare vocabulary: byte-level BPE or SentencePiece.

Two sources have a vocabulary and no ``tokenizer.json``: a GGUF file's metadata, and a
SentencePiece ``tokenizer.model``. What is built splits text exactly as the original does; it is
saved as ``tokenizer.json``, which every other program reads too.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, processors
from tokenizers import pre_tokenizers as splitters

from minialign.errors import UserError, nearest

# GGUF's and SentencePiece's types of a vocabulary entry (the numbers are the same)
NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = 1, 2, 3, 4, 5, 6

# The patterns of llama.cpp's unicode pre-tokenizers, by the names in ``tokenizer.ggml.pre``.
GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
LLAMA3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
QWEN2 = LLAMA3.replace(r"\p{N}{1,3}", r"\p{N}")


@dataclass(frozen=True)
class Splitting:
    """How text is cut into words before BPE."""

    patterns: tuple[str, ...]  # each cuts what the one before left
    digits: bool = False  # every digit is a word of its own, before the patterns
    ignore_merges: bool = False  # a word that is a token is that token, whatever the merges say
    nfc: bool = False  # composed characters first


SPLITTINGS = {
    **dict.fromkeys(("gpt-2", "gpt2", "phi-2", "olmo", "mpt", "roberta-bpe"), Splitting((GPT2,))),
    **dict.fromkeys(
        ("smollm", "starcoder", "refact", "command-r", "codeshell", "exaone"),
        Splitting((GPT2,), digits=True),
    ),
    **dict.fromkeys(("llama-bpe", "llama3", "llama-v3"), Splitting((LLAMA3,), ignore_merges=True)),
    **dict.fromkeys(("smaug-bpe", "dbrx"), Splitting((LLAMA3,))),
    **dict.fromkeys(("qwen2", "deepseek-r1-qwen"), Splitting((QWEN2,), nfc=True)),
    "stablelm2": Splitting((QWEN2,)),
    "default": Splitting((r"[\p{P}\$\+<=>\^~\|]+", GPT2, r"\p{N}+", r"[0-9][0-9][0-9]")),
}


def _add_tokens(tokenizer: Tokenizer, tokens: Sequence[str], types: Sequence[int]) -> None:
    """Mark control tokens as special, and user-defined ones as never split."""
    for kind, special in ((CONTROL, True), (UNKNOWN, True), (USER_DEFINED, False)):
        texts = [text for text, its in zip(tokens, types, strict=True) if its == kind and text]
        added = [AddedToken(text, special=special, normalized=False) for text in texts]
        (tokenizer.add_special_tokens if special else tokenizer.add_tokens)(added)


def _add_bos(tokenizer: Tokenizer, bos: tuple[str, int] | None) -> None:
    if bos is not None:
        text = bos[0]
        pair = [text, "$A", f"{text}:1", "$B:1"]
        before = [tokenizer.post_processor] if tokenizer.post_processor else []
        begin = processors.TemplateProcessing([text, "$A"], pair, special_tokens=[bos])
        tokenizer.post_processor = processors.Sequence([*before, begin])


def byte_level_bpe(
    tokens: Sequence[str],
    types: Sequence[int],
    merges: Sequence[str],
    splitting: str,
    bos: tuple[str, int] | None,
) -> Tokenizer:
    """A GPT-2 style tokenizer. ``merges`` are "left right"; ``bos`` is put before a text.

    Raises:
        UserError: a splitting that is not known here.
    """
    if splitting not in SPLITTINGS:
        said = (
            f"the pre-tokenizer {splitting!r} is not known here: {nearest(splitting, SPLITTINGS)}"
        )
        fix = "take the model's tokenizer.json from its hub page: minialign models pull ORG/REPO"
        raise UserError(said, fix)
    rules = SPLITTINGS[splitting]
    vocabulary = {token: index for index, token in enumerate(tokens)}
    pairs = []
    for merge in merges:
        left, _, right = merge.partition(" ")
        if " " in right:  # the left part begins with a space; does not happen in byte-level BPE
            raise UserError(f"the vocabulary has a merge of more than two parts: {merge!r}")
        pairs.append((left, right))
    model = models.BPE(vocab=vocabulary, merges=pairs, ignore_merges=rules.ignore_merges)
    tokenizer = Tokenizer(model)
    if rules.nfc:
        tokenizer.normalizer = normalizers.NFC()
    steps: list[Any] = [splitters.Digits(individual_digits=True)] if rules.digits else []
    built_in = rules.patterns == (GPT2,)  # ByteLevel has this pattern itself
    if not built_in:
        steps += [splitters.Split(Regex(text), "isolated") for text in rules.patterns]
    steps.append(splitters.ByteLevel(add_prefix_space=False, use_regex=built_in))
    tokenizer.pre_tokenizer = splitters.Sequence(steps)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.post_processor = processors.ByteLevel(trim_offsets=False)
    _add_bos(tokenizer, bos)
    _add_tokens(tokenizer, tokens, types)
    return tokenizer


def spm_merges(tokens: Sequence[str], scores: Sequence[float]) -> list[tuple[str, str]]:
    """The merges that make BPE join what SentencePiece's BPE joins: every way to cut a piece in
    two known pieces, best score first (SentencePiece joins the pair whose result scores best)."""
    ids = {token: index for index, token in enumerate(tokens)}
    scored = [
        (-score, ids[left], ids[right], left, right)
        for piece, score in zip(tokens, scores, strict=True)
        for cut in range(1, len(piece))
        if (left := piece[:cut]) in ids and (right := piece[cut:]) in ids
    ]
    return [(left, right) for *_, left, right in sorted(scored)]


def sentencepiece(
    tokens: Sequence[str],
    types: Sequence[int],
    scores: Sequence[float],
    *,
    unigram: bool = False,
    add_space_prefix: bool = True,
    remove_extra_spaces: bool = False,
    charsmap: bytes = b"",
    bos: tuple[str, int] | None = None,
) -> Tokenizer:
    """A SentencePiece tokenizer (BPE, or unigram) with byte fallback where it has byte pieces.

    ``charsmap`` is the model's compiled normalizer, empty for identity.
    """
    unknown = types.index(UNKNOWN) if UNKNOWN in types else None
    fallback = BYTE in types
    if unigram:
        scored = list(zip(tokens, scores, strict=True))
        model: Any = models.Unigram(scored, unk_id=unknown, byte_fallback=fallback)
    else:
        joined = (NORMAL, USER_DEFINED, UNUSED)
        pieces = {text for text, its in zip(tokens, types, strict=True) if its in joined and text}
        merges = [pair for pair in spm_merges(tokens, scores) if pieces.issuperset(pair)]
        model = models.BPE(
            vocab={token: index for index, token in enumerate(tokens)},
            merges=merges,
            unk_token=None if unknown is None else tokens[unknown],
            fuse_unk=True,
            byte_fallback=fallback,
        )
    tokenizer = Tokenizer(model)
    steps: list[Any] = [normalizers.Precompiled(charsmap)] if charsmap else []
    if remove_extra_spaces:
        steps.append(normalizers.Replace(Regex(r"\A +|[ ▁]+\z"), ""))
        steps.append(normalizers.Replace(Regex(" {2,}"), " "))
    if add_space_prefix:
        steps.append(normalizers.Prepend("▁"))
    steps.append(normalizers.Replace(" ", "▁"))
    tokenizer.normalizer = normalizers.Sequence(steps)
    back: list[Any] = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    if add_space_prefix:
        back.append(decoders.Strip(" ", 1, 0))
    tokenizer.decoder = decoders.Sequence(back)
    _add_bos(tokenizer, bos)
    _add_tokens(tokenizer, tokens, types)
    return tokenizer
