"""Adapters are mlx-lm's files to the letter, both ways; off they are the base, fused the same."""

import json

import mlx.core as mx
import numpy as np
import pytest
from mlx.utils import tree_flatten, tree_unflatten
from support.places import written
from support.tiny import make_tiny_model

from minialign.engine import Engine, Sampling
from minialign.errors import UserError
from minialign.methods import METHODS
from minialign.models.adapter import (
    CONFIG,
    WEIGHTS,
    Lora,
    adapter_hash,
    adapter_modules,
    adapter_off,
    adapter_weights,
    attach,
    load_adapter,
    named_arrays,
    read_lora,
    resolve_adapter,
    save_adapter,
)
from minialign.models.head import FILE, RewardHead, load_head, save_head
from minialign.models.load import load
from minialign.training.settings import Settings
from minialign.training.start import start

PROMPT = [1, 40, 77, 130, 9, 201]
GREEDY = Sampling(temperature=0.0, max_tokens=12)


@pytest.fixture(scope="module")
def rows(tmp_path_factory):
    path = tmp_path_factory.mktemp("rows") / "rows.jsonl"
    words = ["the quick fox", "lazy dog", "jumps over", "brown", "yes yes no"]
    lines = [{"prompt": f"say {a} {b}", "completion": f"{b} {a}"} for a in words for b in words]
    return written(path, lines)


@pytest.fixture(scope="module")
def trained(tiny_model, rows, tmp_path_factory):
    """Trains on the tiny model with these settings; the folder of the run."""
    home = tmp_path_factory.mktemp("home")

    def train(method="sft", **changes):
        usual = {
            "model": str(tiny_model), "data": (str(rows),), "iters": 3, "learning_rate": 0.03,
            "warmup": 0.0, "eval_split": 0.0, "max_seq_length": 128,
        }  # fmt: skip
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("MINIALIGN_HOME", str(home))
            run, events = start(
                METHODS[method], Settings(**usual | changes), METHODS[method].config()
            )
            for _ in events:
                pass
        return run.path

    return train


def logits(module, ids=PROMPT):
    return module(mx.array([ids]))[0].astype(mx.float32)


def stock(model_folder, adapter=None):
    """mlx-lm's own model with the adapter, its arithmetic in float32."""
    from mlx_lm.utils import load as stock_load

    module, _ = stock_load(str(model_folder), adapter_path=adapter and str(adapter))
    module.set_dtype(mx.float32)
    return module


def stock_greedy(module, ids, n):
    from mlx_lm.generate import generate_step

    return [int(token) for token, _ in generate_step(mx.array(ids), module, max_tokens=n)]


def our_greedy(model, ids):
    (completion,) = Engine(model).generate([ids], GREEDY)
    return list(completion.ids)


CASES = {
    "lora": {},
    "dora": {"fine_tune_type": "dora"},
    "keys": {"keys": ("self_attn.q_proj", "mlp.down_proj")},
    "one layer": {"num_layers": 1},
    "rslora": {"rslora": True, "rank": 4, "scale": 1.5},
    "dropout": {"dropout": 0.3},
}


@pytest.mark.parametrize("case", CASES)
def test_stock_mlx_lm_runs_our_adapter_to_the_same_tokens(tiny_model, trained, case):
    folder = trained(**CASES[case])
    theirs, ours = stock(tiny_model, folder), load(str(tiny_model), folder)
    assert mx.abs(logits(theirs) - logits(ours.module)).max().item() < 2e-3
    tokens = our_greedy(ours, PROMPT)
    assert stock_greedy(theirs, PROMPT, 12)[: len(tokens)] == tokens
    # the adapter is not idle
    assert mx.abs(logits(theirs) - logits(stock(tiny_model))).max().item() > 0.05
    # nothing but what mlx-lm's own trainer writes
    expected = named_arrays(theirs.trainable_parameters())
    names = {name for name in expected if name.rsplit(".", 1)[-1] in ("lora_a", "lora_b", "m")}
    assert set(mx.load(str(folder / WEIGHTS))) == names
    config = json.loads((folder / CONFIG).read_text())
    assert {"fine_tune_type", "num_layers", "lora_parameters"} <= set(config)
    if case == "rslora":
        assert config["lora_parameters"]["scale"] == pytest.approx(1.5 * 4**0.5)
        scales = {part.scale for part in adapter_modules(ours.module)}
        assert scales == {config["lora_parameters"]["scale"]}
    if case == "one layer":
        assert config["num_layers"] == 1
        assert {name.split(".")[2] for name in names} == {"1"}


