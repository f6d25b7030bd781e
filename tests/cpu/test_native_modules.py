"""A prepared model on the native kernels against the same model on the pure path."""

import copy
import gc
import os
import subprocess
import sys
import weakref

import mlx.core as mx
import mlx.nn as nn
import pytest
from mlx.utils import tree_flatten
from support.native_reference import assert_close, needs_native

from minialign import cpu

pytestmark = needs_native

llama = pytest.importorskip("mlx_lm.models.llama")


def tiny_llama(bits: int = 4, tie: bool = True, kv_heads: int = 2, **options) -> nn.Module:
    mx.random.seed(0)
    args = llama.ModelArgs(
        model_type="llama",
        hidden_size=64,
        num_hidden_layers=2,
        intermediate_size=96,
        num_attention_heads=4,
        num_key_value_heads=kv_heads,
        rms_norm_eps=1e-5,
        vocab_size=100,
        tie_word_embeddings=tie,
        **options,
    )
    model = llama.Model(args)
    nn.quantize(model, group_size=32, bits=bits)
    return model


def pure_copy(model: nn.Module) -> nn.Module:
    from minialign.cpu import pure

    return pure.prepare(copy.deepcopy(model))


def on_the_stock_functions(function, *args):
    """Runs `function` while every native module and hook believes it is not on the CPU."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(mx, "default_device", lambda: mx.Device(mx.DeviceType.gpu, 0))
        result = function(*args)
    mx.eval(result)
    return result


ROPE_SCALING = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"bits": 8, "tie": False},
        {"attention_bias": True},
        {"rope_traditional": True},
        {"rope_scaling": ROPE_SCALING, "max_position_embeddings": 512},
    ],
)
def test_logits_equal_the_pure_path(options: dict) -> None:
    model = tiny_llama(**options)
    tokens = mx.random.randint(0, 100, (3, 40))
    expected = on_the_stock_functions(pure_copy(model), tokens)
    prepared = cpu.prepare(model)
    assert type(prepared.layers[0].self_attn.q_proj).__module__ == "minialign.cpu.modules"
    assert_close(prepared(tokens), expected, "logits")
    cache = prepared.make_cache()
    steps = [prepared(tokens[:, :30], cache=cache)]
    steps += [prepared(tokens[:, i : i + 1], cache=cache) for i in range(30, 40)]
    assert_close(mx.concatenate(steps, axis=1), expected, "logits through a cache")


def test_weights_stay_as_they_were_stored() -> None:
    model = tiny_llama()
    before = dict(tree_flatten(model.parameters()))
    after = dict(tree_flatten(cpu.prepare(model).parameters()))
    assert before.keys() == after.keys()
    assert all(mx.array_equal(before[name], after[name]).item() for name in before)
    assert all(isinstance(m, nn.QuantizedLinear) for m in [model.layers[0].self_attn.q_proj])


def test_lora_gradients_equal_the_pure_path() -> None:
    from mlx_lm.tuner.utils import linear_to_lora_layers

    from minialign.learn import selected_logps

    model = tiny_llama()
    pure = pure_copy(model)
    cpu.prepare(model)
    tokens = mx.random.randint(0, 100, (2, 30))
    for each in (model, pure):
        each.freeze()
        mx.random.seed(1)
        linear_to_lora_layers(each, 2, {"rank": 4, "scale": 2.0, "dropout": 0.0})
        for name, module in each.named_modules():
            if "lora_b" in module:
                module.lora_b = 0.1 * mx.random.normal(
                    module.lora_b.shape, key=mx.random.key(len(name))
                )
    cpu.adapted(model)
    assert type(model.layers[0].mlp.up_proj).__module__ == "minialign.cpu.lora"

    def native_loss(model: nn.Module) -> mx.array:
        hidden = model.model(tokens[:, :-1]).reshape(-1, 64)
        head = model.model.embed_tokens.as_linear
        return -selected_logps.selected_logps(hidden, head, tokens[:, 1:].reshape(-1)).mean()

    def pure_loss(model: nn.Module) -> mx.array:
        return nn.losses.cross_entropy(model(tokens[:, :-1]), tokens[:, 1:]).mean()

    loss, grads = nn.value_and_grad(model, native_loss)(model)
    expected, expected_grads = on_the_stock_functions(nn.value_and_grad(pure, pure_loss), pure)
    assert_close(loss, expected, "loss")
    ours, reference = dict(tree_flatten(grads)), dict(tree_flatten(expected_grads))
    assert ours.keys() == reference.keys()
    assert len(ours) == 28
    for name, gradient in ours.items():
        assert_close(gradient, reference[name], name, scale=1e-3)


def adapted_attention() -> nn.Module:
    from minialign.models.adapter import Lora, attach

    model = cpu.prepare(tiny_llama())
    attach(model, Lora(rank=4))
    for _, module in model.named_modules():
        if "lora_b" in module:
            module.lora_b = 0.1 * mx.random.normal(module.lora_b.shape)
    return model.layers[0].self_attn


NAMES = ("q_proj", "k_proj", "v_proj")


def stock(layer: nn.Module, x: mx.array) -> mx.array:
    return layer.linear(x) + layer.scale * ((x @ layer.lora_a) @ layer.lora_b)


@pytest.mark.parametrize("order", [NAMES, NAMES[::-1], ("q_proj", "q_proj", "k_proj", "v_proj")])
def test_siblings_give_what_each_gives_alone(order: tuple) -> None:
    attention = adapted_attention()
    x, other = mx.random.normal((9, 64)), mx.random.normal((5, 64))
    for name in order:
        assert_close(attention[name](x), stock(attention[name], x), name)
    for name in NAMES:  # inputs in turn
        assert_close(attention[name](other), stock(attention[name], other), name)
        assert_close(attention[name](x), stock(attention[name], x), name)


def test_a_sibling_whose_weights_changed_is_computed_anew() -> None:
    attention, x = adapted_attention(), mx.random.normal((9, 64))
    attention.q_proj(x)
    attention.v_proj.lora_b = 2 * attention.v_proj.lora_b
    assert_close(attention.v_proj(x), stock(attention.v_proj, x), "another adapter")
    attention.q_proj(x)
    attention.k_proj.scale = 7.0
    assert_close(attention.k_proj(x), stock(attention.k_proj, x), "another scale")
    attention.q_proj(x)
    attention.k_proj.linear.unfreeze()  # trained: the stock way
    assert_close(attention.k_proj(x), stock(attention.k_proj, x), "a trained weight")


def test_a_sibling_notices_changes_in_place() -> None:
    attention, x = adapted_attention(), mx.random.normal((9, 64))
    attention.q_proj(x)
    x += 1
    assert_close(attention.k_proj(x), stock(attention.k_proj, x), "another input")
    attention = adapted_attention()
    attention.q_proj(x)
    x[0] = 9
    assert_close(attention.k_proj(x), stock(attention.k_proj, x), "a row of it")
    attention = adapted_attention()
    attention.q_proj(x)
    attention.k_proj.lora_b[:] = 7
    b = attention.v_proj.lora_b
    b *= 3
    assert_close(attention.k_proj(x), stock(attention.k_proj, x), "other weights")
    assert_close(attention.v_proj(x), stock(attention.v_proj, x), "a multiple of them")


def test_layers_called_with_different_inputs_are_siblings_no_longer() -> None:
    attention = adapted_attention()
    x, other = mx.random.normal((9, 64)), mx.random.normal((9, 64))
    for _ in range(2):
        for name, values in zip(NAMES, (x, other, x), strict=True):
            assert_close(attention[name](values), stock(attention[name], values), name)
    assert not attention.q_proj._siblings._layers
    assert not attention.q_proj._siblings._ready


def test_siblings_in_a_copy_are_the_copys() -> None:
    attention, x = adapted_attention(), mx.random.normal((9, 64))
    twin = copy.deepcopy(attention)
    for name in NAMES:
        twin[name].lora_b = -twin[name].lora_b
    for name in NAMES:
        assert_close(twin[name](x), stock(twin[name], x), name)
        assert_close(attention[name](x), stock(attention[name], x), name)


def test_siblings_do_not_keep_a_model_alive() -> None:
    attention = adapted_attention()
    gone = weakref.ref(attention.q_proj)
    attention.q_proj(mx.random.normal((9, 64)))
    gc.disable()
    try:
        del attention
        assert gone() is None
    finally:
        gc.enable()


def test_fusing_gives_a_quantized_layer_back() -> None:
    assert isinstance(adapted_attention().q_proj.fuse(), nn.QuantizedLinear)


def test_half_precision_inputs_keep_their_type() -> None:
    layer = cpu.prepare(tiny_llama()).layers[0].mlp.up_proj
    x = mx.random.normal((3, 64))
    half = layer(x.astype(mx.float16))
    assert half.dtype == mx.float16
    assert mx.allclose(half.astype(mx.float32), layer(x), atol=2e-2).item()


def test_layers_the_kernels_cannot_read_go_to_the_pure_path() -> None:
    model = tiny_llama(bits=2)
    tokens = mx.random.randint(0, 100, (2, 9))
    expected = on_the_stock_functions(pure_copy(model), tokens)
    prepared = cpu.prepare(model)
    assert isinstance(prepared.layers[0].self_attn.q_proj, nn.Linear)
    assert_close(prepared(tokens), expected, "logits")


def test_a_float_model_can_be_trained_whole() -> None:
    model = cpu.prepare(tiny_llama(bits=2))
    for _, module in model.named_modules():
        module.unfreeze(recurse=False)
    tokens = mx.random.randint(0, 100, (2, 12))

    def loss(model: nn.Module) -> mx.array:
        return nn.losses.cross_entropy(model(tokens[:, :-1]), tokens[:, 1:]).mean()

    gradient = nn.value_and_grad(model, loss)
    ours = dict(tree_flatten(gradient(model)[1]))
    reference = dict(tree_flatten(on_the_stock_functions(lambda: gradient(model)[1])))
    assert len(ours) == 20
    for name, value in ours.items():
        assert_close(value, reference[name], name, scale=1e-3)


def test_no_hook_runs_on_another_device(monkeypatch: pytest.MonkeyPatch) -> None:
    """With a GPU as the default device every native class and hook calls what it replaced."""
    from minialign.cpu import hooks, lora, modules

    class NotCalled:
        def __getattr__(self, name: str):
            raise AssertionError(f"the kernel {name} was called on another device")

    model = cpu.prepare(tiny_llama())
    tokens = mx.random.randint(0, 100, (1, 12))
    expected = model(tokens)
    mx.eval(expected)
    for file in (hooks, lora, modules):
        monkeypatch.setattr(file, "_native", NotCalled())
    stock = on_the_stock_functions(model, tokens)
    assert mx.allclose(stock, expected, atol=1e-3).item()
    with pytest.raises(AssertionError, match="was called"):
        model(tokens)
    assert not on_the_stock_functions(cpu.native)


def test_nothing_is_loaded_when_switched_off() -> None:
    code = (
        "import sys; from minialign import cpu; assert not cpu.native();"
        "assert 'minialign.cpu._native' not in sys.modules;"
        "assert 'MINIALIGN_NATIVE=0' in cpu.status().kernels"
    )
    environment = os.environ | {"MINIALIGN_NATIVE": "0"}
    subprocess.run([sys.executable, "-c", code], env=environment, check=True)


def test_another_mlx_falls_back_with_a_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    from minialign.cpu import extension

    monkeypatch.setattr(extension.importlib.metadata, "version", lambda _: "0.99.0")
    loaded, reason = extension.load.__wrapped__()
    assert loaded is None
    assert "0.99.0" in reason
