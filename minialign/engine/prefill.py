"""Prompts into keys and values, each once: in chunks, in small groups, behind what they share."""

from collections.abc import Callable, Sequence

import numpy as np

from minialign.engine.answers import Request
from minialign.engine.rows import Rows

CHUNK = 512  # prompt tokens of one forward pass
SHARED = 16  # a common prefix shorter than this is not worth a pass of its own
KEPT = 8  # prefilled prompts that are held for requests to come

OnPrefill = Callable[[int, int], None]  # (prompt tokens done, prompt tokens in all)


def prefill(rows: Rows, tokens: np.ndarray, on_prefill: OnPrefill | None) -> np.ndarray:
    """Advance ``rows`` by (B, N) tokens in chunks; returns the logits (B, V) after the last."""
    step = max(1, CHUNK // len(tokens))
    for start in range(0, tokens.shape[1], step):
        logits = rows.advance(tokens[:, start : start + step])
        if on_prefill:
            on_prefill(min(start + step, tokens.shape[1]), tokens.shape[1])
    return logits


class Prompts:
    """Prefilled prompts, each computed once and kept while requests for it are waiting."""

    def __init__(self, root: Rows, waiting: Sequence[Request], on_prefill: OnPrefill | None):
        self.root = root
        self.left: dict[tuple[int, ...], int] = {}  # requests to come, by prompt
        for request in waiting:
            self.left[request.prompt] = self.left.get(request.prompt, 0) + 1
        self.ready: dict[tuple[int, ...], tuple[Rows, int, np.ndarray]] = {}
        self.prefix = root
        self.done, self.on_prefill = 0, on_prefill
        shared = shared_prefix(list(self.left))
        if len(self.left) > 1 and len(shared) >= SHARED:
            self.total = len(shared) + sum(len(prompt) - len(shared) for prompt in self.left)
            self.prefix = root.fan_out([len(shared)], len(shared))
            self._advance(self.prefix, np.array([shared]))
        else:
            self.total = sum(map(len, self.left))

    def take(self, taken: Sequence[Request]) -> tuple[list[tuple[Rows, int]], np.ndarray]:
        """(where each request's prompt is held, the logits behind it (B, V))."""
        missing = dict.fromkeys(r.prompt for r in taken if r.prompt not in self.ready)
        group: list[tuple[int, ...]] = []
        for prompt in sorted(missing, key=len):
            width = len(prompt) - self.prefix.lengths[0]
            cost = max(4 * width, len(prompt))  # passes of CHUNK tokens, rows of 4 x CHUNK in all
            if group and (self.root.most == 1 or (len(group) + 1) * cost > 4 * CHUNK):
                self._prefill(group)
                group = []
            group.append(prompt)
        if group:
            self._prefill(group)
        held = [self.ready[request.prompt] for request in taken]
        for request in taken:
            self.left[request.prompt] -= 1
            if not self.left[request.prompt]:
                self.ready.pop(request.prompt, None)
        for prompt in list(self.ready)[:-KEPT]:
            del self.ready[prompt]
        return [entry[:2] for entry in held], np.stack([entry[2] for entry in held])

    def _prefill(self, group: list[tuple[int, ...]]) -> None:
        lengths = [len(prompt) for prompt in group]
        width = max(lengths) - self.prefix.lengths[0]
        rows = self.prefix.fan_out(lengths, width)
        tokens = np.zeros((len(group), width), np.int32)
        for row, prompt in zip(tokens, group, strict=True):
            row[max(0, width - len(prompt)) :] = prompt[-width:]
        logits = self._advance(rows, tokens)
        for index, prompt in enumerate(group):
            self.ready[prompt] = (rows, index, logits[index])

    def _advance(self, rows: Rows, tokens: np.ndarray) -> np.ndarray:
        def progress(done: int, _: int) -> None:
            if self.on_prefill:
                self.on_prefill(min(self.done + done * len(tokens), self.total), self.total)

        logits = prefill(rows, tokens, progress)
        self.done += tokens.size
        return logits


def common_length(first: Sequence[int], second: Sequence[int]) -> int:
    """How many leading tokens are the same."""
    for index, (one, other) in enumerate(zip(first, second, strict=False)):
        if one != other:
            return index
    return min(len(first), len(second))


def shared_prefix(prompts: Sequence[tuple[int, ...]]) -> tuple[int, ...]:
    """What all prompts begin with, short of any whole prompt."""
    if not prompts:
        return ()
    first, last = min(prompts), max(prompts)
    return first[: min(common_length(first, last), min(map(len, prompts)) - 1)]
