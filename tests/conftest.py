"""Fixtures every test may use: a fresh MINIALIGN_HOME, models that are made or fetched once."""

import os
import signal
from pathlib import Path

import pytest
from tiny import make_tiny_model

# Started in the background of a script, Ctrl-C would be ignored, here and in every child.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

ROOT = Path(__file__).resolve().parent.parent
# The embedded model is fetched once and kept between test runs (git-ignored).
MODEL_HOME = Path(os.environ.get("MINIALIGN_TEST_HOME") or ROOT / ".test-home")
DATA = Path(os.environ.get("MINIALIGN_TEST_DATA") or ROOT.parent / "shared" / "data")


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
