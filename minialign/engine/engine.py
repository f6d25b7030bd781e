"""The one door to a loaded model for inference: stream, sample n, log-probs. Ids in, ids out.

A prompt is prefilled once for all its samples, and what prompts have in common once for all of
them; finished rows leave the batch and waiting ones take their place. What a row becomes depends on
its prompt and its seed, not on the batch (up to the float noise of differently shaped matmuls).
An engine belongs to one thread. How rows advance is in ``rows`` and ``kv``, prompts in ``prefill``,
how a token is drawn in ``next_token``, when an answer ends in ``answers``.
"""

from collections import deque
from collections.abc import Callable, Generator, Iterator, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from minialign import cpu
from minialign.engine.answers import Answer, Completion, Piece, Request, draw, requests
from minialign.engine.kv import BatchRows
from minialign.engine.native import NativeRows
from minialign.engine.prefill import OnPrefill, Prompts, common_length, prefill
from minialign.engine.rows import OneRow, Rows, Writing, last_logits, ragged_agrees
from minialign.errors import UserError
from minialign.learn.batch import Example, collate
from minialign.learn.forward import response_logps
from minialign.learn.policy import Policy, make_policy
from minialign.models.module import split_head
from minialign.sampling import Sampling

if TYPE_CHECKING:
    from minialign.models.load import Model


