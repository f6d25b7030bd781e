"""From records to token ids to padded arrays: which tokens are trained is decided here.

Trained are the assistant's tokens and their end of turn, but no end of a response that was cut;
never the prompt, never padding. A row is one prompt with k >= 1 responses behind it; a
demonstration of several turns is one response whose mask leaves out the user's turns.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import mlx.core as mx
import numpy as np

from minialign.records import (
    CUT,
    Demonstration,
    Message,
    Pair,
    Prompt,
    Prompted,
    Ranking,
    Rated,
    Record,
)

ROOM = 8  # tokens of the prompt that a cut must leave


class TokenizerLike(Protocol):
    """What is asked of a tokenizer here (see ``models.tokenizer.Tokenizer``)."""

    bos_id: int | None
    adds_bos: bool
    eos_ids: frozenset[int]

    def encode(self, text: str) -> list[int]: ...

    def render(self, messages: list[Message], add_generation_prompt: bool) -> list[int]: ...

    def render_text(self, messages: list[Message], add_generation_prompt: bool) -> str: ...


@dataclass(frozen=True)
class Example:
    """Token ids of one prompt and its k responses."""

    prompt: list[int]
    responses: list[list[int]]
    masks: list[list[int]]  # 1 where a response's token is trained
    source: str = ""
    cut: int = 0  # prompt tokens that were left out to fit
    meta: dict[str, Any] = field(default_factory=dict)

    @property
    def tokens(self) -> int:
        """Tokens that a forward pass of each response with its prompt reads."""
        return sum(len(self.prompt) + len(response) for response in self.responses)

    @property
    def length(self) -> int:
        """The longest prompt-with-response."""
        return len(self.prompt) + max(map(len, self.responses))


@dataclass(frozen=True)
class TooLong:
    """A row whose response alone does not fit: it is counted and named, never cut."""

    source: str
    length: int
    limit: int


def _ids(text: str, tokenizer: TokenizerLike) -> list[int]:
    return tokenizer.encode(text) if text else []


def _turn_ids(
    rest: str, text: str, tokenizer: TokenizerLike, ended: bool = True
) -> tuple[list[int], list[int]]:
    """(ids of an assistant's turn up to its end, what the template writes behind it). A turn that
    did not end stops with its text; an empty one ends, so that it has a token."""
    if not ended and (ids := _cut_ids(rest, text, tokenizer)):
        return ids, []
    ids = _ids(rest, tokenizer)
    ends = [i for i, token in enumerate(ids) if token in tokenizer.eos_ids]
    if ends:
        return ids[: ends[-1] + 1], ids[ends[-1] + 1 :]
    ids = _ids(rest or text, tokenizer)
    return [*ids, _end_id(tokenizer)], []


def _cut_ids(rest: str, text: str, tokenizer: TokenizerLike) -> list[int]:
    said = text if text in rest else text.strip()  # a template may strip it
    return _ids(rest[: rest.index(said) + len(said)] if said in rest else text, tokenizer)


def _end_id(tokenizer: TokenizerLike) -> int:
    # Of a model's end tokens the end of a text has the lowest id, ends of turns came later.
    return min(tokenizer.eos_ids)


def encode_prompt(prompt: Prompt, tokenizer: TokenizerLike) -> list[int]:
    """The ids a model sees before it answers: the chat template with its generation prompt."""
    return tokenizer.render(prompt, True)


def encode_response(
    prompt: Prompt, response: str, tokenizer: TokenizerLike, ended: bool = True
) -> list[int]:
    """The ids of a response with its end of turn, exactly as they follow ``encode_prompt``; without
    it when the response was cut before it ended."""
    head = tokenizer.render_text(prompt, True)
    whole = tokenizer.render_text([*prompt, {"role": "assistant", "content": response}], False)
    rest = whole[len(head) :] if whole.startswith(head) else response
    return _turn_ids(rest, response, tokenizer, ended)[0]


def _fit(prompt: Prompt, room: int, tokenizer: TokenizerLike) -> tuple[list[int], int]:
    """(ids of a prompt, how many were left out): cut from the left to at most ``room``.

    Whole messages go first, the oldest first, a system message last of all; then tokens.
    """
    full = encode_prompt(prompt, tokenizer)
    kept, ids = list(prompt), full
    while len(ids) > room:
        droppable = [i for i, message in enumerate(kept[:-1]) if message["role"] != "system"]
        if not droppable:
            break
        del kept[droppable[0]]
        # A conversation does not begin with an answer to a question that is gone.
        while len(kept) > droppable[0] + 1 and kept[droppable[0]]["role"] == "assistant":
            del kept[droppable[0]]
        ids = encode_prompt(kept, tokenizer)
    if len(ids) > room:
        ids = _cut_left(ids, room, tokenizer)
    return ids, len(full) - len(ids)


def _cut_left(ids: list[int], room: int, tokenizer: TokenizerLike) -> list[int]:
    """The last ``room`` ids, a BOS before them counted."""
    start = ids[:1] if ids[0] == tokenizer.bos_id else []
    return start + ids[len(ids) - (room - len(start)) :]


def _demonstration(
    row: Demonstration, tokenizer: TokenizerLike, limit: int, train_on: str
) -> Example | TooLong:
    if row.messages[0]["role"] == "text":
        start = [tokenizer.bos_id] if tokenizer.adds_bos and tokenizer.bos_id is not None else []
        ids = start + _ids(row.messages[0]["content"], tokenizer) + [_end_id(tokenizer)]
        if len(ids) > limit:
            return TooLong(row.source, len(ids), limit)
        return Example(ids[:1], [ids[1:]], [[1] * (len(ids) - 1)], row.source)
    dropped = 0
    messages = list(row.messages)
    ended = not CUT.intersection(row.finish_reasons or [])
    prompt, ids, mask = _turns(messages, train_on, tokenizer, ended)
    full = len(prompt) + len(ids)
    while len(prompt) + len(ids) > limit:
        # Leave out the oldest exchange, while a trained turn remains behind it.
        first = next((i for i, message in enumerate(messages) if message["role"] != "system"), 0)
        later = [i for i in range(first + 1, len(messages)) if messages[i]["role"] == "user"]
        if not later:
            break
        dropped += sum(message["role"] == "assistant" for message in messages[first : later[0]])
        del messages[first : later[0]]
        prompt, ids, mask = _turns(messages, train_on, tokenizer, ended)
    if len(prompt) + len(ids) > limit:
        room = limit - len(ids)
        if room < ROOM:
            return TooLong(row.source, len(prompt) + len(ids), limit)
        prompt = _cut_left(prompt, room, tokenizer)
    cut = full - len(prompt) - len(ids)
    return Example(prompt, [ids], [mask], row.source, cut, {"dropped_turns": dropped})


def _turns(
    messages: list[Message], train_on: str, tokenizer: TokenizerLike, ended: bool
) -> tuple[list[int], list[int], list[int]]:
    """(prompt ids before the first trained turn, the ids after it, their mask); ``ended`` is of the
    last message."""
    done = ""  # the text written so far
    pending: list[int] = []  # ids since the last trained turn
    ids: list[int] = []
    mask: list[int] = []
    prompt: list[int] | None = None
    turns = [i for i, message in enumerate(messages) if message["role"] == "assistant"]
    for turn in turns if train_on == "all" else turns[-1:]:
        head = tokenizer.render_text(messages[:turn], True)
        whole = tokenizer.render_text(messages[: turn + 1], False)
        between = head[len(done) :] if head.startswith(done) else head
        pending += _ids(between, tokenizer)
        rest = whole[len(head) :] if whole.startswith(head) else messages[turn]["content"]
        whole_turn = ended or turn < len(messages) - 1
        turn_ids, behind = _turn_ids(rest, messages[turn]["content"], tokenizer, whole_turn)
        if prompt is None:
            # the same ids, with the BOS that a template may leave to the tokenizer
            prompt = tokenizer.render(messages[:turn], True)
        else:
            ids += pending
            mask += [0] * len(pending)
        ids += turn_ids
        mask += [1] * len(turn_ids)
        pending, done = list(behind), whole
    return prompt or [], ids, mask


def encode(
    row: Record, tokenizer: TokenizerLike, max_length: int, train_on: str = "all"
) -> Example | TooLong:
    """Token ids and masks of a record.

    A prompt too long is cut from the left, at message boundaries where possible; a response is
    never cut: a row whose responses do not fit is ``TooLong``.

    Args:
        max_length: most tokens of a prompt with one response.
        train_on: "all" assistant turns of a demonstration, or the "last".
    """
    meta: dict[str, Any]
    match row:
        case Demonstration():
            return _demonstration(row, tokenizer, max_length, train_on)
        case Pair():
            texts = [row.chosen, row.rejected]
            meta = {"margin": row.margin or 0.0}
        case Ranking():
            texts, meta = list(row.responses), {"scores": row.scores}
        case Rated():
            texts, meta = [row.response], {"good": row.good}
        case Prompted():
            raise TypeError("a prompt without a response is not trained on")
    ends = zip(texts, row.finish_reasons or [""] * len(texts), strict=True)
    coded = [encode_response(row.prompt, text, tokenizer, end not in CUT) for text, end in ends]
    longest = max(map(len, coded))
    if longest + ROOM > max_length:
        return TooLong(row.source, longest, max_length)
    prompt, cut = _fit(row.prompt, max_length - longest, tokenizer)
    return Example(prompt, coded, [[1] * len(ids) for ids in coded], row.source, cut, meta)


def index_batches(
    lengths: Sequence[int], batch_size: int, seed: int, epoch: int
) -> list[list[int]]:
    """Every row once: rows of like length together, batches in random order.

    The order depends on ``(seed, epoch)`` alone, so a resumed run sees the same rows.
    """
    random = np.random.default_rng((seed, epoch))
    order = random.permutation(len(lengths))
    order = order[np.argsort(-(-np.asarray(lengths)[order] // 32), kind="stable")]
    cut = [order[i : i + batch_size].tolist() for i in range(0, len(order), batch_size)]
    return [cut[i] for i in random.permutation(len(cut))]


def endless(lengths: Sequence[int], batch_size: int, seed: int) -> Iterator[list[int]]:
    """Index batches of one epoch after the other."""
    epoch = 0
    while True:
        yield from index_batches(lengths, batch_size, seed, epoch)
        epoch += 1


@dataclass
class Batch:
    """Padded arrays of B prompts and the N = sum of k responses behind them."""

    prompts: mx.array  # (B, P) int32, right-padded
    prompt_lengths: mx.array  # (B,)
    responses: mx.array  # (N, R) int32, right-padded
    mask: mx.array  # (N, R) float32, 1 on trained tokens
    prompt_of: mx.array  # (N,) which prompt a response answers
    examples: list[Example]
    extra: dict[str, mx.array] = field(default_factory=dict)  # reference log-probs, margins…

    @property
    def size(self) -> int:
        """How many examples."""
        return len(self.examples)

    @property
    def trained_tokens(self) -> int:
        """How many tokens carry a loss."""
        return sum(sum(mask) for example in self.examples for mask in example.masks)


def round_up(count: int, multiple: int) -> int:
    """The first multiple that is no less than ``count``."""
    return -(-count // multiple) * multiple


def _padded(rows: Sequence[Sequence[int]], multiple: int) -> np.ndarray:
    out = np.zeros((len(rows), round_up(max(map(len, rows)), multiple)), np.int32)
    for row, values in zip(out, rows, strict=True):
        row[: len(values)] = values
    return out


def collate(examples: list[Example], multiple: int = 16) -> Batch:
    """Arrays of some examples; widths are multiples of ``multiple``, so that shapes are few."""
    responses = [response for example in examples for response in example.responses]
    masks = [mask for example in examples for mask in example.masks]
    owners = [i for i, example in enumerate(examples) for _ in example.responses]
    return Batch(
        prompts=mx.array(_padded([example.prompt for example in examples], multiple)),
        prompt_lengths=mx.array([len(example.prompt) for example in examples]),
        responses=mx.array(_padded(responses, multiple)),
        mask=mx.array(_padded(masks, multiple).astype(np.float32)),
        prompt_of=mx.array(owners),
        examples=examples,
    )
