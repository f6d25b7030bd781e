"""What the engine computes: each prefix once, full batches, chunks, the last position's logits."""

from typing import Any

import mlx.core as mx
import numpy as np
from support.engines import GREEDY, TEXTS, streamed, theirs

from minialign.engine import Engine, Sampling
from minialign.models.load import Model


class Counting:
    """Passes calls through to a backbone and notes the shape of every input."""

    def __init__(self, inner: Any):
        self.inner = inner
        self.shapes: list[tuple[int, int]] = []

    def __call__(self, tokens: mx.array, cache: Any = None) -> mx.array:
        self.shapes.append(tuple(tokens.shape))
        return self.inner(tokens, cache=cache)


def counted(model: Model) -> tuple[Engine, Counting]:
    """An engine whose forward passes are counted (the load-time probes are not)."""
    engine = Engine(model)
    engine._native = lambda rows: None  # the native decoder makes no forward passes
    assert engine._split is not None
    engine._batch_root  # noqa: B018  the probe of ragged batches
    counter = Counting(engine._split[0])
    head = engine._split[1]
    engine._root.forward = lambda tokens, cache: head(counter(tokens, cache)[:, -1:])[:, -1]
    return engine, counter


def test_samples_share_one_prefill(tiny, prompts):
    engine, counter = counted(tiny)
    sampling = Sampling(temperature=1, max_tokens=6)
    assert len(list(engine.generate(prompts[3:4], sampling, n=40, batch_size=8))) == 40
    prefills = [shape for shape in counter.shapes if shape[1] > 1]
    assert prefills == [(1, len(prompts[3]))]
    assert max(rows for rows, _ in counter.shapes) == 8


def test_a_common_prefix_is_computed_once(tiny):
    engine, counter = counted(tiny)
    system = tiny.tokenizer.encode("the quick brown fox jumps over the lazy dog. " * 4)
    prompts = [system + tiny.tokenizer.encode(text) for text in TEXTS[:3]]
    together = list(engine.generate(prompts, GREEDY))
    computed = sum(rows * width for rows, width in counter.shapes if width > 1)
    longest = max(map(len, prompts)) - len(system)
    assert computed <= len(system) + 3 * longest
    for c in together:
        assert c.ids == streamed(Engine(tiny), prompts[c.prompt_index], GREEDY)


def test_rows_behind_a_shared_prefix_get_the_logits_each_gets_alone(engine, prompts):
    root, prefix = engine._root, prompts[3]
    alone = []
    for prompt in prompts:
        row = root.fan_out([len(prefix) + len(prompt)], len(prefix) + len(prompt))
        first = row.advance(np.array([prefix + prompt]))[0]
        alone.append((first, row.advance(np.array([[7]]))[0]))
    held = root.fan_out([len(prefix)], len(prefix))
    held.advance(np.array([prefix]))
    width = max(map(len, prompts))
    rows = held.fan_out([len(prefix) + len(prompt) for prompt in prompts], width)
    tokens = np.array([(prefix + prompt)[-width:] for prompt in prompts])
    behind = rows.advance(tokens)
    assert rows.lengths == [len(prefix) + len(prompt) for prompt in prompts]
    # Rows turned round, one of them twice, and one put in another's place.
    mixed = rows.assemble([(rows, i) for i in (4, 3, 2, 1, 0, 0)])
    assert mixed.replace(5, rows, 2)
    after = mixed.advance(np.full((6, 1), 7))
    for at, (first, second) in enumerate(alone):
        np.testing.assert_allclose(behind[at], first, atol=1e-4)
        np.testing.assert_allclose(after[4 - at], second, atol=1e-4)
    np.testing.assert_allclose(after[5], alone[2][1], atol=1e-4)


def test_finished_rows_leave_and_waiting_ones_take_their_place(tiny, prompts):
    engine, counter = counted(tiny)
    list(engine.generate(prompts, Sampling(temperature=1.5, max_tokens=60), n=6, batch_size=4))
    steps = [rows for rows, width in counter.shapes if width == 1]
    assert max(steps) == 4
    # All but the tail of the queue runs with full batches.
    assert sum(rows == 4 for rows in steps) > 0.6 * len(steps)
    assert min(steps) < 4


def test_long_prompts_go_in_chunks_with_progress(tiny):
    engine, counter = counted(tiny)
    prompt = tiny.tokenizer.encode("the lazy dog jumps. " * 240)
    seen: list[tuple[int, int]] = []
    pieces = engine.stream(prompt, GREEDY, on_prefill=lambda *at: seen.append(at))
    first = next(pieces)
    pieces.close()
    assert len(prompt) > 1024
    assert max(width for _, width in counter.shapes) == 512
    assert seen[-1] == (len(prompt), len(prompt))
    assert len(seen) == -(-len(prompt) // 512)
    assert first.id == theirs(tiny, prompt, 1)[0]


def test_logits_are_computed_for_the_last_position_only(tiny):
    engine = Engine(tiny)
    backbone, head = engine._split
    widths = []

    def counting_head(hidden: mx.array) -> mx.array:
        widths.append(hidden.shape[1])
        return head(hidden)

    from minialign.engine.rows import last_logits

    engine._root.forward = last_logits(tiny.module, (backbone, counting_head))
    list(engine.generate([[5] * 40, [6] * 30], Sampling(temperature=0, max_tokens=3)))
    assert set(widths) == {1}


def test_a_model_without_a_separate_head_gives_the_same(engine, tiny, prompts):
    from minialign.engine.rows import last_logits

    whole = Engine(tiny)
    whole._split, whole._forward = None, last_logits(tiny.module, None)
    for prompt in prompts:
        assert streamed(whole, prompt, GREEDY) == streamed(engine, prompt, GREEDY)
    responses = [prompts[1], prompts[2], []]
    np.testing.assert_allclose(
        whole.logps(prompts[0], responses), engine.logps(prompts[0], responses), atol=1e-4
    )


def test_the_next_turn_computes_only_what_is_new(tiny, prompts):
    engine, counter = counted(tiny)
    prompt = prompts[3]
    answer = streamed(engine, prompt, Sampling(temperature=0, max_tokens=10))
    counter.shapes.clear()
    longer = [*prompt, *answer, *prompts[0]]
    second = streamed(engine, longer, GREEDY)
    # The last token of the answer was drawn but never fed.
    assert counter.shapes[0] == (1, len(prompts[0]) + 1)
    assert second == streamed(Engine(tiny), longer, GREEDY)
    counter.shapes.clear()
    again = streamed(engine, longer, GREEDY)  # the same prompt: one token to get its logits
    assert counter.shapes[0] == (1, 1)
    assert again == second
    engine.forget()
    counter.shapes.clear()
    assert streamed(engine, longer, GREEDY) == second
    assert counter.shapes[0] == (1, len(longer))
