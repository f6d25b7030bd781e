"""The engine against mlx_lm's own generation, and against itself in other batches."""

import gc

import mlx.core as mx
import numpy as np
import pytest
from support.engines import GREEDY, streamed, theirs

from minialign import cpu
from minialign.engine import Engine, Request, Sampling
from minialign.engine.kv import BatchRows
from minialign.errors import UserError
from minialign.models.load import Model

WARM = Sampling(temperature=1.0, max_tokens=24)


def test_greedy_equals_mlx_lm(engine, tiny, prompts):
    for prompt in prompts:
        ours = streamed(engine, prompt, GREEDY)
        expected = theirs(tiny, prompt, 24)
        ends = [i + 1 for i, token in enumerate(expected) if token in tiny.tokenizer.eos_ids]
        assert ours == expected[: ends[0] if ends else 24]


@pytest.mark.parametrize("batch_size", [1, 3, 16])
@pytest.mark.parametrize("sampling", [GREEDY, WARM], ids=["greedy", "sampled"])
def test_an_answer_does_not_depend_on_its_batch(engine, prompts, batch_size, sampling):
    found = {
        (c.prompt_index, c.sample_index): c
        for c in engine.generate(prompts, sampling, n=3, seed=5, batch_size=batch_size)
    }
    assert len(found) == 15
    for (p, _), completion in found.items():
        assert completion.ids == streamed(engine, prompts[p], sampling, completion.seed)
    if sampling is WARM:
        assert len({tuple(c.ids) for c in found.values()}) == 15


def test_sixteen_rows_equal_one(engine, prompts):
    together = list(engine.generate(prompts[:1], WARM, n=16, seed=1, batch_size=16))
    alone = list(engine.generate(prompts[:1], WARM, n=16, seed=1, batch_size=1))
    by_index = {c.sample_index: c for c in together}
    assert [by_index[i].ids for i in range(16)] == [c.ids for c in alone]


def test_the_seed_of_a_sample_gives_it_again(engine, prompts):
    for c in engine.generate(prompts, WARM, n=2, seed=9):
        (again,) = engine.complete([Request(tuple(prompts[c.prompt_index]), seed=c.seed)], WARM)
        assert (again.ids, again.text) == (c.ids, c.text)


def test_a_shorter_limit_is_a_prefix(engine, prompts):
    long = streamed(engine, prompts[0], Sampling(temperature=1, max_tokens=20), 4)
    short = streamed(engine, prompts[0], Sampling(temperature=1, max_tokens=7), 4)
    assert short == long[:7]


@pytest.mark.skipif(not cpu.native(), reason="the native kernels are not built")
def test_the_native_decoder_writes_the_same_answers(tiny, prompts, monkeypatch):
    def answers(engine):
        found = {}
        for sampling in (GREEDY, WARM):
            for done in engine.generate(prompts, sampling, n=3, seed=5, batch_size=4):
                found[sampling, done.prompt_index, done.sample_index] = done.ids
            found[sampling] = [piece.id for piece in engine.stream(prompts[3], sampling, seed=7)]
        return found

    native = Engine(tiny)
    assert native._native(native._root) is not None
    graph = Engine(tiny)
    monkeypatch.setattr(graph, "_native", lambda rows: None)
    assert answers(native) == answers(graph)


