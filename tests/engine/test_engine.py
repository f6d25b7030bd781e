"""The engine against mlx_lm's own generation, and against itself in other batches."""

import gc
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import pytest

from minialign import cpu
from minialign.engine import Engine, Request, Sampling
from minialign.engine.kv import BatchRows
from minialign.errors import UserError
from minialign.models.load import Model, load

GREEDY = Sampling(temperature=0, max_tokens=24)
WARM = Sampling(temperature=1.0, max_tokens=24)
TEXTS = [
    "the quick brown fox",
    "yes",
    "no no no no no",
    "jumps over the lazy dog and then the dog jumps over the fox. " * 3,
    "héllo 🦊 wörld",
]


@pytest.fixture(scope="module")
def tiny(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Model]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MINIALIGN_HOME", str(tmp_path_factory.mktemp("home")))
        yield load(str(tiny_model))


@pytest.fixture
def engine(tiny: Model) -> Engine:
    return Engine(tiny)


@pytest.fixture
def prompts(tiny: Model) -> list[list[int]]:
    return [tiny.tokenizer.encode(text) for text in TEXTS]


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


def theirs(model: Model, prompt: list[int], count: int) -> list[int]:
    """Greedy tokens of mlx_lm's own loop, end tokens not minded."""
    from mlx_lm.generate import generate_step

    steps = generate_step(mx.array(prompt), model.module, max_tokens=count)
    return [int(token) for token, _ in steps]


def streamed(engine: Engine, prompt: list[int], sampling: Sampling, seed: int = 0) -> list[int]:
    return [piece.id for piece in engine.stream(prompt, sampling, seed)]


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


def scripted(tiny: Model, ids: list[int]) -> Engine:
    """An engine of a model that says these ids whatever it reads, then the end token."""
    engine = Engine(tiny)
    script = [*ids, min(tiny.tokenizer.eos_ids)]

    class Says:
        most, length, said = 1, 0, 0

        @property
        def lengths(self) -> list[int]:
            return [self.length]

        def advance(self, tokens: np.ndarray) -> np.ndarray:
            self.length += tokens.shape[1]
            logits = np.full((1, 320), -10.0, np.float32)
            logits[0, script[self.said]] = 10.0
            self.said += 1
            return logits

        def fan_out(self, lengths: Any, width: int) -> "Says":
            return Says()

        def assemble(self, parts: Any) -> "Says":
            return parts[0][0]

        def truncate(self, length: int) -> int:
            return 0

    engine._root = engine._batch_root = Says()  # type: ignore[misc]
    return engine


@pytest.mark.parametrize(
    ("text", "stop", "wanted"),
    [
        ("the quick brown fox", ("brown",), "the quick "),
        ("the quick brown fox", ("fox", "quick b"), "the "),
        ("yes\nno\nyes", ("\n",), "yes"),
        ("aaaab", ("aab",), "aa"),
        ("one two", ("two three",), "one two"),  # held back, then given after all
        ("one 🦊🦊 two", ("🦊 ",), "one 🦊"),
        ("one", ("one",), ""),
    ],
)
def test_stop_strings_straddle_tokens(tiny, text, stop, wanted):
    ids = tiny.tokenizer.encode(text)
    assert len(ids) > 2
    sampling = Sampling(temperature=0, stop=stop)
    pieces = list(scripted(tiny, ids).stream([1], sampling))
    assert "".join(piece.text for piece in pieces) == wanted
    cut = wanted != text
    assert pieces[-1].finish_reason == ("stop_string" if cut else "stop")
    assert all(piece.finish_reason is None for piece in pieces[:-1])


def test_streamed_text_never_has_half_a_character(tiny):
    text = "naïve 👩‍👩‍👧 日本語 🇫🇷 e\u0301 ok"
    ids = tiny.tokenizer.encode(text)
    shown = [piece.text for piece in scripted(tiny, ids).stream([1], Sampling(temperature=0))]
    assert "".join(shown) == text
    assert not any("\ufffd" in part for part in shown)
    cut = list(scripted(tiny, ids).stream([1], Sampling(temperature=0, max_tokens=len(ids) - 9)))
    assert cut[-1].finish_reason == "length"
    assert not any("\ufffd" in piece.text for piece in cut[:-1])


