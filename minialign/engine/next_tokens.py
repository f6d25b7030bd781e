"""How likely a few given tokens are to come next, after each of many prompts.

Nothing is generated and no logits are held but those of the positions that are asked for. What all
prompts begin with (a judge's instructions) is computed once and kept; what the prompts of a group
share behind that (the question, of which two answers are shown in both orders) once a group. The
result does not depend on the other prompts, up to the float noise of differently shaped matmuls.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import mlx.core as mx
import numpy as np

from minialign import cpu
from minialign.engine.engine import Engine
from minialign.engine.prefill import SHARED, common_length, shared_prefix
from minialign.errors import UserError
from minialign.learn.forward import WORTH
from minialign.learn.prompt_cache import Behind, Recorder
from minialign.models.adapter import named_arrays

# Of one forward pass, padding included; a single group may have more. On a CPU two answers in both
# orders mostly fill a pass, and rows of different lengths in one would only pad each other.
TOKENS = 512

Ids = Sequence[int]


class Onward(Recorder):
    """A cache that goes on behind keys and values (1, H, P, D) that all rows share."""

    def __init__(self, head: Recorder, length: int):
        super().__init__()
        self.head = head
        self.offset = length

    def update_and_fetch(self, keys: mx.array, values: mx.array) -> tuple[mx.array, mx.array]:
        return super().update_and_fetch(
            self._behind(self.head.keys, keys), self._behind(self.head.values, values)
        )

    def _behind(self, old: mx.array | None, new: mx.array) -> mx.array:
        assert old is not None
        shape = (*new.shape[:2], self.offset, new.shape[3])
        return mx.concatenate([mx.broadcast_to(old[:, :, : self.offset], shape), new], axis=2)

    def make_mask(
        self, length: int, return_array: bool = False, window_size: int | None = None
    ) -> Any:
        whole = self.offset + length
        if not return_array and (window_size is None or whole <= window_size):
            return "causal"
        return super().make_mask(whole, True, window_size)[self.offset :]


class NextTokens:
    """Reads an engine's model; keeps what the prompts begin with from one call to the next."""

    def __init__(self, engine: Engine):
        self.engine = engine
        self.policy = engine.policy
        self.computed = 0  # tokens that went through the model, padding included
        self.needed = 0  # tokens of all prompts, as if each had been computed alone
        self._head: tuple[int, ...] = ()
        self._kept: list[Recorder] = []
        self._weights: list[mx.array] = []  # that those are of

    def logps(
        self, groups: Sequence[Sequence[Ids]], wanted: Ids, last: int = 1
    ) -> Iterator[tuple[int, np.ndarray]]:
        """For each group, as it is computed: (which group, log-probs (prompts, last, wanted)).

        Args:
            groups: prompts as token ids; those of a group run together.
            wanted: the tokens whose log-probs are asked for.
            last: how many positions at a prompt's end are read; ``[:, -1]`` says what comes next.

        Raises:
            UserError: when a prompt does not fit into the model's context.
        """
        self._check(groups)
        head = self._shared_head(groups, last)
        taken: dict[int, Sequence[Ids]] = {}
        widest = rows = 0
        for index, group in enumerate(groups):
            longest = max(map(len, group)) - head
            if taken and (rows + len(group)) * max(widest, longest) > TOKENS:
                yield from self._batch(taken, head, wanted, last)
                taken, widest, rows = {}, 0, 0
            taken[index] = group
            widest, rows = max(widest, longest), rows + len(group)
        if taken:
            yield from self._batch(taken, head, wanted, last)
        mx.clear_cache()  # every length has buffers of its own

    def _check(self, groups: Sequence[Sequence[Ids]]) -> None:
        self.engine.model.module.eval()  # no dropout in an adapter
        longest = max((len(ids) for group in groups for ids in group), default=0)
        if self.engine.context and longest > self.engine.context:
            most = f"{self.engine.model.name} reads at most {self.engine.context:,}"
            fix = "shorten the texts, or take a model with a longer context"
            raise UserError(f"a prompt of {longest:,} tokens; {most}", fix)

    def _shared_head(self, groups: Sequence[Sequence[Ids]], last: int) -> int:
        """How many tokens all prompts begin with; their keys and values are in ``_kept``."""
        weights = list(named_arrays(self.policy.module.parameters()).values())
        if list(map(id, weights)) != list(map(id, self._weights)):  # it was trained since
            self._head, self._kept, self._weights = (), [], weights
        prompts = [tuple(ids) for group in groups for ids in group]
        if not self.policy.share_prompts or not prompts:
            return 0
        shared = shared_prefix(prompts)[: min(map(len, prompts)) - last]
        held = common_length(self._head, shared)
        # A longer one (all answers to one question) is worth its pass when it saves more.
        if held >= SHARED and (len(groups) - 1) * (len(shared) - held) <= len(shared):
            return held
        if len(shared) < SHARED:
            return 0
        self._kept = [Recorder() for _ in range(self.policy.layers)]
        self.policy.backbone(mx.array([shared]), cache=self._kept)
        mx.eval([(recorder.keys, recorder.values) for recorder in self._kept])
        self._head = shared
        self.computed += len(shared)
        return len(shared)

    def _batch(
        self, taken: dict[int, Sequence[Ids]], head: int, wanted: Ids, last: int
    ) -> Iterator[tuple[int, np.ndarray]]:
        """What ``logps`` gives, for some of the groups."""
        groups = list(taken.values())
        rows = [list(ids[head:]) for group in groups for ids in group]
        owners = [i for i, group in enumerate(groups) for _ in group]
        self.needed += sum(len(row) + head for row in rows)
        shared = [self._common([ids[head:] for ids in group], last) for group in groups]
        rests = [row[shared[owner] :] for row, owner in zip(rows, owners, strict=True)]
        apart = len(rows) * max(map(len, rows))
        together = len(groups) * max(shared) + len(rows) * max(map(len, rests))
        caches: list[Any] | None = None
        if self.policy.share_prompts and head:
            caches = [Onward(kept, head) for kept in self._kept]
        if together <= (1 - WORTH) * apart:
            firsts = [rows[owners.index(i)][: shared[i]] for i in range(len(groups))]
            before: list[Any] = caches or [Recorder() for _ in range(self.policy.layers)]
            self.policy.backbone(self._pad(firsts), cache=before)
            where = mx.array(owners)
            lengths = mx.array([head + shared[owner] for owner in owners])
            caches = [Behind(one.keys[where], one.values[where], lengths) for one in before]
            rows = rests
        hidden = self.policy.backbone(self._pad(rows), cache=caches)
        at = mx.array([[len(row) - last + k for k in range(last)] for row in rows])
        read = hidden[mx.arange(len(rows))[:, None], at]
        logits = self.policy.head(read.reshape(-1, read.shape[-1])).astype(mx.float32)
        logps = logits[:, mx.array(list(wanted))] - cpu.logsumexp(logits)[:, None]
        of_rows = iter(np.array(logps, np.float64).reshape(len(rows), last, len(wanted)))
        for index, group in taken.items():
            yield index, np.stack([next(of_rows) for _ in group])

    def _common(self, prompts: list[Ids], last: int) -> int:
        """How many tokens the prompts of a group share, each keeping ``last`` of its own."""
        if not self.policy.share_prompts or len(prompts) < 2:
            return 0
        common = min(common_length(prompts[0], other) for other in prompts[1:])
        common = min(common, min(map(len, prompts)) - last)
        return common if common >= SHARED else 0

    def _pad(self, rows: list[list[int]]) -> mx.array:
        width = max(map(len, rows))
        self.computed += width * len(rows)
        return mx.array([row + [0] * (width - len(row)) for row in rows])
