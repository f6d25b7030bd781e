"""Attention against the softmax written out, over shapes, heads and masks."""

import mlx.core as mx
import numpy as np
import pytest
from support.native_reference import assert_close, assert_same, native, needs_native, normal

pytestmark = needs_native

# batch, query heads, key heads, queries, keys, width
SHAPES = [
    (1, 1, 1, 3, 3, 8),
    (1, 9, 3, 65, 65, 64),
    (2, 4, 2, 7, 13, 80),
    (2, 6, 2, 1, 77, 64),
    (1, 3, 3, 130, 200, 33),
    (1, 2, 1, 60, 300, 128),
    (3, 9, 3, 5, 140, 64),
]


def written_out(scale: float, mask: mx.array | None):
    def attention(q: mx.array, k: mx.array, v: mx.array) -> mx.array:
        repeats = q.shape[1] // k.shape[1]
        scores = scale * q @ mx.repeat(k, repeats, axis=1).swapaxes(-1, -2)
        if mask is not None:
            scores = mx.where(mask, scores, -1e30) if mask.dtype == mx.bool_ else scores + mask
        return mx.softmax(scores, axis=-1) @ mx.repeat(v, repeats, axis=1)

    return attention


def inputs(batch: int, heads: int, kv_heads: int, queries: int, keys: int, width: int):
    """q and k as models make them (a transposed view), v dense."""
    return [
        normal(batch, queries, heads, width).transpose(0, 2, 1, 3),
        normal(batch, keys, kv_heads, width, seed=1).transpose(0, 2, 1, 3),
        normal(batch, kv_heads, keys, width, seed=2),
    ]


@pytest.mark.parametrize("shape", SHAPES)
def test_causal(shape: tuple) -> None:
    queries, keys, width = shape[3:]
    seen = mx.arange(keys - queries, keys)[:, None] >= mx.arange(keys)
    assert_same(
        lambda q, k, v: native.attention(q, k, v, scale=width**-0.5, causal=True),
        written_out(width**-0.5, seen),
        inputs(*shape),
    )


@pytest.mark.parametrize("shape", SHAPES)
def test_without_mask(shape: tuple) -> None:
    assert_same(
        lambda q, k, v: native.attention(q, k, v, scale=0.2), written_out(0.2, None), inputs(*shape)
    )


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("kind", ["a row", "a head", "keys", "added"])
def test_masks(shape: tuple, kind: str) -> None:
    batch, heads, _, queries, keys, _ = shape
    dims = {
        "a row": (batch, 1, queries, keys),
        "a head": (1, heads, queries, keys),
        "keys": (batch, 1, 1, keys),
        "added": (queries, keys),
    }[kind]
    mask = normal(*dims) if kind == "added" else (normal(*dims) > 0) | (mx.arange(keys) == 0)
    assert_same(
        lambda q, k, v: native.attention(q, k, v, scale=0.2, mask=mask),
        written_out(0.2, mask),
        inputs(*shape),
    )


def test_answers_behind_a_shared_prompt() -> None:
    """Two answers packed behind one prompt: each sees the prompt and itself, blocks are skipped."""
    prompt, answer = 300, 150
    position = mx.arange(2 * answer)
    own = (position[:, None] // answer == position // answer) & (position[:, None] >= position)
    mask = mx.concatenate([mx.ones((2 * answer, prompt), dtype=mx.bool_), own], axis=1)[None, None]
    assert_same(
        lambda q, k, v: native.attention(q, k, v, scale=0.125, mask=mask),
        written_out(0.125, mask),
        inputs(1, 3, 1, 2 * answer, prompt + 2 * answer, 64),
    )


@pytest.mark.parametrize(("batch", "heads", "kv_heads"), [(1, 3, 1), (1, 6, 2), (2, 4, 4)])
def test_texts_side_by_side_in_one_row(batch: int, heads: int, kv_heads: int) -> None:
    """Each sees itself, some the first too: most strips of keys are hidden from most queries."""
    lengths = [130, 1, 64, 33, 70, 17]
    total = sum(lengths)
    mask, end = np.zeros((total, total), bool), 0
    for number, length in enumerate(lengths):
        first, end = end, end + length
        mask[first:end, first:end] = np.tri(length, dtype=bool)
        if number % 2:
            mask[first:end, : lengths[0]] = True
    args = inputs(batch, heads, kv_heads, total, total, 64)
    seen = mx.array(mask)
    assert_same(
        lambda q, k, v: native.attention(q, k, v, scale=0.125, mask=seen),
        written_out(0.125, seen),
        args,
    )


def test_a_query_that_sees_nothing_gives_zeros_and_no_gradient() -> None:
    q, k, v = inputs(1, 2, 1, 4, 6, 16)
    mask = (mx.arange(4) != 2)[None, None, :, None] & mx.ones((1, 1, 4, 6), dtype=mx.bool_)
    out, grads = mx.vjp(
        lambda q, k, v: native.attention(q, k, v, scale=1.0, mask=mask),
        [q, k, v],
        [mx.ones(q.shape)],
    )
    assert mx.abs(out[0][:, :, 2]).max().item() == 0
    assert mx.abs(grads[0][:, :, 2]).max().item() == 0
    assert all(mx.isfinite(g).all().item() for g in grads)


def test_infinite_masks_hide() -> None:
    q, k, v = inputs(1, 2, 1, 5, 9, 16)
    seen = normal(5, 9) > -0.5
    added = mx.where(seen, 0.0, -mx.inf)
    ours = native.attention(q, k, v, scale=1.0, mask=added)
    assert_close(ours, native.attention(q, k, v, scale=1.0, mask=seen), "-inf against false")


def test_a_number_that_is_none_is_not_hidden() -> None:
    q, k, v = inputs(1, 2, 1, 40, 40, 16)
    k[0, 0, 7, 3] = mx.nan
    out = native.attention(q, k, v, scale=1.0, causal=True)
    assert mx.isnan(out[:, :, 7:]).all().item()
    assert mx.isfinite(out[:, :, :7]).all().item()


@pytest.mark.parametrize(("queries", "keys"), [(0, 5), (3, 0)])
def test_gradients_of_nothing_are_zero(queries: int, keys: int) -> None:
    args = inputs(1, 2, 1, queries, keys, 16)
    _, grads = mx.vjp(
        lambda q, k, v: native.attention(q, k, v, scale=1.0), args, [mx.ones(args[0].shape)]
    )
    assert all(mx.array_equal(g, mx.zeros(g.shape)).item() for g in grads)


def test_empty() -> None:
    q = mx.zeros((0, 2, 3, 8))
    assert native.attention(q, q, q, scale=1.0).shape == q.shape
