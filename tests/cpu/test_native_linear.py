"""The quantized products against dequantized float32 matmuls."""

import itertools

import mlx.core as mx
import numpy as np
import pytest
from support.native_reference import (
    assert_close,
    assert_same,
    lora_linear,
    native,
    needs_native,
    normal,
    quantized,
)

pytestmark = needs_native


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("group", [32, 64, 128])
@pytest.mark.parametrize("dtype", [mx.float32, mx.float16, mx.bfloat16])
def test_quantized_linear_over_groups_and_scales(bits: int, group: int, dtype: mx.Dtype) -> None:
    for rows, out, cols in ((1, 37, 128), (5, 64, 256), (70, 33, 384)):
        weight, value = quantized(out, cols, bits, group, dtype)
        assert_same(
            lambda x, w=weight: native.linear(x, *w),
            lambda x, v=value: x @ v.T,
            [normal(rows, cols)],
        )


@pytest.mark.parametrize("rows", [*range(1, 18), 29, 57, 1030])
def test_every_number_of_rows(rows: int) -> None:
    weight, value = quantized(70, 64, 4, 32)
    assert_same(lambda x: native.linear(x, *weight), lambda x: x @ value.T, [normal(rows, 64)])


@pytest.mark.parametrize(
    ("rows", "out", "cols"), [(1, 1, 1), (3, 5, 7), (40, 33, 577), (9, 1, 900)]
)
def test_float_linear_over_odd_sizes(rows: int, out: int, cols: int) -> None:
    args = [normal(rows, cols), normal(out, cols)]
    assert_same(native.linear, lambda x, w: x @ w.T, args)


def test_deep_products_are_summed_over_blocks() -> None:
    weight, value = quantized(40, 1536, 4, 32, mx.float16)
    assert_same(lambda x: native.linear(x, *weight), lambda x: x @ value.T, [normal(20, 1536)])


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("group", [32, 64, 128])
@pytest.mark.parametrize("rows", [1, 3, 16, 130])
def test_products_are_as_exact_with_outliers(rows: int, group: int, bits: int) -> None:
    """They may be computed in integers: large values must not drown the small ones."""
    weight, value = quantized(67, 640, bits, group, mx.float16)
    x = normal(rows, 640)
    x[0, 3], x[0, 40], x[0, 64:96], x[0, 600] = 900.0, -70.0, 0.0, 1e-20
    exact = np.array(x, np.float64) @ np.array(value, np.float64).T
    size = np.abs(np.array(x, np.float64)) @ np.abs(np.array(value, np.float64)).T
    product = np.array(native.linear(x, *weight))
    assert (np.abs(product - exact).max(axis=1) <= 2e-6 * size.max(axis=1)).all()
    x[0, 7] = float("nan")
    product = np.array(native.linear(x, *weight))
    assert np.isnan(product[0]).all()
    assert np.isfinite(product[1:]).all()


def test_empty_and_higher_dimensions() -> None:
    weight, value = quantized(48, 64, 4, 32)
    assert native.linear(mx.zeros((0, 64)), *weight).shape == (0, 48)
    x = normal(2, 3, 5, 64)
    assert_close(native.linear(x, *weight), x @ value.T, "four dimensions")


def test_inputs_that_are_not_contiguous() -> None:
    weight, value = quantized(48, 64, 4, 32)
    x = normal(64, 30).T[::2]
    assert_same(lambda x: native.linear(x, *weight), lambda x: x @ value.T, [x])
    every_other = tuple(a[::2] if isinstance(a, mx.array) else a for a in weight)
    assert_close(native.linear(x, *every_other), x @ value[::2].T, "a strided weight")


@pytest.mark.parametrize("bits", [4, 8, 32])
def test_gather_rows(bits: int) -> None:
    weight, value = quantized(50, 96, bits, 32, mx.float16) if bits < 32 else ((), normal(50, 96))
    weight = weight or (value,)
    ids = mx.array([[0, 49, 7], [7, 3, -1]])
    assert_close(native.gather_rows(ids, *weight), value[ids], "rows")
    assert native.gather_rows(mx.zeros((0,), mx.int32), *weight).shape == (0, 96)


@pytest.mark.parametrize("bits", [4, 8, 32])
@pytest.mark.parametrize(
    ("rows", "rank"), [(1, 8), (6, 4), (33, 8), (200, 33), (1030, 1), (1200, 7)]
)
def test_lora_linear(bits: int, rows: int, rank: int) -> None:
    weight, value = quantized(70, 96, bits, 32) if bits < 32 else ((), normal(70, 96))
    weight = weight or (value,)
    assert_same(
        lambda x, a, b: lora_linear(x, a, b, 1.5, *weight),
        lambda x, a, b: x @ value.T + 1.5 * ((x @ a) @ b),
        [normal(rows, 96), normal(96, rank), normal(rank, 70)],
    )


TOGETHER = list(
    itertools.product(
        [(4, 4, 4), (8, 8), (4, 8, 4), (32, 4)],
        [(32, 32, 32), (64, 64, 64), (64, 32, 128)],
        [1, 2, 5, 40],
    )
)
TOGETHER.append(((4, 8, 4), (64, 32, 128), 1030))  # more rows than a block has, once


@pytest.mark.parametrize(("bits", "groups", "rows"), TOGETHER)
def test_layers_of_one_input_together_equal_each_alone(
    bits: tuple, groups: tuple, rows: int
) -> None:
    x, ranks, outputs = normal(rows, 128), (8, 3, 5), (70, 32, 200)
    layers, values, given = [], [], []
    for i, each in enumerate(bits):
        weight, value = quantized(outputs[i], 128, each, groups[i]) if each < 32 else ((), None)
        value = value if weight else normal(outputs[i], 128)
        layers.append(weight or (value, None, None, 0, 32))
        values.append(value)
        given += [normal(128, ranks[i], seed=i), normal(ranks[i], outputs[i], seed=i)]

    def together(x: mx.array, *given: mx.array) -> mx.array:
        pairs = zip(given[::2], given[1::2], layers, strict=True)
        return mx.concatenate(
            native.lora_linears(x, [(a, b, 1.5, *w) for a, b, w in pairs]), axis=1
        )

    def apart(x: mx.array, *given: mx.array) -> mx.array:
        pairs = zip(given[::2], given[1::2], values, strict=True)
        return mx.concatenate([x @ w.T + 1.5 * ((x @ a) @ b) for a, b, w in pairs], axis=1)

    assert_same(together, apart, [x, *given])


def test_wrong_shapes_and_types_are_refused() -> None:
    weight, _ = quantized(48, 64, 4, 32)
    with pytest.raises(ValueError, match="as wide as the weight"):
        native.linear(normal(3, 32), *weight)
    with pytest.raises(ValueError, match="float32"):
        native.linear(normal(3, 64).astype(mx.float16), *weight)
    with pytest.raises(ValueError, match="bits must be"):
        native.linear(normal(3, 64), *weight[:3], 32, 2)
    with pytest.raises(ValueError, match="do not fit"):
        native.linear(normal(3, 64), weight[0], weight[1][:, :1], weight[2][:, :1], 32, 4)
