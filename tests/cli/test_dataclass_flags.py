"""Flags made of fields, and settings files: TOML, mlx-lm's YAML, --print-config and back."""

import argparse
import dataclasses
import json
import tomllib

import pytest

from minialign.cli import main
from minialign.cli.dataclass_flags import ALIASES, add_fields, read_config, to_toml
from minialign.config import parts, resolve
from minialign.errors import UserError
from minialign.methods import METHODS
from minialign.training.settings import Settings

MLX_LM_YAML = """\
# as in mlx-lm's own examples/lora_config.yaml
model: "mlx-community/Llama-3.2-1B-Instruct"
train: true
fine_tune_type: dora
optimizer: adamw
optimizer_config:
  adamw:
    weight_decay: 0.1
data: "folder/of/data"
seed: 3
num_layers: 16
batch_size: 2
iters: 1000
val_batches: 25
learning_rate: 1e-5
report_to: wandb
steps_per_report: 10
steps_per_eval: 200
resume_adapter_file: null
adapter_path: "adapters"
save_every: 100
test: false
test_batches: 100
max_seq_length: 2048
grad_checkpoint: false
lora_parameters:
  keys: ["self_attn.q_proj", "self_attn.v_proj"]
  rank: 4
  scale: 20.0
  dropout: 0.05
lr_schedule:
  name: cosine_decay
  warmup: 100
  warmup_init: 1e-7
  arguments: [2e-5, 1000, 1e-7]
mask_prompt: true
"""


def printed(capsys, *arguments):
    assert main([*arguments, "--print-config"]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    return tomllib.loads(out)


def refused(capsys, *arguments):
    assert main([*arguments]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    return err


def parsed(config, *arguments):
    parser = argparse.ArgumentParser()
    add_fields(parser, config, "title")
    return vars(parser.parse_args(arguments))


def test_only_typed_flags_are_in_the_arguments():
    assert parsed(Settings) == {}
    found = parsed(
        Settings, "--data", "a", "b", "--batch-size", "2", "--no-share-prompts", "--betas", "0.5",
        "0.6", "-m", "x", "--adapter-path", "y", "--valid-data", "z", "--learning-rate", "1e-3",
        "--grad-checkpoint", "--lr-schedule", "linear",
    )  # fmt: skip
    assert found == {
        "data": ["a", "b"], "batch_size": 2, "share_prompts": False, "betas": [0.5, 0.6],
        "model": "x", "out": "y", "eval_data": ["z"], "learning_rate": 1e-3,
        "grad_checkpoint": True, "lr_schedule": "linear",
    }  # fmt: skip
    assert resolve(Settings, {}, found, "x").data == ("a", "b")


@pytest.mark.parametrize("name", METHODS)
def test_every_field_is_a_flag_with_help_and_default(name):
    for config, own in parts(Settings) + parts(METHODS[name].config):
        parser = argparse.ArgumentParser()
        add_fields(parser, config, "title")
        text = " ".join(parser.format_help().split())
        for field in own:
            assert f"--{field.name.replace('_', '-')}" in text
            for other in ALIASES.get(field.name, ()):
                assert other in text
            if field.default not in (None, (), False, "") and not isinstance(field.default, tuple):
                assert f"({field.default})" in text, field.name


def test_a_toml_file(tmp_path, capsys):
    file = tmp_path / "c.toml"
    file.write_text(
        'data = ["a.jsonl", "b.jsonl"]\nbeta = 0.3\nlearning_rate = 2e-4\niters = 7\n'
        'map = "chosen=better"\n'
    )
    found = printed(capsys, "dpo", "-c", str(file), "--iters", "9")
    assert found["data"] == ["a.jsonl", "b.jsonl"]
    assert (found["beta"], found["learning_rate"]) == (0.3, 2e-4)
    assert found["iters"] == 9  # the flag wins
    assert found["map"] == ["chosen=better"]
    assert found["batch_size"] == Settings().batch_size  # the default stays


@pytest.mark.parametrize("ending", [".yaml", ".yml"])
def test_a_yaml_file_of_mlx_lm(tmp_path, ending):
    file = tmp_path / f"c{ending}"
    file.write_text(MLX_LM_YAML)
    found = resolve(Settings, read_config(str(file)), {}, str(file))
    assert found == Settings(
        model="mlx-community/Llama-3.2-1B-Instruct", data=("folder/of/data",),
        fine_tune_type="dora", seed=3, num_layers=16, batch_size=2, iters=1000,
        learning_rate=2e-5, steps_per_report=10, steps_per_eval=200, out="adapters",
        save_every=100, max_seq_length=2048, keys=("self_attn.q_proj", "self_attn.v_proj"), rank=4,
        scale=20.0, dropout=0.05, lr_schedule="cosine", warmup=100.0,
    )  # fmt: skip


def test_a_yaml_number_that_yaml_reads_as_text(tmp_path, capsys):
    file = tmp_path / "c.yaml"
    file.write_text("learning_rate: 1e-5\ndata: x\nbatch_size:\n")
    found = printed(capsys, "sft", "-c", str(file))
    assert found["learning_rate"] == 1e-5
    assert found["batch_size"] == Settings().batch_size


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("c.toml", "learning_rat = 1", ["c.toml", "'learning_rat'", "learning_rate"]),
        ("c.toml", "gamma = 1", ["unknown key 'gamma'"]),
        ("c.toml", "rank = ", ["c.toml", "line 1"]),
        ("c.toml", "rank: 4", ["c.toml", "YAML files end in .yaml"]),
        ("c.toml", "rank = 'four'", ["c.toml: rank = 'four'", "expected int"]),
        ("c.toml", "loss = 'nonsense'", ["loss = 'nonsense'", "sigmoid, ipo, hinge, robust"]),
        ("c.toml", "beta = nan", ["beta = nan", "finite"]),
        ("c.toml", "[lora]\nrank = 4", ["unknown key 'lora'"]),
        ("c.yaml", "rank: [", ["c.yaml", "line 1"]),
        ("c.yaml", "- rank", ["c.yaml: expected keys and values"]),
        ("c.yaml", "lora_parameters: {ranc: 4}", ["unknown key 'ranc'", "rank"]),
        ("c.yaml", "fine_tune_type: full", ["fine_tune_type = 'full'", "lora, dora"]),
        ("c.yaml", "lr_schedule: {name: exponential_decay}", ["'exponential_decay'", "cosine"]),
        ("c.yaml", "lr_schedule: {name: cosine_decay, warmup: soon}", ["c.yaml: lr_schedule"]),
        ("c.yaml", "lr_schedule: {name: cosine_decay, arguments: {a: 1}}", ["lr_schedule"]),
        ("c.yaml", "lr_schedule: {name: cosine_decay, arguments: [x]}", ["lr_schedule"]),
        ("c.yaml", "lr_schedule: cosine_decay", ["lr_schedule = 'cosine_decay'", "cosine, linear"]),
        ("c.yaml", "5: rank", ["unknown key"]),
    ],
)
def test_a_bad_file_is_named(tmp_path, capsys, name, text, words):
    file = tmp_path / name
    file.write_text(text)
    said = refused(capsys, "dpo", "-c", str(file), "--data", "x", "--print-config")
    assert said.startswith("minialign: ")
    for word in words:
        assert word in said