class Engine:
    """A loaded model, for inference."""

    def __init__(self, model: "Model"):
        self.model = model
        self.tokenizer = model.tokenizer
        self._split = split_head(model.module)
        self._forward = last_logits(model.module, self._split)
        self._kept: tuple[list[int], Rows] | None = None  # of the last stream

    def __repr__(self) -> str:
        return f"Engine({self.model.name})"

    @property
    def context(self) -> int | None:
        """Most tokens of prompt and answer together, where the model says so."""
        return self.context_of(self.model.config)

    @staticmethod
    def context_of(config: dict[str, Any]) -> int | None:
        """The context that a model's config states; None where it says nothing."""
        for settings in (config, config.get("text_config", {})):
            for key in ("max_position_embeddings", "n_positions"):
                if settings.get(key):
                    return settings[key]
        return None

    def forget(self) -> None:
        """Drop the keys and values kept for the next turn; needed when the weights change."""
        self._kept = None

    def stream(
        self,
        prompt_ids: Sequence[int],
        sampling: Sampling | None = None,
        seed: int = 0,
        on_prefill: OnPrefill | None = None,
    ) -> Generator[Piece, None, None]:
        """The pieces of one answer as they are drawn; closing the iterator stops it.

        What this prompt has in common with the last stream's prompt and answer is not computed
        again. ``on_prefill`` may raise to stop in the middle of a long prompt.
        """
        sampling = sampling or Sampling()
        self._check([prompt_ids])
        tokens = list(prompt_ids)
        rows, held = self._resume(tokens)
        answer = self._answer(Request(tuple(tokens), seed=seed), sampling, by_piece=True)
        whole = False  # whether the rows hold what they say
        try:
            logits = prefill(rows, np.array([tokens[held:]]), on_prefill)
            writing: Writing = rows
            if (native := self._native(rows)) is not None:
                writing = native.assemble([(rows, 0)])  # type: ignore[list-item]
            while True:
                whole = True
                (piece,) = draw([answer], logits, sampling)
                tokens.append(piece.id)
                yield piece
                if piece.finish_reason:
                    return
                whole = False
                logits = writing.advance(np.array([[piece.id]]))
        finally:
            if whole:
                self._kept = (tokens[: rows.lengths[0]], rows)

    def generate(
        self,
        prompts: Sequence[Sequence[int]],
        sampling: Sampling | None = None,
        n: int = 1,
        seed: int = 0,
        batch_size: int = 16,
        on_prefill: OnPrefill | None = None,
        cancelled: Callable[[], bool] = lambda: False,
    ) -> Iterator[Completion]:
        """n answers to each prompt, in the order in which they finish."""
        waiting = requests(prompts, n, seed)
        return self.complete(waiting, sampling, batch_size, on_prefill, cancelled)

    def complete(
        self,
        waiting: Sequence[Request],
        sampling: Sampling | None = None,
        batch_size: int = 16,
        on_prefill: OnPrefill | None = None,
        cancelled: Callable[[], bool] = lambda: False,
    ) -> Iterator[Completion]:
        """An answer to each request, in the order in which they finish.

        When ``cancelled`` turns true the answers being written come back as they are, with the
        finish reason "cancelled", and the iterator ends.
        """
        sampling = sampling or Sampling()
        if batch_size < 1:
            raise UserError(f"batch size is {batch_size}", "it must be 1 or more")
        self._check([request.prompt for request in waiting])
        root = self._root if len(waiting) == 1 or batch_size == 1 else self._batch_root
        rows: Writing = self._native(root) or root
        slots: list[Answer] = []
        most = min(batch_size, rows.most)
        queue = deque(waiting)
        prompts = Prompts(root, list(waiting), on_prefill)
        by_piece = bool(sampling.stop)  # else nothing looks at a text before it is whole
        while queue or slots:
            if cancelled():
                yield from (answer.completion() for answer in slots if not answer.finish_reason)
                return
            slots_free = most - sum(not answer.finish_reason for answer in slots)
            fresh: list[tuple[Answer, tuple[Rows, int]]] = []
            while queue and slots_free:
                taken = [queue.popleft() for _ in range(min(slots_free, len(queue)))]
                sources, logits = prompts.take(taken)
                answers = [self._answer(request, sampling, by_piece) for request in taken]
                draw(answers, logits, sampling)
                for answer, source in zip(answers, sources, strict=True):
                    if answer.finish_reason:
                        yield answer.completion()
                    else:
                        fresh.append((answer, source))
                        slots_free -= 1
            rows, slots = _place(rows, slots, fresh)
            del fresh
            if not slots:
                continue
            logits = rows.advance(np.array([[answer.ids[-1]] for answer in slots]))
            draw(slots, logits, sampling)
            yield from (answer.completion() for answer in slots if answer.finish_reason)

    def logps(self, prompt_ids: Sequence[int], responses: Sequence[Sequence[int]]) -> list[float]:
        """The log-prob of each response behind the prompt, summed over its tokens, float32; the
        prompt is computed once, by the very code that training uses."""
        self._check([prompt_ids])
        full = [list(ids) for ids in responses if len(ids)]
        if not full:
            return [0.0] * len(responses)
        masks = [[1] * len(ids) for ids in full]
        sums, _ = response_logps(self.policy, collate([Example(list(prompt_ids), full, masks)]))
        values = iter(np.array(sums, np.float64))
        return [float(next(values)) if len(ids) else 0.0 for ids in responses]

    @cached_property
    def policy(self) -> Policy:
        """The model as ``forward`` sees it, for log-probs without a backward pass."""
        return make_policy(self.model, gradient=False)

    def _check(self, prompts: Sequence[Sequence[int]]) -> None:
        self.model.module.eval()  # no dropout in an adapter
        for index, ids in enumerate(prompts):
            if not len(ids):
                which = f"prompt {index + 1}" if len(prompts) > 1 else "the prompt"
                raise UserError(f"{which} is empty", "give it some text")
            if self.context and len(ids) >= self.context:
                said = f"prompt {index + 1} is {len(ids):,} tokens long; {self.model.name} reads at"
                said += f" most {self.context:,}, the answer included"
                raise UserError(said, "shorten the prompt")

    def _answer(self, request: Request, sampling: Sampling, by_piece: bool) -> Answer:
        room = (self.context or 2**62) - len(request.prompt)
        limit, detokenizer = min(sampling.max_tokens, room), self.tokenizer.stream()
        return Answer(request, sampling, limit, self.tokenizer.eos_ids, detokenizer, by_piece)

    def _native(self, rows: Rows) -> NativeRows | None:
        """Rows in the native decoder, where there is one, for prompts that ``rows`` have read."""
        decoder = cpu.decoder(self.model.module) if isinstance(rows, BatchRows) else None
        return None if decoder is None else NativeRows(decoder)

    @cached_property
    def _root(self) -> Rows:
        """A single row without tokens, from which all rows come."""
        from mlx_lm.models.cache import KVCache, make_prompt_cache  # mlx_lm takes 2 s to import

        module: Any = self.model.module
        if all(type(cache) is KVCache for cache in make_prompt_cache(module)):
            return BatchRows(self._forward, len(make_prompt_cache(module)))
        return OneRow(self._forward, lambda: make_prompt_cache(module))

    @cached_property
    def _batch_root(self) -> Rows:
        """``_root``, where rows of different lengths in a batch get the logits that each gets alone
        (tried on a few tokens); else rows that come one at a time."""
        root = self._root
        if root.most == 1 or ragged_agrees(root):
            return root
        from mlx_lm.models.cache import make_prompt_cache

        return OneRow(self._forward, lambda: make_prompt_cache(self.model.module))

    def _resume(self, tokens: list[int]) -> tuple[Rows, int]:
        """(a row that holds the first tokens, how many), from the last stream where they agree."""
        kept, self._kept = self._kept, None  # two streams at once never share a row
        if kept is not None:
            held = kept[1].truncate(min(common_length(kept[0], tokens), len(tokens) - 1))
            if held:
                return kept[1], held
        return self._root.fan_out([0], 0), 0


def _place(
    rows: Writing, slots: list[Answer], fresh: Sequence[tuple[Answer, tuple[Rows, int]]]
) -> tuple[Writing, list[Answer]]:
    """Replace finished answers by fresh ones: in place where a row fits, which copies one row; else
    all rows are laid out anew."""
    slots = list(slots)
    free = [index for index, answer in enumerate(slots) if answer.finish_reason]
    rest = []
    for answer, source in fresh:
        if free and rows.replace(free[-1], *source):
            slots[free.pop()] = answer
        else:
            rest.append((answer, source))
    if not free and not rest:
        return rows, slots
    kept: list[tuple[Answer, tuple[Writing, int]]] = [
        (answer, (rows, i)) for i, answer in enumerate(slots) if not answer.finish_reason
    ]
    kept += rest
    if not kept:
        return rows, []
    return rows.assemble([source for _, source in kept]), [answer for answer, _ in kept]
