"""Configuration: the help is read where the default is written; defaults < file < flags."""

import dataclasses
from dataclasses import dataclass
from typing import Literal

import pytest

from minialign.config import changed, check_keys, field_help, field_type, parts, resolve
from minialign.errors import UserError
from minialign.methods import METHODS
from minialign.methods.rounds import RoundSettings
from minialign.training.settings import Settings, check, with_whole_paths

CONFIGS = [Settings, *(method.config for method in METHODS.values())]


@dataclass(frozen=True)
class Sample:
    """Not a field: neither = this."""

    # above
    above: int = 1
    behind: float = 0.5  # behind it
    # two lines above,
    # the second of them
    both: str = "# no comment"  # and behind
    bare: bool = False
    # a blank line lies between

    parted: int = 2
    # one of three words
    word: Literal["a", "b", "c"] = "a"
    # many words
    words: tuple[Literal["x", "y"], ...] = ()
    # many numbers
    numbers: tuple[float, ...] = (1.0, 2.0)
    # not always there
    maybe: int | None = None


def test_help_is_the_comment_above_and_behind():
    assert field_help(Sample) == {
        "above": "above",
        "behind": "behind it",
        "both": "two lines above, the second of them and behind",
        "bare": "",
        "parted": "",
        "word": "one of three words",
        "words": "many words",
        "numbers": "many numbers",
        "maybe": "not always there",
    }


def test_types_of_fields():
    assert field_type(Sample, "above") == (int, (), False)
    assert field_type(Sample, "word") == (str, ("a", "b", "c"), False)
    assert field_type(Sample, "words") == (str, ("x", "y"), True)
    assert field_type(Sample, "numbers") == (float, (), True)
    assert field_type(Sample, "maybe") == (int, (), False)


@pytest.mark.parametrize("config", CONFIGS, ids=lambda config: config.__module__)
def test_every_setting_has_a_line_of_help_and_a_default(config):
    for part, fields in parts(config):
        check_settings(part, fields)


def check_settings(config, fields):
    texts = field_help(config)
    for field in fields:
        assert len(texts[field.name]) > 8, field.name
        assert "  " not in texts[field.name], field.name
        assert field.default is not dataclasses.MISSING, field.name
        kind, _, _ = field_type(config, field.name)
        assert kind in (int, float, str, bool), field.name
    assert config.__dataclass_params__.frozen


@pytest.mark.parametrize("name", METHODS)
def test_no_method_takes_a_name_of_the_common_settings(name):
    ours = {field.name for field in dataclasses.fields(Settings)}
    theirs = {field.name for field in dataclasses.fields(METHODS[name].config)}
    # "method", "total_steps" and the like are the run's own keys in config.json
    assert not theirs & (ours | {"method", "method_file", "total_steps", "config", "json"})
    assert not ours & {"method", "method_file", "total_steps", "config", "json", "command"}


def test_flags_win_over_the_file_and_the_file_over_defaults():
    found = resolve(Sample, {"above": 5, "both": "f"}, {"above": 7, "numbers": [3]}, "x.toml")
    assert found == Sample(above=7, both="f", numbers=(3.0,))
    assert changed(found) == {"above": 7, "both": "f", "numbers": (3.0,)}
    assert changed(Sample()) == {}


def test_values_take_the_type_of_their_field():
    found = resolve(
        Sample,
        {"behind": "1e-5", "numbers": 4, "words": "x", "maybe": 3, "bare": True, "word": "c"},
        {},
        "x.yaml",
    )
    assert found == Sample(behind=1e-5, numbers=(4.0,), words=("x",), maybe=3, bare=True, word="c")
    assert isinstance(resolve(Sample, {"behind": 2}, {}, "x").behind, float)
    # a key without a value, as YAML allows it, is the default
    assert resolve(Sample, {"above": None, "numbers": None, "maybe": None}, {}, "x") == Sample()


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"above": "five"}, ["above = 'five'", "expected int, got str"]),
        ({"above": 1.5}, ["above = 1.5", "expected int"]),
        ({"above": True}, ["above = True", "expected int"]),
        ({"behind": "much"}, ["behind = 'much'", "no number"]),
        ({"behind": True}, ["behind = True", "expected float"]),
        ({"behind": "nan"}, ["behind = nan", "finite"]),
        ({"behind": float("inf")}, ["behind = inf", "finite"]),
        ({"both": 5}, ["both = 5", "expected str"]),
        ({"bare": 1}, ["bare = 1", "expected bool"]),
        ({"bare": "yes"}, ["bare = 'yes'", "expected bool"]),
        ({"word": "d"}, ["word = 'd'", "known: a, b, c"]),
        ({"words": ["x", "z"]}, ["words = 'z'", "known: x, y"]),
        ({"numbers": ["a"]}, ["numbers = 'a'", "no number"]),
        ({"numbers": {"a": 1}}, ["numbers = {'a': 1}", "expected float"]),
        ({"above": [1]}, ["above = [1]", "expected int"]),
    ],
)
def test_a_wrong_value_is_named_with_its_file(values, words):
    with pytest.raises(UserError) as error:
        resolve(Sample, values, {}, "my.toml")
    said = f"{error.value.problem} {error.value.hint}"
    assert error.value.problem.startswith("my.toml: ")
    for word in words:
        assert word in said
    with pytest.raises(UserError, match="command line: "):
        resolve(Sample, {}, values, "my.toml")


