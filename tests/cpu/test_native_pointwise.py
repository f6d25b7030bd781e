"""SwiGLU, RMSNorm and RoPE against mlx.nn and mx.fast; selected log-probs against the softmax."""

import mlx.core as mx
import mlx.nn as nn
import pytest
from support.native_reference import (
    assert_close,
    assert_same,
    native,
    needs_native,
    normal,
    quantized,
)

pytestmark = needs_native


@pytest.mark.parametrize("shape", [(1, 1), (3, 5), (2, 3, 100), (70, 577)])
def test_swiglu(shape: tuple) -> None:
    args = [4 * normal(*shape), normal(*shape, seed=1)]
    assert_same(native.swiglu, lambda gate, up: nn.silu(gate) * up, args)


def test_swiglu_of_large_values() -> None:
    gate = mx.array([-1e4, -100.0, -88.0, 0.0, 88.0, 100.0, 1e4])
    ours, up = native.swiglu(gate, mx.ones(7)), mx.ones(7)
    assert mx.allclose(ours, nn.silu(gate) * up, atol=1e-30).item()


@pytest.mark.parametrize("shape", [(1, 7), (3, 64), (2, 3, 100), (70, 577)])
def test_rms_norm(shape: tuple) -> None:
    assert_same(
        lambda x, w: native.rms_norm(x, w, 1e-5),
        lambda x, w: mx.fast.rms_norm(x, w, 1e-5),
        [normal(*shape), normal(shape[-1])],
    )


@pytest.mark.parametrize("shape", [(1, 1), (3, 5), (2, 3, 100), (70, 577)])
def test_softmax_and_logsumexp(shape: tuple) -> None:
    x = 5 * normal(*shape)
    assert_same(native.softmax, lambda x: mx.softmax(x, axis=-1), [x])
    assert_same(native.logsumexp, lambda x: mx.logsumexp(x, axis=-1), [x])


def test_softmax_of_hidden_values() -> None:
    x = mx.array([[0.0, -mx.inf, 1.0] * 7])
    assert_close(native.softmax(x), mx.softmax(x, axis=-1), "softmax")
    assert_close(native.logsumexp(x), mx.logsumexp(x, axis=-1), "logsumexp")


@pytest.mark.parametrize("traditional", [False, True])
@pytest.mark.parametrize("offset", [0, 7, [3, 90]])
@pytest.mark.parametrize("dims", [32, 64])
def test_rope(traditional: bool, offset: int | list, dims: int) -> None:
    offset = mx.array(offset) if isinstance(offset, list) else offset
    options = {"traditional": traditional, "base": 10000.0, "scale": 1.0, "offset": offset}
    dense = normal(2, 5, 3, 64)
    for x in (dense, dense.transpose(0, 2, 1, 3), dense[:, :, 1:], dense[:, 1:2]):
        assert_same(
            lambda x: native.rope(x, dims, **options),
            lambda x: mx.fast.rope(x, dims, **options),
            [x],
        )


def test_rope_with_frequencies_of_its_own() -> None:
    freqs = mx.abs(normal(16)) + 1
    assert_same(
        lambda x: native.rope(x, 32, freqs=freqs, scale=0.5, offset=2),
        lambda x: mx.fast.rope(
            x, 32, traditional=False, base=None, freqs=freqs, scale=0.5, offset=2
        ),
        [normal(1, 2, 9, 40)],
    )


@pytest.mark.parametrize("bits", [4, 8, 32])
@pytest.mark.parametrize(
    ("rows", "vocab", "width", "group"),
    [(1, 5, 32, 32), (5, 1000, 128, 64), (150, 777, 96, 32), (230, 777, 192, 64)],
)
def test_selected_logps(bits: int, rows: int, vocab: int, width: int, group: int) -> None:
    weight: tuple = (value := normal(vocab, width),)
    if bits < 32:
        weight, value = quantized(vocab, width, bits, group)
    targets = mx.random.randint(0, vocab, (rows,))

    def written_out(hidden: mx.array) -> mx.array:
        logits = hidden @ value.T
        chosen = mx.take_along_axis(logits, targets[:, None], axis=-1)[:, 0]
        return chosen - mx.logsumexp(logits, axis=-1)

    hidden = 0.3 * normal(rows, width)
    assert_same(lambda h: native.selected_logps(h, targets, *weight), written_out, [hidden])
    without = native.selected_logps(hidden, targets, *weight, gradient=False)
    assert_close(without, written_out(hidden), "without gradient")


@pytest.mark.parametrize("bits", [4, 8, 32])
def test_a_row_that_is_not_a_number_stays_so_alone(bits: int) -> None:
    weight, value = quantized(70, 32, bits, 32) if bits < 32 else ((), normal(70, 32))
    hidden = normal(9, 32)
    hidden[4, 3] = mx.nan
    logps = native.selected_logps(hidden, mx.arange(9), *(weight or (value,)))
    assert mx.isnan(logps).tolist() == [row == 4 for row in range(9)]


def test_selected_logps_of_no_rows_and_of_no_such_token() -> None:
    value = normal(9, 8)
    none = native.selected_logps(mx.zeros((0, 8)), mx.zeros((0,), mx.int32), value)
    assert none.shape == (0,)
    outside = native.selected_logps(normal(2, 8), mx.array([-100, 9]), value)
    assert outside.tolist() == [0, 0]


def test_logsumexp_of_nothing_likely_and_of_no_numbers() -> None:
    none = mx.full((2, 50), -mx.inf)
    assert (native.logsumexp(none) == -mx.inf).all().item()
    odd = mx.zeros((2, 50))
    odd[1, 3] = mx.nan
    assert mx.isnan(native.logsumexp(odd)).tolist() == [False, True]