@pytest.mark.parametrize("cut", range(7))  # the last ones are in the middle of a character
def test_a_text_made_at_the_end_is_the_streamed_one(tiny, cut):
    ids = tiny.tokenizer.encode("naïve 👩‍👩‍👧 日本語 ok")
    for stop in ((), ("never said",)):  # a stop string needs the text piece by piece
        sampling = Sampling(temperature=0, max_tokens=len(ids) + 1 - cut, stop=stop)
        shown = [piece.text for piece in scripted(tiny, ids).stream([1], sampling)]
        (whole,) = scripted(tiny, ids).complete([Request((1,))], sampling)
        assert whole.text == "".join(shown)
        assert whole.finish_reason == ("length" if cut else "stop")
        assert (cut > 4) == whole.text.endswith("\ufffd")


def test_end_token_and_finish_reasons_are_kept(tiny):
    ids = tiny.tokenizer.encode("yes no")
    end = min(tiny.tokenizer.eos_ids)
    (stopped,) = scripted(tiny, ids).complete([Request((1,))], Sampling(temperature=0))
    assert (stopped.ids, stopped.text, stopped.finish_reason) == ([*ids, end], "yes no", "stop")
    (cut,) = scripted(tiny, ids).complete([Request((1,))], Sampling(temperature=0, max_tokens=2))
    assert (cut.ids, cut.finish_reason) == (ids[:2], "length")


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


def _variant(folder: Path, tiny_model: Path, config: dict[str, Any], module: Any) -> Path:
    """A model folder of another architecture with the tiny tokenizer."""
    from mlx.utils import tree_flatten

    folder.mkdir()
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (folder / name).write_bytes((tiny_model / name).read_bytes())
    (folder / "config.json").write_text(json.dumps(config))
    mx.save_safetensors(
        str(folder / "model.safetensors"),
        dict(tree_flatten(module.parameters())),
        metadata={"format": "mlx"},
    )
    return folder


def test_sliding_windows_run_row_by_row_with_the_models_own_cache(
    tiny_model, tmp_path, home, prompts
):
    from mlx_lm.models import llama

    config = json.loads((tiny_model / "config.json").read_text())
    del config["quantization"]
    config |= {"layer_types": ["full_attention", "sliding_attention"], "sliding_window": 8}
    module = llama.Model(llama.ModelArgs.from_dict(config))
    model = load(str(_variant(tmp_path / "sliding", tiny_model, config, module)))
    engine = Engine(model)
    assert engine._root.most == 1
    found = list(engine.generate(prompts, GREEDY, n=2))
    assert len(found) == 10
    for c in found:
        expected = theirs(model, prompts[c.prompt_index], 24)
        assert c.ids == expected[: len(c.ids)]
        assert len(c.ids) == 24 or c.ids[-1] in model.tokenizer.eos_ids
    longer = prompts[3] + streamed(engine, prompts[3], GREEDY) + prompts[0]
    assert streamed(engine, longer, GREEDY) == streamed(Engine(model), longer, GREEDY)


def test_a_model_that_cannot_take_ragged_batches_is_noticed(tiny_model, tmp_path, home, prompts):
    from mlx_lm.models import gpt_bigcode

    config = {
        "model_type": "gpt_bigcode", "n_embd": 32, "n_head": 2, "n_layer": 2, "n_inner": 64,
        "n_positions": 256, "layer_norm_epsilon": 1e-5, "vocab_size": 320,
    }  # fmt: skip
    mx.random.seed(3)
    module = gpt_bigcode.Model(gpt_bigcode.ModelArgs.from_dict(config))
    model = load(str(_variant(tmp_path / "bigcode", tiny_model, config, module)))
    engine = Engine(model)
    assert engine._batch_root.most == 1
    assert engine.context == 256
    for c in engine.generate(prompts, GREEDY):
        assert c.ids == theirs(model, prompts[c.prompt_index], 24)[: len(c.ids)]


@pytest.mark.model
def test_the_embedded_model_answers_the_same_in_any_batch(embedded_model):
    engine = Engine(load(str(embedded_model)))
    texts = ["What is the capital of France?", "Write a poem about the sea 🌊.", "Name a fruit."]
    prompts = [engine.tokenizer.render([{"role": "user", "content": text}], True) for text in texts]
    greedy = Sampling(temperature=0, max_tokens=12)
    assert "Paris" in "".join(piece.text for piece in engine.stream(prompts[0], greedy))
    for sampling in (greedy, Sampling(temperature=0.9, top_p=0.95, max_tokens=12)):
        for c in engine.generate(prompts, sampling, n=2, seed=3):
            assert c.ids == streamed(engine, prompts[c.prompt_index], sampling, c.seed)
