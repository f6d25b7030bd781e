"""The pictures of the app: the committed ones are small and show nothing of a machine; the script
that makes them runs, here with a tiny model, from its runs and votes to the drawings."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
from support.places import ROOT

FOLDER = ROOT / "examples" / "pictures"
LARGEST = 150_000  # bytes


def check(folder: Path) -> None:
    for file in folder.glob("*.svg"):
        text = file.read_text(encoding="utf-8")
        assert file.stat().st_size < LARGEST, file.name
        assert not re.search(r"(?<![\w.])/(tmp|home|root|work|Users)/", text), file.name
        assert "@font-face" not in text, file.name  # nothing is fetched from elsewhere
        assert "That did not work" not in text, file.name


def test_the_committed_pictures():
    assert len(list(FOLDER.glob("*.svg"))) >= 8
    check(FOLDER)


@pytest.mark.slow
def test_the_app_draws_them(tmp_path, tiny_model):
    models, drawn = tmp_path / "models", tmp_path / "pictures"
    models.mkdir()
    (models / "smollm2-135m-4bit").symlink_to(tiny_model)
    program = [sys.executable, "-m", "support.screens", str(drawn)]
    done = subprocess.run(
        [*program, "--models", str(models), "--iters", "4", "--votes", "3"],
        cwd=ROOT / "tests",
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr
    made, kept = ({file.name for file in place.glob("*.svg")} for place in (drawn, FOLDER))
    assert made == kept
    check(drawn)
