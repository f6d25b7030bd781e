"""A run is a folder, and its state can be told from the files alone.

``FILES`` says what is in it. ``outcome.json`` is absent while it runs and when it was killed,
``run.lock`` held (flock) by the training process for as long as it lives, a checkpoint
(``checkpoints/000050``) complete or absent.
"""

import contextlib
import fcntl
import itertools
import os
import re
import shutil
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

from minialign.durable import Journal, now, read_jsonl, read_object, to_disk, write_json
from minialign.errors import UserError, nearest
from minialign.home import folder, home

# What a run's folder may hold at its top level, with a word for people. A run outside the home is
# only removed when it holds nothing else.
FILES = {
    "config.json": "the resolved configuration",  # with the method's name
    "env.json": "versions, device, command line",
    "metrics.jsonl": "one line a logged step",  # append only
    "adapters.safetensors": "the adapter (mlx-lm's format)",
    "adapter_config.json": "the adapter's shape",
    "reward_head.safetensors": "the reward head",
    "value_head.safetensors": "the value head",
    "samples.jsonl": "some answers of each phase",
    "control.json": "the words that its prompts need",
    "best": "the adapter with the best evaluation",
    "checkpoints": "what resuming needs",
    "rounds": "candidates and the training run of each round",
    "bad_rows.jsonl": "rows of the data that were skipped",
    "data.sha256": "tells on resuming whether the data changed",
    "summary.json": "the result in numbers",
    "outcome.json": "how it ended",
    "run.lock": "held while it trains",
}


@dataclass(frozen=True)
class State:
    """What a run is doing.

    ``status`` is "new" (nothing trained yet), "running" (a live process holds its lock),
    "finished", "stopped" (Ctrl-C or early stop asked by the user), "failed" (``message`` says why)
    or "interrupted" (the process died without a word).
    """

    status: str
    message: str = ""
    step: int = 0
    total: int = 0


