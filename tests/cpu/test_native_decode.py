"""The native decoding step against the model it reads, run token by token through MLX."""

import itertools

import mlx.core as mx
import mlx.nn as nn
import pytest
from support.native_reference import assert_close, needs_native
from test_native_modules import ROPE_SCALING, tiny_llama

from minialign import cpu

pytestmark = needs_native


@pytest.fixture(autouse=True)
def exact_logits():
    mx.random.seed(3)


def prepared(**options) -> nn.Module:
    """A tiny model whose heads are 16 wide."""
    return cpu.prepare(tiny_llama(**options))


def qwen2(bits: tuple[int, ...] = (4,), groups: tuple[int, ...] = (32,)) -> nn.Module:
    """With biases; ``bits`` and ``groups`` go round its layers."""
    from mlx_lm.models import qwen2

    mx.random.seed(0)
    args = qwen2.ModelArgs(
        model_type="qwen2",
        hidden_size=64,
        num_hidden_layers=2,
        intermediate_size=96 if max(groups) < 64 else 192,
        num_attention_heads=4,
        num_key_value_heads=2,
        rms_norm_eps=1e-6,
        vocab_size=100,
    )
    model = qwen2.Model(args)
    for _, module in model.named_modules():
        if isinstance(module, nn.Linear) and "bias" in module:
            module.bias = mx.random.normal(module.bias.shape)
    turn, group = itertools.cycle(bits), itertools.cycle(groups)

    def how(path: str, module: nn.Module) -> bool | dict:
        if not hasattr(module, "to_quantized"):
            return False
        return {"group_size": next(group), "bits": next(turn)}

    nn.quantize(model, class_predicate=how)
    return cpu.prepare(model)


def with_lora(model: nn.Module, rank: int = 5) -> nn.Module:
    from mlx_lm.tuner.utils import linear_to_lora_layers

    linear_to_lora_layers(model, 2, {"rank": rank, "scale": 2.0, "dropout": 0.0})
    for _, module in model.named_modules():
        if "lora_b" in module:
            module.lora_b = 0.2 * mx.random.normal(module.lora_b.shape)
    cpu.adapted(model)
    return model


def prefill(decode, tokens, rows: int = 1, chunk: int = 512) -> mx.array:
    """Run a prompt through the model, add ``rows`` rows that go on with it; its last logits."""
    from mlx_lm.models.cache import KVCache

    model = decode.model
    cache = [KVCache() for _ in model.layers]
    for start in range(0, len(tokens), chunk):
        logits = model(mx.array([list(tokens[start : start + chunk])]), cache)
        mx.eval(logits, [c.keys_and_values() for c in cache])
    keys, values = zip(*(c.keys_and_values() for c in cache), strict=True)
    decode.load_prefix(keys, values, rows)
    return logits[0, -1]


def decoder(model: nn.Module):
    from minialign.cpu.decode import Decoder

    assert Decoder.supports(model)
    return Decoder(model)


MODELS = {
    "4 bits": lambda: prepared(),
    "8 bits, untied": lambda: prepared(bits=8, tie=False),
    "float32": lambda: prepared(bits=2),  # two bits go to the pure path
    "biases": lambda: prepared(attention_bias=True, mlp_bias=True),
    "interleaved rope": lambda: prepared(rope_traditional=True),
    "llama 3 rope": lambda: prepared(rope_scaling=ROPE_SCALING, max_position_embeddings=512),
    "qwen2": qwen2,
    "4 bits, 8 and float32": lambda: qwen2((4, 8, 2, 8, 4)),
    "the same with lora": lambda: with_lora(qwen2((8, 4, 4, 2, 8, 4))),
    "groups of 64": lambda: qwen2(groups=(64,)),
    "8 bits in groups of 64": lambda: qwen2((8,), (64,)),
    "groups of 64 and 32 with lora": lambda: with_lora(qwen2((4, 4, 8), (64, 32, 64, 64))),
    "lora": lambda: with_lora(prepared()),
    "lora on biases": lambda: with_lora(prepared(attention_bias=True)),
}


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("rows", [1, 2, 3, 11, 20, 40])
def test_logits_equal_the_models(name: str, rows: int) -> None:
    """A shared prompt, then different tokens in every row, across the end of a page."""
    model = MODELS[name]()
    prompt = mx.random.randint(0, 100, (60,)).tolist()
    answers = mx.random.randint(0, 100, (rows, 8))
    decode = decoder(model)
    first = prefill(decode, prompt, rows=rows)
    whole = mx.concatenate([mx.broadcast_to(mx.array(prompt), (rows, 60)), answers], axis=1)
    expected = model(whole)
    assert_close(first, expected[0, 59], "after the prompt")
    for i in range(8):
        logits = decode.step(answers[:, i].tolist())
        assert_close(logits, expected[:, 60 + i], f"token {i}")
    assert decode.lengths == [68] * rows


