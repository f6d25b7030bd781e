"""A model's tokenizer and chat template, without transformers."""

import hashlib
import json
from collections.abc import Sequence
from itertools import dropwhile
from pathlib import Path
from typing import Any

import tokenizers

from minialign.errors import UserError
from minialign.models.tokens import template
from minialign.models.tokens.sentencepiece_file import read_spm, token_text

# Tokens that end a turn or a text, in the models people use here; those that a vocabulary has as
# tokens of their own all stop generation.
END_NAMES = ("im_end", "eot_id", "eom_id", "end_of_text", "endoftext", "end", "end_of_turn", "eot")
ENDS = {"<end_of_turn>", *(f"<|{name}|>" for name in END_NAMES)}
ROLES = ("bos_token", "eos_token", "unk_token", "pad_token")


class Tokenizer:
    """Text to ids and back, and messages to ids.

    Attributes:
        bos_id, eos_ids, pad_id, vocab_size: special ids, and how many ids there are.
        template: the model's own chat template; None when it has none and the fallback is used.
        template_hash: identifies the template that is in use.
        adds_bos: whether the model wants a BOS before every text.
        hidden_ids: special tokens, which ``decode`` leaves out.
        byte_ids: tokens that stand for one byte.
    """

    def __init__(
        self,
        fast: tokenizers.Tokenizer,
        settings: dict[str, Any],
        chat_template: str | None,
        end_ids: Sequence[int] = (),
    ):
        fast.no_truncation()  # some files have their training's limits in them
        fast.no_padding()
        self.fast = fast
        self.template = chat_template
        self._source = chat_template or template.FALLBACK
        self.template_hash = hashlib.sha256(self._source.encode()).hexdigest()[:16]
        special = {role: token_text(settings.get(role)) for role in ROLES}
        self.special = {role: text for role, text in special.items() if text is not None}
        self.vocab_size: int = fast.get_vocab_size(with_added_tokens=True)
        self.bos_id: int | None = self._id("bos_token")
        added = fast.get_added_tokens_decoder().items()
        ends = {*end_ids, *(index for index, token in added if token.content in ENDS)}
        if (eos := self._id("eos_token")) is not None:
            ends.add(eos)
        self.eos_ids = frozenset(ends)
        pad = self._id("pad_token")
        self.pad_id: int = pad if pad is not None else eos if eos is not None else 0
        self.hidden_ids = frozenset(index for index, token in added if token.special)
        # Bytes of SentencePiece's fallback: decoded by whole runs, so a run must have ended.
        pieces = (f"<0x{value:02X}>" for value in range(256))
        self.byte_ids = frozenset(filter(None, map(fast.token_to_id, pieces)))
        adds_bos = settings.get("add_bos_token")
        if adds_bos is None:
            adds_bos = fast.encode("a", add_special_tokens=True).ids[:1] == [self.bos_id]
        self.adds_bos = self.bos_id is not None and adds_bos is True

    @staticmethod
    def load(folder: Path) -> "Tokenizer":
        """The tokenizer of a model folder.

        Raises:
            UserError: no tokenizer in the folder, or a damaged one.
        """
        settings = _json(folder / "tokenizer_config.json")
        for role, value in _json(folder / "special_tokens_map.json").items():
            settings.setdefault(role, value)
        beside = _json(folder / "chat_template.json")
        given = [template.choose_template(one.get("chat_template")) for one in (settings, beside)]
        source = given[0] if given[0] is not None else given[1]
        if (jinja := folder / "chat_template.jinja").exists():
            source = jinja.read_text(encoding="utf-8")
        ends: set[int] = set()
        for name in ("config.json", "generation_config.json"):
            value = _json(folder / name).get("eos_token_id")
            ends.update(value if isinstance(value, list) else [] if value is None else [value])
        return Tokenizer(_fast(folder, settings), settings, source, sorted(ends))

    def _id(self, role: str) -> int | None:
        return self.fast.token_to_id(self.special[role]) if role in self.special else None

    def encode(self, text: str) -> list[int]:
        """Ids of a text; special tokens written in it are themselves, none is added."""
        return self.fast.encode(text, add_special_tokens=False).ids

    def decode(self, ids: Sequence[int], skip_special: bool = True) -> str:
        """The text of ids."""
        return self.fast.decode(list(ids), skip_special_tokens=skip_special)

    def render_text(self, messages: list[dict[str, Any]], add_generation_prompt: bool) -> str:
        """The chat template's text for these messages."""
        special = {"bos_token": "", "eos_token": "", **self.special}
        return template.render(self._source, messages, add_generation_prompt, special)

    def render(self, messages: list[dict[str, Any]], add_generation_prompt: bool) -> list[int]:
        """Ids of the chat template's text, with exactly one BOS where the model wants one."""
        ids = self.encode(self.render_text(messages, add_generation_prompt))
        if self.bos_id is None or not self.adds_bos:
            return ids
        return [self.bos_id, *dropwhile(self.bos_id.__eq__, ids)]

    def stream(self, skip_special: bool = True) -> "Detokenizer":
        """A detokenizer for one answer."""
        return Detokenizer(self, skip_special)


