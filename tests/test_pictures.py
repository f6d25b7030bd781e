"""The pictures of the app: the committed ones are small and show nothing of a machine; the script
that makes them runs."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOT

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
def test_the_app_draws_them(tmp_path):
    done = subprocess.run(
        [sys.executable, str(ROOT / "tests" / "screens.py"), str(tmp_path)],
        cwd=ROOT, capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    made, kept = ({file.name for file in place.glob("*.svg")} for place in (tmp_path, FOLDER))
    assert made == kept
    check(tmp_path)
