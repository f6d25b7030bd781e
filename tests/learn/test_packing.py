"""Prompts and responses in one row: the layout by hand, and the same numbers as padded rows."""

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest
from mlx.utils import tree_flatten
from support.tiny import make_tiny_model
from test_forward import LENGTHS, adapted, assert_equal, examples, make_policy

from minialign import cpu
from minialign.learn import packing
from minialign.learn.batch import Example, collate
from minialign.learn.checkpointing import checkpoint_layers
from minialign.learn.forward import packed, response_logps


def test_the_layout_by_hand():
    batch = collate([Example([1, 2], [[3], [4, 5]], [[1], [1, 1]])], multiple=2)
    shared = packing.layout(batch, share=True)
    assert shared.tokens.tolist() == [1, 2, 3, 4, 5]
    assert shared.positions.tolist() == [0, 1, 2, 2, 3]
    assert shared.mask.astype(int).tolist() == [
        [1, 0, 0, 0, 0],
        [1, 1, 0, 0, 0],
        [1, 1, 1, 0, 0],
        [1, 1, 0, 1, 0],
        [1, 1, 0, 1, 1],
    ]
    assert shared.predicting.tolist() == [[1, 0], [1, 3]]
    assert shared.at.tolist() == [[2, 0], [3, 4]]
    separate = packing.layout(batch, share=False)
    assert separate.tokens.tolist() == [1, 2, 3, 1, 2, 4, 5]
    assert separate.positions.tolist() == [0, 1, 2, 0, 1, 2, 3]
    assert separate.predicting.tolist() == [[1, 0], [4, 5]]
    assert not separate.mask[3:, :3].any()


def test_a_window_hides_what_is_far_away():
    batch = collate([Example([1, 2, 3], [[4, 5]], [[1, 1]])])
    mask = packing.Row(packing.layout(batch, True)).make_mask(1, window_size=2)
    assert mask.shape == (1, 1, 5, 5)
    assert np.array(mask[0, 0]).sum(axis=1).tolist() == [1, 2, 2, 2, 2]


def gradient(model, batch, packs, share=True):
    policy = make_policy(model, share)
    policy.packs = packs
    weights = mx.random.normal((batch.responses.shape[0],), key=mx.random.key(1))

    def loss(_):
        sums, counts = response_logps(policy, batch)
        return (sums / counts * weights).sum()

    value, found = nn.value_and_grad(model.module, loss)(None)
    mx.eval(value, found)
    if packs:
        assert policy.counts.computed == policy.counts.needed  # no padding
    return value.item(), dict(tree_flatten(found))


@pytest.mark.skipif(not cpu.native(), reason="without native attention rows are padded")
@pytest.mark.parametrize("share", [True, False])
@pytest.mark.parametrize("tied", [True, False])
def test_a_packed_row_equals_padded_rows(tmp_path, tied, share):
    model = adapted(make_tiny_model(tmp_path, tied=tied))
    batch = collate(examples([*LENGTHS, (90, (1, 130)), (1, (7,))]))
    assert packed(make_policy(model, share), batch)
    padded = gradient(model, batch, False, share)
    assert_equal(padded, gradient(model, batch, True, share))
    checkpoint_layers(model.module)
    assert_equal(padded, gradient(model, batch, True, share))


def test_a_model_that_does_not_go_along_is_padded(tiny_model):
    model = adapted(tiny_model)
    batch = collate(examples(LENGTHS))
    policy = make_policy(model, True)
    backbone = policy.backbone

    def knows_no_rows(inputs, cache=None):  # positions of its own, whatever the cache says
        return backbone(inputs, cache=None if isinstance(cache[0], packing.Row) else cache)

    policy.backbone = lambda inputs, cache=None: (
        knows_no_rows(inputs, cache) if cache else backbone(inputs)
    )
    assert not packed(policy, batch)
    expected, _ = response_logps(make_policy(model, False), batch)
    found, _ = response_logps(policy, batch)
    np.testing.assert_allclose(np.array(found), np.array(expected), atol=2e-4)


def test_a_row_has_a_limit(tiny_model, monkeypatch):
    batch = collate(examples([(30, (5, 17))]))
    monkeypatch.setattr(packing, "MOST", 50)
    assert not packed(make_policy(adapted(tiny_model), True), batch)