def test_an_unknown_key_names_the_nearest():
    check_keys({"above": 1, "beta": 2}, (Sample, METHODS["dpo"].config), "x")
    with pytest.raises(UserError) as error:
        check_keys({"learning_rat": 1}, (Settings, Sample), "my.toml")
    assert error.value.problem == "my.toml: unknown key 'learning_rat'"
    assert error.value.hint == "did you mean 'learning_rate'?"
    with pytest.raises(UserError) as error:
        check_keys({"zzzzzz": 1}, (Sample,), "my.toml")
    assert "above, bare, behind" in error.value.hint


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"rank": 0}, "rank = 0"),
        ({"batch_size": 0}, "batch_size = 0"),
        ({"grad_accumulation_steps": 0}, "grad_accumulation_steps = 0"),
        ({"max_seq_length": 8}, "at least 16"),
        ({"save_every": 0}, "save_every = 0"),
        ({"steps_per_report": 0}, "steps_per_report = 0"),
        ({"steps_per_eval": -1}, "steps_per_eval = -1"),
        ({"patience": -1}, "patience = -1"),
        ({"patience": 2}, "--steps-per-eval"),
        ({"warmup": -0.1}, "warmup = -0.1"),
        ({"weight_decay": -1.0}, "weight_decay = -1.0"),
        ({"grad_clip": -1.0}, "grad_clip = -1.0"),
        ({"seed": -1}, "seed = -1"),
        ({"seed": 2**64}, "below 2^63"),
        ({"iters": 0}, "iters = 0"),
        ({"epochs": 0.0}, "epochs = 0.0"),
        ({"learning_rate": 0.0}, "learning_rate = 0.0"),
        ({"scale": 0.0}, "scale = 0.0"),
        ({"memory_limit": 0.0}, "memory_limit = 0.0"),
        ({"num_layers": 0}, "num_layers = 0"),
        ({"num_layers": -2}, "num_layers = -2"),
        ({"dropout": 1.0}, "dropout = 1.0"),
        ({"eval_split": 1.0}, "eval_split = 1.0"),
        ({"betas": (0.9,)}, "two numbers"),
        ({"betas": (0.9, 1.0)}, "two numbers"),
        ({"adapter": "a", "reference_adapter": "a"}, "--reference-adapter"),
        ({"out": "a", "name": "b"}, "--out and --name"),
    ],
)
def test_settings_that_no_run_can_use(change, words):
    check(Settings())
    with pytest.raises(UserError) as error:
        check(Settings(**change))
    assert words in f"{error.value.problem} {error.value.hint}"


@pytest.mark.parametrize(
    ("method", "values", "words"),
    [
        ("dpo", {"beta": 0.0}, "beta = 0.0"),
        ("dpo", {"label_smoothing": 0.5}, "label_smoothing = 0.5"),
        ("dpo", {"label_smoothing": -0.1}, "label_smoothing = -0.1"),
        ("dpo", {"loss": "robust"}, "--label-smoothing 0.1"),
        ("dpo", {"loss": "hinge", "label_smoothing": 0.1}, "no meaning for hinge"),
        ("dpo", {"loss": "ipo", "label_smoothing": 0.1}, "no meaning for ipo"),
        ("dpo", {"nll_weight": -1.0}, "nll_weight = -1.0"),
        ("reward", {"centering": -1.0}, "centering = -1.0"),
    ],
)
def test_settings_that_a_method_cannot_use(method, values, words):
    METHODS[method].check(METHODS[method].config())
    with pytest.raises(UserError) as error:
        METHODS[method].check(METHODS[method].config(**values))
    assert words in f"{error.value.problem} {error.value.hint}"


def test_paths_are_made_whole_and_names_are_left(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "rows.jsonl").touch()
    (tmp_path / "model").mkdir()
    (tmp_path / "sft-1").mkdir()  # a folder, but no adapter: the name of a run
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "adapter_config.json").touch()
    settings = Settings(
        model="./model", data=("rows.jsonl", "org/set"), adapter="sft-1",
        reference_adapter="mine", out="result",
    )  # fmt: skip
    whole, none = with_whole_paths(settings, METHODS["sft"].config())
    assert none == METHODS["sft"].config()
    assert whole == dataclasses.replace(
        settings, model=str(tmp_path / "model"), data=(str(tmp_path / "rows.jsonl"), "org/set"),
        reference_adapter=str(tmp_path / "mine"), out=str(tmp_path / "result"),
    )  # fmt: skip
    expert = METHODS["expert"].config(RoundSettings(scorer="reward:mine"), mix=("rows.jsonl",))
    usual, expert = with_whole_paths(Settings(model="model"), expert)
    assert usual == Settings(model="model")
    assert expert.plan.scorer == f"reward:{tmp_path / 'mine'}"
    assert expert.mix == (str(tmp_path / "rows.jsonl"),)