HELD = 64  # most ids that wait for the rest of a character


class Detokenizer:
    """Text of ids that come one by one; what it gave, joined, is ``decode`` of all the ids.

    (One exception: SentencePiece decodes a run of byte tokens to nothing but U+FFFD when any byte
    in it is wrong. Of a run longer than ``HELD``, only the part that waits is.)
    """

    def __init__(self, tokenizer: Tokenizer, skip_special: bool):
        self._tokenizer = tokenizer
        self._skip = skip_special
        self._ids: list[int] = []  # the ids that the next text depends on
        self._given = 0  # how many of them were given out

    def _text(self, ids: list[int]) -> str:
        return self._tokenizer.decode(ids, self._skip)

    def add(self, token: int) -> str:
        """The text that is certain now: never half a character, so it may be empty."""
        if self._skip and token in self._tokenizer.hidden_ids:
            return ""
        self._ids.append(token)
        if len(self._ids) - self._given >= HELD:
            return self._force()
        if token in self._tokenizer.byte_ids:
            return ""
        before, now = self._text(self._ids[: self._given]), self._text(self._ids)
        if now.endswith("\ufffd") or len(now) <= len(before):
            return ""
        # From here on the ids given now are the context of the next ones.
        self._ids, self._given = self._ids[self._given :], len(self._ids) - self._given
        return now[len(before) :]

    def _force(self) -> str:
        """The text of all but the last few ids, a character of theirs perhaps being unfinished."""
        before, now = self._text(self._ids[: self._given]), self._text(self._ids)
        ends = [len(self._ids) - left for left in range(4)]
        cuts = [(self._ids[:end], self._ids[end:]) for end in ends]
        whole = [cut for cut in cuts if not self._text(cut[0]).endswith("\ufffd")]
        apart = [cut for cut in cuts[1:] if self._text(cut[0]) + self._text(cut[1]) == now]
        head, rest = (whole + apart + cuts)[0]
        # The ids given now are no context: bytes would be decoded together with the next ones.
        self._ids = [*self._ids[: self._given], *rest]
        return self._text(head)[len(before) :]

    def finish(self) -> str:
        """The rest: bytes that never became a character are shown as U+FFFD."""
        before, now = self._text(self._ids[: self._given]), self._text(self._ids)
        self._given = len(self._ids)
        return now[len(before) :]

    def whole(self, ids: Sequence[int]) -> str:
        """The text that ``add`` and ``finish`` give for all these ids, made at once: faster."""
        text = self._text(list(ids))
        # Only where something is no character can the two differ, see above.
        return "".join(map(self.add, ids)) + self.finish() if "\ufffd" in text else text


def _json(path: Path) -> dict[str, Any]:
    if not path.exists():
        return {}
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as reason:
        raise UserError(f"{path}: {reason}", "get the model again: this file is damaged") from None
    return value if isinstance(value, dict) else {}


def _fast(folder: Path, settings: dict[str, Any]) -> tokenizers.Tokenizer:
    path = folder / "tokenizer.json"
    if path.exists():
        try:
            return tokenizers.Tokenizer.from_file(str(path))
        except Exception as reason:  # the library raises bare Exception for a bad file
            raise UserError(f"{path}: {reason}", "get the model again") from None
    if (folder / "tokenizer.model").exists():
        return read_spm(folder / "tokenizer.model", settings)
    fix = "a model folder needs one of them; copy it from the model it was made of"
    raise UserError(f"{folder}: no tokenizer.json and no tokenizer.model", fix)
