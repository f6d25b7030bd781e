"""One prompt, k responses: shared or separate, padded or not, checkpointed or not, all the same."""

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest
from mlx.utils import tree_flatten
from support.tiny import make_tiny_model

from minialign import cpu
from minialign.learn import checkpointing, selected_logps
from minialign.learn.batch import Example, collate
from minialign.learn.checkpointing import checkpoint_layers
from minialign.learn.forward import last_hidden, response_hidden, response_logps
from minialign.learn.policy import Policy
from minialign.models.adapter import Lora, adapter_modules, attach
from minialign.models.load import load
from minialign.models.module import split_head


def examples(lengths, seed=0):
    random = np.random.default_rng(seed)

    def ids(n):
        return random.integers(3, 300, n).tolist()

    return [
        Example(ids(prompt), [ids(n) for n in answers], [[1] * n for n in answers])
        for prompt, answers in lengths
    ]


LENGTHS = [(30, (5, 17)), (47, (20, 3)), (12, (9, 1)), (40, (3, 14))]


def adapted(folder, kind="lora"):
    model = load(str(folder))
    mx.random.seed(3)
    attach(model.module, Lora(kind=kind))
    for part in adapter_modules(model.module):
        part.lora_b = mx.random.normal(part.lora_b.shape) * 0.1
    return model


def make_policy(model, share):
    backbone, head = split_head(model.module)
    return Policy(model.module, backbone, head, model.module, share_prompts=share)


def value_and_gradient(model, batch, share):
    policy = make_policy(model, share)
    weights = mx.random.normal((batch.responses.shape[0],), key=mx.random.key(1))

    def loss(_):
        sums, counts = response_logps(policy, batch)
        return (sums / counts * weights).sum()

    value, gradient = nn.value_and_grad(model.module, loss)(None)
    mx.eval(value, gradient)
    assert (policy.counts.shared, policy.counts.separate) == ((1, 0) if share else (0, 1))
    return value.item(), dict(tree_flatten(gradient))


def assert_equal(one, other, tolerance=2e-5):
    assert one[0] == pytest.approx(other[0], rel=1e-5)
    assert one[1].keys() == other[1].keys()
    scale = max(mx.abs(value).max().item() for value in one[1].values())
    assert scale > 1e-3  # there is a gradient to compare
    for name, value in one[1].items():
        assert mx.abs(value - other[1][name]).max().item() < tolerance * max(1, scale), name


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("kind", ["lora", "dora"])
def test_shared_prompt_equals_separate_rows(tmp_path, tied, kind):
    model = adapted(make_tiny_model(tmp_path, tied=tied), kind)
    batch = collate(examples(LENGTHS))
    assert_equal(value_and_gradient(model, batch, True), value_and_gradient(model, batch, False))


def test_checkpointed_layers_give_the_same_gradients(tiny_model):
    model = adapted(tiny_model)
    batch = collate(examples(LENGTHS))
    plain = value_and_gradient(model, batch, True)
    checkpoint_layers(model.module)
    checkpoint_layers(model.module)  # twice changes nothing
    assert_equal(plain, value_and_gradient(model, batch, True))
    assert_equal(plain, value_and_gradient(model, batch, False))
    names = [name for name, _ in tree_flatten(model.module.trainable_parameters())]
    assert "model.layers.0.self_attn.q_proj.lora_a" in names


def test_checkpointed_layers_drop_the_same_when_they_run_again(tiny_model, monkeypatch):
    model = load(str(tiny_model))
    attach(model.module, Lora(rank=4, dropout=0.3))
    for part in adapter_modules(model.module):
        part.lora_b = mx.random.normal(part.lora_b.shape, key=mx.random.key(5)) * 0.1
    checkpoint_layers(model.module)
    policy, batch = make_policy(model, True), collate(examples(LENGTHS))
    model.module.train()

    def loss(_):
        return response_logps(policy, batch)[0].sum() / 100

    def gradient():
        mx.random.seed(4)
        value, grads = nn.value_and_grad(model.module, loss)(None)
        mx.eval(value, grads)
        assert value.item() != loss(None).item()  # the next pass drops others
        return value.item(), dict(tree_flatten(grads))

    again = gradient()
    monkeypatch.setattr(checkpointing, "recomputed", lambda function: function)
    assert_equal(gradient(), again)


@pytest.mark.parametrize("share", [True, False])
def test_log_probs_equal_the_stock_forward(tiny_model, share):
    model = adapted(tiny_model)
    rows = examples([*LENGTHS, (9, (4, 4, 30))])
    sums, counts = response_logps(make_policy(model, share), collate(rows))
    values = iter(zip(sums.tolist(), counts.tolist(), strict=True))
    for row in rows:
        for response in row.responses:
            logits = model.module(mx.array([row.prompt + response]))[0].astype(mx.float32)
            logps = logits - mx.logsumexp(logits, axis=-1, keepdims=True)
            at = len(row.prompt) - 1
            expected = sum(logps[at + i, token].item() for i, token in enumerate(response))
            value, count = next(values)
            assert value == pytest.approx(expected, abs=2e-4)
            assert count == len(response)