@pytest.mark.parametrize("kind", ["lora", "dora"])
def test_an_adapter_made_with_mlx_lm_alone_is_read(tiny_model, tmp_path, kind):
    from mlx_lm.tuner.utils import linear_to_lora_layers
    from mlx_lm.utils import load_model

    module, _ = load_model(tiny_model)
    module.set_dtype(mx.float32)
    module.freeze()
    parameters = {"rank": 4, "scale": 3.0, "dropout": 0.0}
    linear_to_lora_layers(module, 1, parameters, use_dora=kind == "dora")
    module.set_dtype(mx.float32)
    mx.random.seed(5)
    for part in adapter_modules(module):
        part.lora_b = mx.random.normal(part.lora_b.shape) * 0.2
    weights = dict(tree_flatten(module.trainable_parameters()))
    mx.save_safetensors(str(tmp_path / WEIGHTS), weights)
    # as mlx_lm.lora writes it: all its arguments, lora_parameters without keys
    arguments = {"fine_tune_type": kind, "num_layers": 1, "lora_parameters": parameters}
    more = {"batch_size": 4, "data": "x", "learning_rate": 1e-5, "model": str(tiny_model)}
    (tmp_path / CONFIG).write_text(json.dumps(arguments | more))

    bare = load(str(tiny_model))
    base = logits(bare.module)
    assert load_adapter(bare.module, tmp_path) == Lora(kind, 4, 3.0, 0.0, 1, None)
    assert mx.abs(logits(bare.module) - logits(module)).max().item() < 2e-3
    assert mx.abs(logits(bare.module) - base).max().item() > 0.05


def random_adapter(module, kind="lora", seed=4, **changes):
    mx.random.seed(seed)
    lora = Lora(kind=kind, **changes)
    attach(module, lora)
    for part in adapter_modules(module):
        part.lora_b = mx.random.normal(part.lora_b.shape) * 0.1
        if "m" in part:
            part.m = part.m * 1.1
    return lora


@pytest.mark.parametrize(
    ("kind", "tolerance"), [("lora", 0), ("dora", 2e-6)]
)  # DoRA multiplies its own way
def test_switched_off_it_is_the_base(tiny_model, kind, tolerance):
    model = load(str(tiny_model))
    base = logits(model.module)
    random_adapter(model.module, kind)
    on = logits(model.module)
    with adapter_off(model.module):
        off = logits(model.module)
        mx.eval(off)
    spread = mx.abs(base).max().item()
    assert mx.abs(off - base).max().item() <= tolerance * spread
    assert mx.abs(on - base).max().item() > 0.01
    assert mx.array_equal(logits(model.module), on)  # and on again as it was
    with pytest.raises(RuntimeError), adapter_off(model.module):
        raise RuntimeError
    assert mx.array_equal(logits(model.module), on)


@pytest.mark.parametrize("kind", ["lora", "dora"])
def test_fused_weights_give_the_same(tmp_path, kind):
    folder = make_tiny_model(tmp_path / "model", bits=None)
    model = load(str(folder))
    lora = random_adapter(model.module, kind)
    expected = logits(model.module)
    (tmp_path / "adapter").mkdir()
    save_adapter(tmp_path / "adapter", model.module, lora, str(folder))
    theirs = stock(folder, tmp_path / "adapter")
    fused = [(name, part.fuse()) for name, part in theirs.named_modules() if hasattr(part, "fuse")]
    assert len(fused) == 14
    theirs.update_modules(tree_unflatten(fused))
    assert not adapter_modules(theirs)
    assert mx.abs(logits(theirs) - expected).max().item() < 1e-3