def test_a_stream_stopped_early_or_by_an_error_leaves_the_engine_right(tiny, prompts):
    engine = Engine(tiny)
    expected = streamed(Engine(tiny), prompts[3], GREEDY)
    pieces = engine.stream(prompts[3], GREEDY)
    assert [next(pieces).id for _ in range(4)] == expected[:4]
    pieces.close()
    assert streamed(engine, prompts[3], GREEDY) == expected

    def stop(done: int, total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        next(engine.stream(prompts[3] * 2, GREEDY, on_prefill=stop))
    assert streamed(engine, prompts[3], GREEDY) == expected
    one, two = engine.stream(prompts[3], WARM, 1), engine.stream(prompts[3], WARM, 2)
    mixed = [(next(one).id, next(two).id) for _ in range(5)]
    assert [a for a, _ in mixed] == streamed(Engine(tiny), prompts[3], WARM, 1)[:5]
    assert [b for _, b in mixed] == streamed(Engine(tiny), prompts[3], WARM, 2)[:5]


def test_caches_grow_beyond_their_first_size(engine, tiny, prompts):
    sampling = Sampling(temperature=0, max_tokens=300)
    ours = streamed(engine, prompts[3], sampling)
    assert ours == theirs(tiny, prompts[3], len(ours))
    # Rows that come and go for longer than any of them lasts.
    many = [prompts[i % 5] for i in range(24)]
    short = Sampling(temperature=1.2, max_tokens=50)
    for c in engine.generate(many, short, seed=2, batch_size=3):
        assert c.ids == streamed(engine, many[c.prompt_index], short, c.seed)


def test_keys_and_values_are_gone_with_their_answers(engine, prompts):
    """At once, not when Python happens to look for cycles: each prompt's are many megabytes."""

    def held() -> int:
        return sum(isinstance(thing, BatchRows) for thing in gc.get_objects())

    def answers() -> None:
        streamed(engine, prompts[3], GREEDY)
        list(engine.generate(prompts, GREEDY, n=2, batch_size=3))
        engine.forget()

    answers()  # what the engine keeps for good is there now
    gc.collect()
    before = held()
    gc.disable()
    try:
        answers()
        assert held() == before > 0
    finally:
        gc.enable()


def test_cancelled_answers_come_back_as_they_are(engine, prompts):
    calls = iter(range(100))
    found = list(
        engine.generate(prompts[:3], GREEDY, batch_size=3, cancelled=lambda: next(calls) >= 5)
    )
    assert {c.finish_reason for c in found} == {"cancelled"}
    assert len(found) == 3
    for c in found:
        assert c.ids == streamed(engine, prompts[c.prompt_index], GREEDY)[: len(c.ids)]
        assert 0 < len(c.ids) < 24


def test_repetition_penalty_keeps_tokens_from_coming_again(engine, prompts):
    sampling = Sampling(temperature=0, repetition_penalty=1e6, max_tokens=20)
    for c in engine.generate(prompts, sampling, batch_size=2):
        assert len(set(c.ids)) == len(c.ids)


def test_the_context_ends_an_answer(tiny, prompts):
    small = Engine(Model(**{**vars(tiny), "config": {"max_position_embeddings": 30}}))
    limit = 30 - len(prompts[0])
    (c,) = small.generate([prompts[0]], Sampling(temperature=0, max_tokens=99))
    assert len(c.ids) == limit
    assert c.finish_reason == "length"


def test_bad_requests_are_a_users_mistake(engine, prompts):
    with pytest.raises(UserError, match="empty"):
        next(engine.stream([]))
    with pytest.raises(UserError, match="prompt 2 is empty"):
        list(engine.generate([[1], []]))
    with pytest.raises(UserError, match=r"3,000 tokens long.*2,048"):
        next(engine.stream([5] * 3000))
    with pytest.raises(UserError, match="batch size"):
        list(engine.generate(prompts, batch_size=0))
    assert list(engine.generate([])) == []


def test_log_probs_equal_the_models_own(engine, tiny, prompts):
    responses = [prompts[1], prompts[4], prompts[2], []]
    for prompt in (prompts[0], prompts[3]):
        found = engine.logps(prompt, responses)
        for value, response in zip(found, responses, strict=True):
            logits = tiny.module(mx.array([prompt + response]))[0].astype(mx.float32)
            table = np.array(logits - mx.logsumexp(logits, axis=-1, keepdims=True))
            wanted = sum(table[len(prompt) - 1 + i, t] for i, t in enumerate(response))
            assert value == pytest.approx(float(wanted), abs=2e-4)
    assert engine.logps(prompts[0], [[]]) == [0.0]