class Run:
    """One run's folder. Only the process that trains it holds its lock."""

    def __init__(self, path: Path):
        self.path = path
        self.name = path.name

    def __repr__(self) -> str:
        state = self.state()
        of = f" of {state.total}" if state.total else ""
        return f"Run({self.name}: {state.status}, step {state.step}{of}, {self.path})"

    @staticmethod
    def create(
        method: str, config: dict[str, Any], out: Path | None = None, name: str | None = None
    ) -> "Run":
        """A new run folder under the home (``METHOD-N``), or at ``out``.

        Raises:
            UserError: when the folder already holds a run.
        """
        if out is None:
            out = _fresh_folder(method, name)
        elif _holds_a_run(out):
            fix = f"resume it with: minialign runs resume {out}   or choose another folder"
            raise UserError(f"{out} already holds a run", fix)
        elif (out / "config.json").exists():
            said = f"{out} already holds a config.json that is no run's (a model?)"
            raise UserError(said, "choose another folder")
        try:
            out.mkdir(parents=True, exist_ok=True)
        except OSError as reason:
            said = f"cannot make the folder of the run: {reason}"
            raise UserError(said, "choose another folder") from None
        run = Run(out)
        write_json(out / "config.json", {"method": method, **config})
        write_json(out / "env.json", _environment())
        return run

    @staticmethod
    def open(name_or_path: str | Path) -> "Run":
        """The run of this name under the home, or in this folder.

        Raises:
            UserError: when there is none; it names the nearest.
        """
        named = home() / "runs" / str(name_or_path)
        is_name = str(name_or_path) not in ("", ".", "..") and "/" not in str(name_or_path)
        if is_name and (named / "config.json").exists():
            return Run(named)
        here = Path(name_or_path).expanduser()
        if _holds_a_run(here):
            return Run(here.resolve())
        if (here / "config.json").exists():
            raise UserError(f"{here / 'config.json'} is not the configuration of a run")
        names = [run.name for run in list_runs()]
        hint = nearest(str(name_or_path), names) if names else "there are no runs yet"
        raise UserError(f"there is no run {str(name_or_path)!r}", hint)

    @property
    def config(self) -> dict[str, Any]:
        """The resolved configuration, with the key "method"."""
        path = self.path / "config.json"
        try:
            return read_object(path)
        except FileNotFoundError:
            raise UserError(f"the run {self.name} has vanished: {path} is not there") from None
        except (OSError, ValueError) as reason:
            raise UserError(f"{path}: {reason}", f"minialign runs rm {self.name}") from None

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the run for training.

        Raises:
            UserError: when another process trains it.
        """
        try:
            file = open(self.path / "run.lock", "a+", encoding="utf-8")  # noqa: SIM115
        except OSError as reason:
            raise UserError(f"cannot train in {self.path}: {reason.strerror}") from None
        with file:
            if not _flock(file, fcntl.LOCK_EX, patience=1.0):
                fix = f"look at it: minialign runs show {self.name}"
                raise UserError(f"run {self.name} is being trained by another process", fix)
            file.truncate(0)
            file.write(str(os.getpid()))
            file.flush()
            (self.path / "outcome.json").unlink(missing_ok=True)
            yield

    def is_locked(self) -> bool:
        """Whether a live process trains this run."""
        try:
            with open(self.path / "run.lock", encoding="utf-8") as file:
                return not _flock(file, fcntl.LOCK_SH)
        except OSError:
            return False  # never trained, vanished, or not ours to read

    def pid(self) -> int | None:
        """The process that trains this run, while it lives."""
        text = ""
        if self.is_locked():
            with contextlib.suppress(OSError):
                text = (self.path / "run.lock").read_text(encoding="utf-8").strip()
        return int(text) if text.isdecimal() else None

    def started(self) -> float:
        """When the run was made, in seconds since 1970; 0 when its folder has vanished."""
        for name in ("env.json", "config.json"):
            with contextlib.suppress(OSError):
                return (self.path / name).stat().st_mtime
        return 0.0

    def log(self, kind: str, step: int, values: dict[str, Any]) -> None:
        """Append one line to the metrics.

        Raises:
            UserError: when the run's folder was taken away meanwhile.
        """
        row = {"kind": kind, "step": step, "time": round(time.time(), 3), **values}
        try:
            Journal(self.path / "metrics.jsonl").append(row)
        except UserError:
            if self.path.exists():
                raise
            raise UserError(f"the folder of run {self.name} has vanished: {self.path}") from None

    def metrics(self, kind: str | None = None) -> list[dict[str, Any]]:
        """The rows logged, in order of step; of steps done again after a resume, the last."""
        rows: dict[tuple[str, int], dict[str, Any]] = {}
        for row in read_jsonl(self.path / "metrics.jsonl"):
            if isinstance(row.get("step"), int) and (kind is None or row.get("kind") == kind):
                rows[str(row.get("kind", "")), row["step"]] = row
        return sorted(rows.values(), key=lambda row: row["step"])

    def finish(self, status: str, message: str = "") -> None:
        """Record how the run ended."""
        write_json(self.path / "outcome.json", {"status": status, "message": message}, indent=None)

    def state(self) -> State:
        """What the run is doing, from its files."""
        rows = self.metrics("train")
        step = rows[-1]["step"] if rows else 0
        total = int(self.config.get("total_steps") or 0)
        if self.is_locked():
            return State("running", step=step, total=total)
        try:
            outcome = read_object(self.path / "outcome.json")
            return State(str(outcome["status"]), str(outcome.get("message", "")), step, total)
        except (OSError, ValueError, KeyError):
            began = bool(rows) or (self.path / "run.lock").exists()
            return State("interrupted" if began else "new", step=step, total=total)

    def set_total(self, steps: int) -> None:
        """Write the number of steps into the configuration, once the data are counted."""
        write_json(self.path / "config.json", {**self.config, "total_steps": steps})

    def checkpoints(self) -> list[int]:
        """Steps with a complete checkpoint, ascending."""
        names = (path.name for path in (self.path / "checkpoints").glob("[0-9]*"))
        return sorted(int(name) for name in names if name.isdecimal())

    def checkpoint_path(self, step: int) -> Path:
        """The folder of the checkpoint of a step."""
        return self.path / "checkpoints" / f"{step:06d}"

    def save_checkpoint(self, step: int, write: Callable[[Path], None], keep: int = 2) -> None:
        """Call ``write(folder)`` and then make that folder the checkpoint of ``step``, whole or not
        at all; the newest ``keep`` checkpoints stay."""
        final = self.checkpoint_path(step)
        for left_over in final.parent.glob(".*.tmp"):  # of a process killed while it wrote
            shutil.rmtree(left_over, ignore_errors=True)
        draft = final.with_name(f".{final.name}.tmp")
        draft.mkdir(parents=True)
        try:
            write(draft)
            for path in filter(Path.is_file, draft.rglob("*")):
                to_disk(path)
        except BaseException:
            shutil.rmtree(draft, ignore_errors=True)
            raise
        if final.exists():
            _discard(final)
        os.replace(draft, final)
        for old in self.checkpoints()[:-keep]:
            _discard(self.checkpoint_path(old))

    def drop_checkpoints(self, after: int) -> None:
        """Delete the checkpoints of the steps after ``after``."""
        for step in (step for step in self.checkpoints() if step > after):
            _discard(self.checkpoint_path(step))

    def began(self) -> bool:
        """Whether anything was made in it that is worth keeping: a metric, weights, answers."""
        kept = [self.path / "metrics.jsonl", self.path / "adapters.safetensors"]
        kept += [*self.path.glob("checkpoints/[0-9]*"), *self.path.glob("rounds/*.jsonl")]
        return any(path.exists() and path.stat().st_size for path in kept)


def take_back(run: Run) -> None:
    """Delete what ``Run.create`` and the start of a run made, and the folder when it holds nothing
    else."""
    for name in ("config.json", "env.json", "data.sha256", "run.lock"):
        (run.path / name).unlink(missing_ok=True)
    for path in run.path.glob("rounds/*.jsonl"):
        path.unlink()  # empty: see ``began``
    with contextlib.suppress(OSError):
        (run.path / "rounds").rmdir()
    with contextlib.suppress(OSError):
        run.path.rmdir()


def _discard(path: Path) -> None:
    """Delete a folder so that a kill never leaves half of it under its name."""
    doomed = path.with_name(f".{path.name}.old.tmp")
    shutil.rmtree(doomed, ignore_errors=True)
    os.replace(path, doomed)
    shutil.rmtree(doomed, ignore_errors=True)


def _flock(file: TextIO, kind: int, patience: float = 0.0) -> bool:
    """Lock a file; False when another process holds it for longer than ``patience`` seconds.

    A watcher that asks ``is_locked`` holds the lock for an instant, and must not turn a trainer
    away by that. It shares its lock with other watchers and writes nothing, which a ``FileLock``
    of filelock cannot.
    """
    deadline = time.monotonic() + patience
    while True:
        try:
            fcntl.flock(file, kind | fcntl.LOCK_NB)
            return True
        except BlockingIOError:
            if time.monotonic() >= deadline:
                return False
            time.sleep(0.02)


def _holds_a_run(path: Path) -> bool:
    """Whether a folder's config.json is a run's (models have a file of that name too)."""
    try:
        return "method" in read_object(path / "config.json")
    except (OSError, ValueError):
        return False


def _fresh_folder(method: str, name: str | None) -> Path:
    try:
        runs = folder("runs")
    except OSError as reason:
        said = f"cannot make the folder of the runs: {reason}"
        raise UserError(said, "set MINIALIGN_HOME to a folder of yours") from None
    if name is not None:
        if not re.fullmatch(r"\w[\w.+-]*", name):
            fix = "use letters, digits and . _ + - ; a folder elsewhere is given by --out"
            raise UserError(f"{name!r} is no name for a run", fix)
        try:
            (runs / name).mkdir()
        except FileExistsError:
            fix = f"minialign runs rm {name}, or another --name"
            raise UserError(f"there is a run {name!r} already", fix) from None
        return runs / name
    for fresh in (runs / f"{method}-{number}" for number in itertools.count(1)):
        with contextlib.suppress(FileExistsError):
            fresh.mkdir()
            break
    return fresh


def _environment() -> dict[str, Any]:
    import platform  # only a new run needs these
    from importlib.metadata import PackageNotFoundError, version

    versions = {}
    for package in ("minialign", "mlx", "mlx-lm", "numpy", "tokenizers"):
        with contextlib.suppress(PackageNotFoundError):
            versions[package] = version(package)
    return {
        "versions": versions,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "argv": sys.argv,
        "time": now(),
    }


def list_runs() -> list[Run]:
    """All runs under the home, oldest first."""
    runs = [Run(path.parent) for path in (home() / "runs").glob("[!.]*/config.json")]
    return sorted(runs, key=lambda run: (run.started(), run.name))


def remove_run(run: Run) -> None:
    """Delete a run's folder.

    Raises:
        UserError: when it is being trained, or lies outside the home beside files that are not its.
    """
    if run.is_locked():
        raise UserError(f"run {run.name} is being trained", f"stop it first: kill {run.pid()}")
    if run.path.parent.resolve() == (home() / "runs").resolve():
        _discard(run.path) if not run.path.is_symlink() else run.path.unlink()
        return
    others = sorted(path.name for path in run.path.iterdir() if path.name not in FILES)
    if others:
        said = f"{run.path} holds files that are not the run's: {', '.join(others[:5])}"
        raise UserError(said, "move them away, or delete the folder yourself")
    shutil.rmtree(run.path)


def flags(options: Mapping[str, Any]) -> list[str]:
    """Options as the command line has them; None is left out."""
    words: list[str] = []
    for name, value in options.items():
        flag = name.replace("_", "-")
        if isinstance(value, bool):
            words.append(f"--{flag}" if value else f"--no-{flag}")
        elif isinstance(value, list | tuple):
            words += [f"--{flag}", *map(str, value)] if value != () else []
        elif value is not None:
            words.append(f"--{flag}={value}")
    return words