def test_from_nothing_and_over_several_pages() -> None:
    model = prepared()
    tokens = mx.random.randint(0, 100, (2, 140))
    decode = decoder(model)
    decode.load_prefix([], [], rows=2)
    logits = mx.stack([decode.step(tokens[:, i].tolist()) for i in range(140)], axis=1)
    assert_close(logits, model(tokens), "140 tokens one by one")


def test_long_contexts_are_read_in_parts() -> None:
    model = prepared()
    prompt = mx.random.randint(0, 100, (700,)).tolist()
    decode = decoder(model)
    prefill(decode, prompt, chunk=256)
    assert_close(decode.step([7])[0], model(mx.array([[*prompt, 7]]))[0, -1], "after 700 tokens")


@pytest.mark.parametrize("kv_heads", [1, 2, 4])
def test_rows_of_several_prompts_share_what_each_prompt_has(kv_heads: int) -> None:
    """Three prompts of different lengths, one of them with a single row, over more pages each than
    one task reads; then some rows leave, and two of those that shared are apart."""
    model = prepared(kv_heads=kv_heads)
    prompts = [mx.random.randint(0, 100, (size,)).tolist() for size in (330, 40, 64)]
    decode = decoder(model)
    rows = []
    for prompt, samples in zip(prompts, (3, 1, 2), strict=True):
        prefill(decode, prompt, rows=samples)
        rows += [list(prompt) for _ in range(samples)]
    for count in range(40):
        if count == 20:
            kept = [5, 0, 3, 2]
            decode.keep(kept)
            rows = [rows[i] for i in kept]
        tokens = mx.random.randint(0, 100, (len(rows),)).tolist()
        logits = decode.step(tokens)
        for row, token in zip(rows, tokens, strict=True):
            row.append(token)
        if count % 13 == 0 or count in (20, 21):
            for row, mine in zip(rows, logits, strict=True):
                assert_close(mine, model(mx.array([row]))[0, -1], f"{len(row)} tokens")


def test_rows_leave_move_and_fork() -> None:
    model = prepared()
    decode = decoder(model)
    prefill(decode, [1, 2, 3], rows=2)
    prefill(decode, list(range(70)))
    assert decode.lengths == [3, 3, 70]
    decode.step([4, 5, 6])
    decode.keep([2, 0, 2])  # one left, one moved, one forked
    assert len(decode) == 3
    logits = decode.step([7, 8, 9])
    for row, tokens in enumerate([[*range(70), 6, 7], [1, 2, 3, 4, 8], [*range(70), 6, 9]]):
        assert_close(logits[row], model(mx.array([tokens]))[0, -1], f"row {row}")
    decode.keep([])
    assert decode.step([]).shape == (0, 100)


def test_a_past_of_its_own_for_each_row() -> None:
    model = prepared()
    tokens = mx.random.randint(0, 100, (3, 20))
    cache = model.make_cache()
    mx.eval(model(tokens, cache=cache))
    decode = decoder(model)
    pasts = [c.keys_and_values() for c in cache]
    decode.load_prefix([k for k, _ in pasts], [v for _, v in pasts], rows=3)
    more = mx.array([[1], [2], [3]])
    expected = model(mx.concatenate([tokens, more], axis=1))[:, -1]
    assert_close(decode.step([1, 2, 3]), expected, "three pasts")


def test_what_it_does_not_support() -> None:
    from minialign.cpu.decode import Decoder

    assert not Decoder.supports(tiny_llama())  # not prepared
    sliding = prepared(sliding_window=8, layer_types=["full_attention", "sliding_attention"])
    assert not Decoder.supports(sliding)
    with pytest.raises(ValueError, match="sliding"):
        Decoder(sliding)


def test_wrong_tokens_are_refused() -> None:
    decode = decoder(prepared())
    prefill(decode, [1, 2], rows=2)
    with pytest.raises(ValueError, match="one token a row"):
        decode.step([1])
    with pytest.raises(ValueError, match="vocabulary"):
        decode.step([1, 100])