def test_a_file_that_cannot_be_read_is_named(tmp_path, capsys):
    assert "none.toml" in refused(capsys, "dpo", "-c", str(tmp_path / "none.toml"))
    (tmp_path / "b.toml").write_bytes(b"\xff\xfe\x00")
    assert "b.toml" in refused(capsys, "dpo", "-c", str(tmp_path / "b.toml"))
    assert "Is a directory" in refused(capsys, "dpo", "-c", str(tmp_path))


@pytest.mark.parametrize(
    "arguments",
    [
        ("dpo", "--loss", "nonsense"),
        ("dpo", "--rank", "four"),
        ("dpo", "--learning-rate", "much"),
        ("dpo", "--betas", "a", "b"),
        ("sft", "--beta", "0.1"),
        ("reward", "--train-on", "last"),
        ("sft", "--train-on", "some"),
        ("dpo", "--data"),
    ],
)
def test_a_bad_flag_is_an_error_of_usage(capsys, arguments):
    with pytest.raises(SystemExit) as end:
        main(list(arguments))
    assert end.value.code == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert arguments[1] in err


@pytest.mark.parametrize("method", ["sft", "reward", "dpo"])
def test_printed_settings_are_a_file_that_gives_the_same_settings(tmp_path, capsys, method):
    flags = [
        "--data", "a b.jsonl", 'quote".jsonl', "tab\t\\.jsonl", "ünïcode 🦊.jsonl",
        "--keys", "self_attn.q_proj", "--learning-rate", "3e-7", "--map", "chosen=a=b",
        "--no-share-prompts", "--grad-checkpoint", "--iters", "5", "--betas", "0.8", "0.95",
        "--memory-limit", "2", "--epochs", "1e21",
    ]  # fmt: skip
    assert main([method, *flags, "--print-config"]) == 0
    text = capsys.readouterr().out
    file = tmp_path / "again.toml"
    file.write_text(text)
    values = tomllib.loads(text)
    assert values["data"] == ["a b.jsonl", 'quote".jsonl', "tab\t\\.jsonl", "ünïcode 🦊.jsonl"]
    config = METHODS[method].config
    flags_in_force = {**values}
    assert resolve(config, flags_in_force, {}, "x") == config()
    settings = resolve(Settings, read_config(str(file)), {}, "x")
    assert settings.betas == (0.8, 0.95)
    assert settings.keys == ("self_attn.q_proj",)
    assert not settings.share_prompts
    assert settings.epochs == 1e21
    assert main([method, "-c", str(file), "--print-config"]) == 0
    assert capsys.readouterr().out == text


def test_a_runs_own_config_is_a_file_too(tmp_path):
    # the JSON of a run's config.json, as TOML: "method" is no unknown key
    stored = json.loads(json.dumps(dataclasses.asdict(Settings(data=("x",)))))
    text = to_toml({"method": "sft", **stored})
    assert tomllib.loads(text)["method"] == "sft"
    assert resolve(Settings, tomllib.loads(text), {}, "x") == Settings(data=("x",))


def test_a_file_that_leaves_the_toml_format_is_a_user_error(tmp_path):
    with pytest.raises(UserError):
        read_config(str(tmp_path / "nothing.yaml"))
