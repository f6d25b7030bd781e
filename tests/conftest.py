"""What every test may use: a fresh MINIALIGN_HOME, models that are made or fetched once, rows as a
file, the command as a process."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
from tiny import make_tiny_model

# Started in the background of a script, Ctrl-C would be ignored, here and in every child.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

ROOT = Path(__file__).resolve().parent.parent
# The embedded model is fetched once and kept between test runs (git-ignored).
MODEL_HOME = Path(os.environ.get("MINIALIGN_TEST_HOME") or ROOT / ".test-home")
DATA = Path(os.environ.get("MINIALIGN_TEST_DATA") or ROOT.parent / "shared" / "data")


def written(path: Path, rows: Iterable[Any]) -> Path:
    """A JSONL file of these rows."""
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def command(home: Path, *arguments: object, **options: Any) -> subprocess.Popen[str]:
    """``minialign …`` as a process of its own, in this MINIALIGN_HOME."""
    return subprocess.Popen(
        [sys.executable, "-m", "minialign", *map(str, arguments)],
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        env={**os.environ, "MINIALIGN_HOME": str(home), "PYTHONPATH": str(ROOT)}, **options,
    )  # fmt: skip


def ended(process: subprocess.Popen[str], seconds: float = 300) -> tuple[int, str, str]:
    """(exit code, stdout, stderr) of a process when it ends."""
    out, err = process.communicate(timeout=seconds)
    assert "Traceback" not in err, err
    return process.returncode, out, err


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty MINIALIGN_HOME for this test."""
    path = tmp_path / "home"
    monkeypatch.setenv("MINIALIGN_HOME", str(path))
    return path


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny random 4-bit Llama with a ChatML template, in MLX layout."""
    return make_tiny_model(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="session")
def embedded_model() -> Path:
    """The folder of the embedded model, SmolLM2-135M-Instruct in 4 bits (fetched if absent)."""
    from minialign.models.fetch import ensure

    before = os.environ.get("MINIALIGN_HOME")
    os.environ["MINIALIGN_HOME"] = str(MODEL_HOME)
    try:
        return ensure("smollm2-135m-4bit")
    finally:
        if before is None:
            del os.environ["MINIALIGN_HOME"]
        else:
            os.environ["MINIALIGN_HOME"] = before


@pytest.fixture(scope="session")
def data() -> Path:
    """The folder of real data sets kept beside the project."""
    if not DATA.exists():
        pytest.skip(f"no real data sets at {DATA} (set MINIALIGN_TEST_DATA)")
    return DATA
