"""The law of the rooms: who may import whom, how large a room may be, and what starts at once.

The layers stand in ``pyproject.toml`` and import-linter reads them, imports inside functions too.
"""

import json
import os
import resource
import shutil
import subprocess
import sys
import textwrap
import tomllib
from pathlib import Path

import pytest
from support.places import ROOT

SLOW = ("mlx_lm", "transformers", "textual", "torch", "matplotlib", "pyarrow", "datasets")
LINT = "import sys; from importlinter.cli import lint_imports_command as lint; sys.exit(lint())"
WIDE = {"cli", "formats", "methods"}  # one file a command, a format, a method


def lint(folder: Path) -> tuple[int, str]:
    """(exit code, what is said) of import-linter on the packages of a folder."""
    done = subprocess.run(
        [sys.executable, "-c", LINT, "--no-cache"],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(folder)},
        capture_output=True,
        text=True,
        timeout=300,
    )
    return done.returncode, done.stdout + done.stderr


def unlisted_rooms(folder: Path) -> set[str]:
    """The rooms and modules of minialign that stand in no layer."""
    law = tomllib.loads((folder / "pyproject.toml").read_text(encoding="utf-8"))
    layers = law["tool"]["importlinter"]["contracts"][0]["layers"]
    listed = {word.strip(" ()") for layer in layers for word in layer.replace("|", ":").split(":")}
    there = {f"minialign.{path.stem}" for path in (folder / "minialign").glob("*.py")}
    there |= {
        f"minialign.{path.parent.name}" for path in (folder / "minialign").glob("*/__init__.py")
    }
    return there - listed - {"minialign.__init__", "minialign.__main__"}


@pytest.fixture(scope="module")
def copy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Both packages as they are, to be broken."""
    folder = tmp_path_factory.mktemp("copy")
    shutil.copy(ROOT / "pyproject.toml", folder)
    for package in ("minialign", "tui"):
        shutil.copytree(
            ROOT / package,
            folder / package,
            ignore=lambda at, names: {
                name for name in names if Path(at, name).is_file() and not name.endswith(".py")
            },
        )
    return folder


def test_the_layers_hold_and_no_room_has_a_circle():
    code, said = lint(ROOT)
    assert code == 0, said


def test_every_room_stands_in_the_layers(copy: Path):
    assert unlisted_rooms(ROOT) == set()
    (copy / "minialign" / "misc").mkdir()
    (copy / "minialign" / "misc" / "__init__.py").touch()
    assert unlisted_rooms(copy) == {"minialign.misc"}
    shutil.rmtree(copy / "minialign" / "misc")


VIOLATIONS = [  # (file, what is added to it, what is said of it)
    ("minialign/learn/losses.py", "def f():\n    import minialign.training", "learn is not"),
    ("minialign/cli/runs.py", "from tui import app", "minialign.cli is not allowed"),
    ("tui/app.py", "def f():\n    from minialign.cli import console", "tui is not allowed"),
    (
        "minialign/statistics/logistic.py",
        "import minialign.statistics.length_control",
        ".logistic",
    ),
    ("minialign/engine/engine.py", "from minialign.cpu import blas", "minialign.cpu.blas"),
]


def test_each_violation_is_caught(copy: Path):
    before = {file: (copy / file).read_text(encoding="utf-8") for file, _, _ in VIOLATIONS}
    for file, line, _ in VIOLATIONS:
        (copy / file).write_text(f"{before[file]}\n{line}\n", encoding="utf-8")
    code, text = lint(copy)
    for file, source in before.items():
        (copy / file).write_text(source, encoding="utf-8")
    assert code == 1
    for file, _, said in VIOLATIONS:
        assert said in text, file


def test_no_room_is_an_attic():
    rooms = [path.parent for path in (ROOT / "minialign").rglob("__init__.py")]
    rooms += [path.parent for path in (ROOT / "tui").rglob("__init__.py")]
    for room in rooms:
        files = [path for path in room.glob("*.py") if path.name != "__init__.py"]
        assert len(files) <= 15 or room.name in WIDE, f"{room}: {len(files)} files"
    for room in (ROOT / "minialign").iterdir():
        if room.is_dir() and room.name not in ("cpu", "cli"):
            files = list(room.rglob("*.py"))
            lines = sum(len(path.read_text(encoding="utf-8").splitlines()) for path in files)
            assert lines <= 3500, f"{room}: {lines} lines"


def fresh(code: str) -> str:
    """What ``code`` prints in a new interpreter."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", textwrap.dedent(code)]
    return subprocess.run(
        command, capture_output=True, text=True, check=True, env=environment, timeout=300
    ).stdout


@pytest.mark.parametrize(("package", "allowed"), [("minialign", ""), ("tui", "textual")])
def test_no_module_waits_for_a_slow_package(package: str, allowed: str):
    """Those of minialign.cpu do, which its functions load."""
    loaded = fresh(
        f"""
        import importlib, json, pkgutil, sys, {package}
        for _, name, _ in pkgutil.walk_packages({package}.__path__, "{package}."):
            if not name.startswith("minialign.cpu.") and not name.endswith("__main__"):
                importlib.import_module(name)
        print(json.dumps(sorted({{name.partition(".")[0] for name in sys.modules}})))
        """
    )
    assert set(SLOW) & set(json.loads(loaded)) <= {allowed}


def test_help_imports_nothing_heavy():
    loaded = fresh(
        """
        import contextlib, io, json, sys
        from minialign.cli import main
        with contextlib.redirect_stdout(io.StringIO()) as out:
            assert main(["--help"]) == 0
        assert "minialign COMMAND" in out.getvalue()
        print(json.dumps(sorted({name.partition(".")[0] for name in sys.modules})))
        """
    )
    heavy = {*SLOW, "mlx", "numpy", "rich", "tokenizers", "huggingface_hub", "jinja2"}
    assert heavy & set(json.loads(loaded)) == set()


def test_help_takes_a_tenth_of_a_second_of_the_processor():
    def computed() -> float:
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        command = [sys.executable, "-m", "minialign", "--help"]
        subprocess.run(command, check=True, cwd=ROOT, stdout=subprocess.DEVNULL)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime

    assert min(computed() for _ in range(5)) <= 0.1


def test_the_lowest_rooms_start_without_any_package():
    rooms = ("errors", "sampling", "home", "config", "progress", "records", "formats")
    code = f"import importlib, sys; sys.path[:0] = [{str(ROOT)!r}]\n"
    code += f"for room in {rooms}: importlib.import_module(f'minialign.{{room}}')\nprint('fine')"
    command = [sys.executable, "-I", "-S", "-c", code]
    result = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert (result.stdout, result.stderr) == ("fine\n", "")
