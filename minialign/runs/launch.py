"""Training runs as processes of their own: start, resume, stop, and the end of their log.

A run started here has its own process group and session, so closing whatever started it, or its
terminal, ends nothing. What it says goes to ``logs/NAME.log`` in the home.
"""

import contextlib
import itertools
import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from minialign.errors import UserError
from minialign.home import folder, home
from minialign.run_folder import Run, flags

TAIL = 64_000  # bytes of a log that are looked at


@dataclass
class Launched:
    """A process that was started from here."""

    name: str
    log: Path
    process: subprocess.Popen[bytes]
    began_at: int  # where in the log this process begins

    @property
    def code(self) -> int | None:
        """Its exit code; None while it runs."""
        return self.process.poll()

    def said(self) -> str:
        """What it said, from its log."""
        return read_log(self.log, self.began_at)


def free_name(method: str) -> str:
    """METHOD-N, the first that neither a run nor a log has."""
    names = (f"{method}-{number}" for number in itertools.count(1))
    runs = home() / "runs"
    return next(n for n in names if not (runs / n).exists() and not log_path(n).exists())


def log_path(name: str) -> Path:
    """Where the log of a run of that name is, if it was started from here."""
    return home() / "logs" / f"{name}.log"


def start(method: str, options: Mapping[str, Any]) -> Launched:
    """Start a training run with these options; it is named when they do not name it.

    Raises:
        UserError: when the process cannot be started.
    """
    name = str(options.get("name") or free_name(method))
    return _launch(name, [method, *flags({**options, "name": name})])


def resume(run: Run) -> Launched:
    """Go on with a run that was stopped or killed.

    Raises:
        UserError: when it is being trained, or is finished.
    """
    status = run.state().status
    if status in ("running", "finished"):
        raise UserError(f"run {run.name} is {status}", "only what was stopped can go on")
    return _launch(run.name, ["runs", "resume", str(run.path)])


def stop(run: Run) -> None:
    """Ask a run to stop after the step under way; it saves a checkpoint.

    Raises:
        UserError: when nobody trains it.
    """
    pid = run.pid()
    if pid is None:
        raise UserError(f"run {run.name} is not being trained", "there is nothing to stop")
    try:
        os.kill(pid, signal.SIGINT)
    except OSError as reason:
        fix = f"kill -INT {pid}"
        raise UserError(f"cannot stop run {run.name}: {reason.strerror}", fix) from None


def spawn(
    words: list[str], log: Path, said: str, **options: Any
) -> tuple[subprocess.Popen[bytes], int]:
    """(a process of the command line in a session of its own, where in ``log`` it begins to speak,
    behind what is ``said`` of its command)."""
    command = [sys.executable, "-m", "minialign", *words]
    options |= {"env": {**os.environ, "PYTHONUNBUFFERED": "1"}, "stdin": subprocess.DEVNULL}
    with open(log, "ab") as file:
        file.write(f"$ minialign {said}\n".encode())
        file.flush()
        began_at = file.tell()
        options |= {"stdout": file, "stderr": file, "start_new_session": True}
        return subprocess.Popen(command, **options), began_at


def _launch(name: str, words: list[str]) -> Launched:
    try:
        folder("logs")
        process, began_at = spawn(words, log_path(name), " ".join(words))
    except OSError as reason:
        raise UserError(f"cannot start the run: {reason}", "is there room on the disk?") from None
    return Launched(name, log_path(name), process, began_at)


def tail(name: str, lines: int) -> list[str]:
    """The last lines of a run's log; [] when it was not started from here."""
    return read_log(log_path(name), -TAIL).replace("\r", "\n").splitlines()[-lines:]


def read_log(path: Path, start: int) -> str:
    """At most ``TAIL`` bytes of a log from ``start`` on, which counts from its end when negative;
    "" when it cannot be read."""
    with contextlib.suppress(OSError), open(path, "rb") as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(max(0, size + start) if start < 0 else start)
        return file.read(TAIL).decode("utf-8", "replace")
    return ""
