"""``minialign`` as a process of its own: started, held, killed, waited for."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from support.places import ROOT

PACED = ROOT / "tests" / "support" / "paced.py"


def command(
    home: Path,
    *arguments: object,
    program: tuple[object, ...] = ("-m", "minialign"),
    **options: Any,
) -> subprocess.Popen[str]:
    """``minialign …`` as a process of its own, in this MINIALIGN_HOME."""
    return subprocess.Popen(
        [sys.executable, *map(str, program), *map(str, arguments)],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "MINIALIGN_HOME": str(home), "PYTHONPATH": str(ROOT)},
        **options,
    )


def held(home: Path, rows: int, file: Path, *arguments: object) -> subprocess.Popen[str]:
    """``minialign …``, which waits after so many lines of metrics until ``file`` is there."""
    return command(home, *arguments, program=(PACED, "hold", rows, file))


def killed(home: Path, rows: int, seconds: float, *arguments: object) -> bool:
    """Run ``minialign …`` and kill it so long after so many lines of metrics; False when it ended
    before."""
    process = command(home, *arguments, program=(PACED, "kill", rows, seconds))
    return ended(process)[0] == -signal.SIGKILL


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
