"""What every test may use: a fresh MINIALIGN_HOME, models that are made or fetched once, rows as a
file, the command as a process."""

import gc
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import hypothesis
import pytest
from tiny import make_tiny_model

# The same examples in each run, and no limit to their time: a test fails by what it tests.
hypothesis.settings.register_profile(
    "tests",
    deadline=None,
    derandomize=True,
    suppress_health_check=[hypothesis.HealthCheck.too_slow],
)
hypothesis.settings.load_profile("tests")

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


def command(
    home: Path,
    *arguments: object,
    program: tuple[object, ...] = ("-m", "minialign"),
    **options: Any,
) -> subprocess.Popen[str]:
    """``minialign …`` as a process of its own, in this MINIALIGN_HOME."""
    return subprocess.Popen(
        [sys.executable, *map(str, program), *map(str, arguments)],
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        env={**os.environ, "MINIALIGN_HOME": str(home), "PYTHONPATH": str(ROOT)}, **options,
    )  # fmt: skip


def held(home: Path, rows: int, file: Path, *arguments: object) -> subprocess.Popen[str]:
    """``minialign …``, which waits after so many lines of metrics until ``file`` is there."""
    return command(home, *arguments, program=(ROOT / "tests" / "paced.py", "hold", rows, file))


def killed(home: Path, rows: int, seconds: float, *arguments: object) -> bool:
    """Run ``minialign …`` and kill it so long after so many lines of metrics; False when it ended
    before."""
    program = (ROOT / "tests" / "paced.py", "kill", rows, seconds)
    return ended(command(home, *arguments, program=program))[0] == -signal.SIGKILL


def ended(process: subprocess.Popen[str], seconds: float = 300) -> tuple[int, str, str]:
    """(exit code, stdout, stderr) of a process when it ends."""
    out, err = process.communicate(timeout=seconds)
    assert "Traceback" not in err, err
    return process.returncode, out, err


def wait_until(process: subprocess.Popen[str], reached: Callable[[], Any]) -> None:
    """Wait until a process has reached something; it fails when the process ends before."""
    end = time.monotonic() + 300  # only a process that hangs takes so long
    while True:
        alive = process.poll() is None
        if reached():
            return
        assert alive, process.communicate()
        assert time.monotonic() < end, "it hangs"
        time.sleep(0.005)


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
