"""What begins and ends a run, whatever drives it: its folder, its settings, its lock.

A driver is what happens in between (``offline``, ``online``, ``rounds``); ``start`` chooses it.
"""

import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from minialign.config import flat, resolve
from minialign.errors import UserError
from minialign.methods import Method
from minialign.methods.own import method_of
from minialign.models.sources.fetch import ensure
from minialign.run_folder import Run, take_back
from minialign.training.events import Event
from minialign.training.examples import check_data
from minialign.training.settings import Settings, check, with_whole_paths

# (run, method, settings, config, stop) -> everything that happens
Driver = Callable[[Run, Method, Settings, Any, threading.Event], Iterator[Event]]


def start_with(
    driver_of: Callable[[Method], Driver],
    method: Method,
    settings: Settings,
    config: Any,
    stop: threading.Event | None = None,
    progress: Callable[[str, int, int], None] | None = None,
) -> tuple[Run, Iterator[Event]]:
    """A new run's folder, and its events; nothing is trained before the first event is taken.

    Setting ``stop`` ends the run after the step under way, with a checkpoint; ``progress`` is
    called with (what, done, total) while the model is fetched.

    Raises:
        UserError: for settings that no run can use, a model that is not to be had, or a folder
            that is taken.
    """
    check(settings)
    method.check(config)
    if method.rounds and not settings.data:
        raise UserError("no prompts", "--data prompts.txt   (or rows with prompts, JSONL…)")
    for name in method.unused if method.rounds else ():
        if getattr(settings, name) != getattr(Settings(), name):
            raise UserError(f"{name} has no meaning for {method.name}", "leave it out")
    settings, config = with_whole_paths(settings, config)
    check_data(settings)
    ensure(settings.model, progress)
    values = {**flat(settings), **flat(config)}
    if method.file:
        values["method_file"] = method.file
    out = Path(settings.out) if settings.out else None
    run = Run.create(method.name, values, out, settings.name)
    return run, _drive(driver_of(method), run, (method, settings, config), stop, fresh=True)


def resume_with(
    driver_of: Callable[[Method], Driver], run: Run, stop: threading.Event | None = None
) -> Iterator[Event]:
    """The events of a run that was stopped or killed, from where it was, to the same weights as if
    it had not been.

    Raises:
        UserError: when the run is finished, running, or of something that cannot be resumed.
    """
    stored = run.config
    method = method_of(stored)
    if method is None:
        raise UserError(f"run {run.name}: method {stored.get('method')!r} cannot be resumed")
    if run.state().status == "finished":
        fix = f"to {'go' if method.rounds else 'train'} on from it: minialign {method.command}"
        fix += f" --adapter {run.name} --data FILE{' --scorer SCORER' * method.on_policy}"
        raise UserError(f"run {run.name} is finished", fix)
    where = str(run.path / "config.json")
    settings = resolve(Settings, stored, {}, where)
    config = resolve(method.config, stored, {}, where)
    return _drive(driver_of(method), run, (method, settings, config), stop, fresh=False)


def _drive(
    driver: Driver,
    run: Run,
    told: tuple[Method, Settings, Any],
    stop: threading.Event | None,
    fresh: bool,
) -> Iterator[Event]:
    """The driver's events, under the run's lock. A user's mistake ends the run; a fresh run that
    made nothing yet leaves name and folder free for the next try."""
    with run.locked():
        try:
            yield from driver(run, *told, stop or threading.Event())
        except UserError as reason:
            if fresh and not run.began():
                take_back(run)
            else:
                run.finish("failed", reason.problem)
            raise