@pytest.mark.parametrize("kind", ["lora", "dora"])
def test_saved_and_loaded_to_the_bit(tiny_model, tmp_path, kind):
    model = load(str(tiny_model))
    lora = random_adapter(model.module, kind, num_layers=1, keys=("self_attn.v_proj",), rank=3)
    save_adapter(tmp_path, model.module, lora, "base")
    again = load(str(tiny_model), tmp_path)
    assert mx.array_equal(logits(again.module), logits(model.module))
    assert read_lora(tmp_path) == lora
    saved, loaded = adapter_weights(model.module), adapter_weights(again.module)
    assert saved.keys() == loaded.keys()
    assert all(mx.array_equal(saved[name], loaded[name]) for name in saved)
    assert not list(tmp_path.glob(".*"))  # no drafts are left behind


def saved_adapter(tiny_model, folder, **changes):
    model = load(str(tiny_model))
    save_adapter(folder, model.module, random_adapter(model.module, **changes), "base")
    return folder


def problem(model_folder, adapter):
    with pytest.raises(UserError) as error:
        load(str(model_folder), adapter)
    return f"{error.value.problem} | {error.value.hint}"


def test_an_adapter_of_another_base_is_refused_by_name(tiny_model, tmp_path):
    adapter = saved_adapter(tiny_model, tmp_path)
    deep = make_tiny_model(tmp_path / "deep", layers=3)
    text = problem(deep, adapter)
    assert "model.layers.0." in text
    assert "another base model" in text
    shallow = make_tiny_model(tmp_path / "shallow", layers=1)
    assert "num_layers = 2, but the model has 1 layer" in problem(shallow, adapter)


def test_an_adapter_of_another_width_is_refused_by_name(tiny_model, tmp_path):
    adapter = saved_adapter(tiny_model, tmp_path)
    weights = dict(mx.load(str(adapter / WEIGHTS)))
    name = "model.layers.1.mlp.up_proj.lora_a"
    mx.save_safetensors(str(adapter / WEIGHTS), weights | {name: mx.zeros((32, 8))})
    text = problem(tiny_model, adapter)
    assert f"{name} has shape (32, 8), the model needs (64, 8)" in text
    assert WEIGHTS in text


def test_missing_and_extra_tensors_are_named(tiny_model, tmp_path):
    adapter = saved_adapter(tiny_model, tmp_path)
    weights = dict(mx.load(str(adapter / WEIGHTS)))
    name = "model.layers.0.self_attn.k_proj.lora_b"
    kept = {key: value for key, value in weights.items() if key != name}
    mx.save_safetensors(str(adapter / WEIGHTS), kept)
    assert f"{name} is not in the file" in problem(tiny_model, adapter)
    mx.save_safetensors(str(adapter / WEIGHTS), weights | {"model.layers.9.lora_a": mx.zeros(2)})
    assert "model.layers.9.lora_a is in no layer of this model" in problem(tiny_model, adapter)


