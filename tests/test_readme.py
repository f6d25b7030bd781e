"""README's promises: its two commands are the Makefile's, and every command in it runs."""

import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from support.places import MODEL_HOME, ROOT

README = ROOT / "README.md"


def blocks():
    return re.findall(r"```bash\n(.*?)```", README.read_text(encoding="utf-8"), re.DOTALL)


def commands():
    """The ``minialign`` lines of the README's shell blocks, without their comments."""
    lines = [line for block in blocks() for line in block.splitlines()]
    return [shlex.split(line, comments=True) for line in lines if line.startswith("minialign ")]


def test_the_two_commands_are_the_makefiles():
    first = blocks()[0].split("\n")
    targets = [line.split("#")[0].split()[1] for line in first if line.startswith("make ")]
    assert targets == ["demo", "test"]
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    for target in targets:
        assert re.search(rf"^{target}:", makefile, re.MULTILINE)


@pytest.mark.model
@pytest.mark.slow
def test_every_command_in_the_readme_runs(tmp_path: Path, embedded_model: Path):
    home = tmp_path / "home"
    home.mkdir()
    (home / "models").symlink_to(MODEL_HOME / "models")
    shutil.copytree(ROOT / "examples", tmp_path / "examples")
    found = commands()
    assert len(found) >= 8
    for command in found:
        done = subprocess.run(
            [sys.executable, "-m", "minialign", *command[1:]],
            cwd=tmp_path, capture_output=True, text=True, timeout=600, stdin=subprocess.DEVNULL,
            env={**os.environ, "MINIALIGN_HOME": str(home), "PYTHONPATH": str(ROOT)},
        )  # fmt: skip
        assert done.returncode == 0, f"{shlex.join(command)}\n{done.stdout}\n{done.stderr}"