@pytest.mark.parametrize("share", [True, False])
def test_padding_and_company_change_nothing(tiny_model, share):
    model = adapted(tiny_model)
    rows = examples(LENGTHS)
    together, _ = response_logps(make_policy(model, share), collate(rows, multiple=64))
    alone = [
        response_logps(make_policy(model, share), collate([row], multiple=1))[0] for row in rows
    ]
    np.testing.assert_allclose(np.array(together), np.concatenate(alone), atol=1e-4)


def test_masked_tokens_do_not_count(tiny_model):
    model = adapted(tiny_model)
    (row,) = examples([(10, (12, 12))])
    masked = Example(row.prompt, row.responses, [[1] * 4 + [0] * 8, [0] * 11 + [1]])
    sums, counts = response_logps(make_policy(model, True), collate([masked]))
    assert counts.tolist() == [4, 1]
    short = Example(row.prompt, [row.responses[0][:4]], [[1] * 4])
    expected, _ = response_logps(make_policy(model, False), collate([short]))
    assert sums[0].item() == pytest.approx(expected[0].item(), abs=1e-4)


def test_last_hidden_is_the_state_at_the_last_token(tiny_model):
    model = adapted(tiny_model)
    rows = examples(LENGTHS)
    for share in (True, False):
        states = last_hidden(make_policy(model, share), collate(rows))
        n = 0
        for row in rows:
            for response in row.responses:
                expected = model.module.model(mx.array([row.prompt + response]))[0, -1]
                assert mx.abs(states[n] - expected).max().item() < 1e-4
                n += 1


def test_sharing_waits_until_it_pays(tiny_model):
    model = adapted(tiny_model)
    policy = make_policy(model, True)
    response_hidden(policy, collate(examples([(2, (60, 60))])))
    assert (policy.counts.shared, policy.counts.separate) == (0, 1)
    response_hidden(policy, collate(examples([(200, (20, 20))])))
    assert (policy.counts.shared, policy.counts.separate) == (1, 1)


@pytest.mark.parametrize("gradient", [True, False])
def test_selected_log_probs_in_chunks(monkeypatch, gradient):
    monkeypatch.setattr(selected_logps, "CHUNK", 3)
    head = nn.Linear(8, 50, bias=False)
    head.freeze()
    hidden = mx.random.normal((10, 8), key=mx.random.key(0))
    targets = mx.random.randint(0, 50, (10,), key=mx.random.key(1))
    weights = mx.random.normal((10,), key=mx.random.key(2))

    def plain(hidden):
        logits = head(hidden)
        picked = mx.take_along_axis(logits, targets[:, None], axis=-1)[:, 0]
        return ((picked - mx.logsumexp(logits, axis=-1)) * weights).sum()

    def ours(hidden):
        return (selected_logps.selected_logps(hidden, head, targets, gradient) * weights).sum()

    assert ours(hidden).item() == pytest.approx(plain(hidden).item(), rel=1e-5)
    if gradient:
        np.testing.assert_allclose(mx.grad(ours)(hidden), mx.grad(plain)(hidden), atol=1e-5)
    assert selected_logps.selected_logps(hidden[:0], head, targets[:0]).shape == (0,)


def test_a_trained_head_gets_its_gradient():
    head = nn.Linear(8, 20, bias=False)
    hidden = mx.random.normal((6, 8), key=mx.random.key(0))
    targets = mx.array([1, 2, 3, 4, 5, 6])

    def ours(_):
        return selected_logps.selected_logps(hidden, head, targets).sum()

    def plain(_):
        logits = head(hidden)
        picked = mx.take_along_axis(logits, targets[:, None], axis=-1)[:, 0]
        return (picked - mx.logsumexp(logits, axis=-1)).sum()

    _, gradient = nn.value_and_grad(head, ours)(None)
    _, expected = nn.value_and_grad(head, plain)(None)
    np.testing.assert_allclose(gradient["weight"], expected["weight"], atol=1e-5)


@pytest.mark.parametrize("native", [True, False])
@pytest.mark.parametrize("gradient", [True, False])
def test_log_probs_over_a_large_vocabulary_lose_no_digits(
    native: bool, gradient: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not native:
        monkeypatch.setattr(cpu, "native", lambda: False)
    keys = mx.random.split(mx.random.key(3), 2)
    hidden, table = mx.random.normal((8, 16), key=keys[0]), nn.Embedding(50_001, 16)
    table.weight = mx.random.normal((50_001, 16), key=keys[1]) * 0.7
    targets = mx.arange(8) * 6000
    logits = np.array(hidden, np.float64) @ np.array(table.weight, np.float64).T
    exact = logits[np.arange(8), np.array(targets)] - np.log(np.exp(logits).sum(axis=1))
    found = selected_logps.selected_logps(hidden, table.as_linear, targets, gradient)
    assert np.abs(np.array(found) - exact).max() < 5e-6