@pytest.mark.parametrize("damage", [b"", b"no safetensors at all", None])
def test_a_damaged_file_is_named(tiny_model, tmp_path, damage):
    adapter = saved_adapter(tiny_model, tmp_path)
    whole = (adapter / WEIGHTS).read_bytes()
    (adapter / WEIGHTS).write_bytes(whole[: len(whole) // 2] if damage is None else damage)
    assert str(adapter / WEIGHTS) in problem(tiny_model, adapter)


@pytest.mark.parametrize(
    "text",
    [
        "{", "[]", "{}", '{"lora_parameters": {"rank": 8}, "num_layers": 2}',
        '{"lora_parameters": {"rank": "8", "scale": 1.0}, "num_layers": 2}',
        '{"lora_parameters": {"rank": 8, "scale": 1.0}, "num_layers": "all"}',
        '{"lora_parameters": null, "num_layers": 2}',
    ],
)  # fmt: skip
def test_a_damaged_config_is_named(tiny_model, tmp_path, text):
    adapter = saved_adapter(tiny_model, tmp_path)
    (adapter / CONFIG).write_text(text)
    said = problem(tiny_model, adapter)
    assert str(adapter / CONFIG) in said
    assert "num_layers" in said


def test_what_is_no_adapter_is_named(tiny_model, tmp_path, home):
    adapter = saved_adapter(tiny_model, tmp_path)
    values = json.loads((adapter / CONFIG).read_text())
    (adapter / CONFIG).write_text(json.dumps(values | {"fine_tune_type": "full"}))
    assert "'full'" in problem(tiny_model, adapter)
    (adapter / CONFIG).write_text(json.dumps(values))
    (adapter / WEIGHTS).unlink()
    assert "has no adapter" in problem(tiny_model, adapter)
    (adapter / CONFIG).unlink()
    assert "there is no run" in problem(tiny_model, adapter)
    assert "there is no run 'sft-9'" in problem(tiny_model, "sft-9")
    with pytest.raises(UserError, match="no layer is named 'self_attn"):
        attach(load(str(tiny_model)).module, Lora(keys=("self_attn.query",)))


def test_a_run_is_found_by_name_and_its_hash_follows_its_files(tiny_model, rows, home):
    settings = Settings(
        model=str(tiny_model), data=(str(rows),), iters=1, name="mine", eval_split=0.0
    )
    for _ in start(METHODS["sft"], settings, METHODS["sft"].config())[1]:
        pass
    folder = home / "runs" / "mine"
    assert resolve_adapter("mine") == folder
    assert resolve_adapter(folder) == folder
    before = adapter_hash(folder)
    (folder / CONFIG).write_text((folder / CONFIG).read_text() + "\n")
    assert len({before, adapter_hash(folder), adapter_hash(None)}) == 3


def test_a_reward_head_is_saved_and_loaded(tmp_path):
    head = RewardHead(64)
    head.weight, head.bias = mx.random.normal((64,)), mx.array([0.5])
    hidden = mx.random.normal((5, 64))
    save_head(tmp_path, head)
    assert mx.array_equal(load_head(tmp_path, 64)(hidden), head(hidden))
    expected = np.array(hidden) @ np.array(head.weight) / 8 + 0.5
    np.testing.assert_allclose(np.array(head(hidden)), expected, rtol=1e-5, atol=1e-5)
    assert mx.array_equal(RewardHead(64)(hidden), mx.zeros(5))
    half = head(hidden.astype(mx.float16))
    assert half.dtype == mx.float32
    with pytest.raises(UserError, match=r"64 wide, the model 32") as error:
        load_head(tmp_path, 32)
    assert FILE in error.value.problem
    with pytest.raises(UserError, match="has no reward head"):
        load_head(tmp_path / "elsewhere", 64)


@pytest.mark.parametrize(
    "shapes", [{"weight": 64}, {"bias": 1}, {"weight": 64, "bias": 2}, {"weight": 64, "b": 1}]
)
def test_a_damaged_reward_head_is_named(tmp_path, shapes):
    tensors = {name: mx.zeros((size,)) for name, size in shapes.items()}
    mx.save_safetensors(str(tmp_path / FILE), tensors)
    with pytest.raises(UserError) as error:
        load_head(tmp_path, 64)
    assert FILE in error.value.problem


def test_a_reward_run_keeps_its_head_out_of_the_adapter(tiny_model, trained, tmp_path):
    row = {"prompt": "q", "chosen": "yes yes", "rejected": "no"}
    pairs = written(tmp_path / "pairs.jsonl", [row | {"prompt": f"q{i}"} for i in range(8)])
    folder = trained("reward", data=(str(pairs),))
    assert not [name for name in mx.load(str(folder / WEIGHTS)) if "head" in name]
    head = load_head(folder, 64)
    assert mx.abs(head.weight).max().item() > 0
    stock(tiny_model, folder)  # mlx-lm takes the adapter all the same


@pytest.mark.slow  # stock mlx_lm is; the tiny model shows the same above
@pytest.mark.model
def test_the_embedded_model_gives_the_same_tokens_with_stock_mlx_lm(embedded_model, rows, home):
    settings = Settings(
        model=str(embedded_model), data=(str(rows),), iters=2, batch_size=2, learning_rate=2e-3,
        warmup=0.0, eval_split=0.0,
    )  # fmt: skip
    run, events = start(METHODS["sft"], settings, METHODS["sft"].config())
    for _ in events:
        pass
    ours = load(str(embedded_model), run.path)
    ids = ours.tokenizer.render([{"role": "user", "content": "Name three colours."}], True)
    tokens = our_greedy(ours, ids)
    assert stock_greedy(stock(embedded_model, run.path), ids, 12)[: len(tokens)] == tokens
    assert tokens != our_greedy(load(str(embedded_model)), ids)
