"""What every test may use: a fresh MINIALIGN_HOME, and models that are made or fetched once."""

import gc
import os
import signal
from pathlib import Path

import hypothesis
import pytest
from support.places import DATA, MODEL_HOME
from support.tiny import make_tiny_model

# The same examples in each run, and no limit to their time: a test fails by what it tests.
hypothesis.settings.register_profile(
    "tests",
    deadline=None,
    derandomize=True,
    suppress_health_check=[hypothesis.HealthCheck.too_slow],
)
hypothesis.settings.load_profile("tests")

# Each process that a test starts would compile the whole program again (0.3 s).
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)

# Started in the background of a script, Ctrl-C would be ignored, here and in every child.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="module", autouse=True)
def frozen() -> None:
    """What earlier files imported and made stays to the end: the collections of garbage that the
    program asks for need not look at it again (a third of a test of rounds)."""
    gc.collect()
    gc.freeze()


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
    from minialign.models.sources.fetch import ensure

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
