"""A training run of any method, from its settings to its adapter, as a stream of events.

``start`` makes the run's folder, ``resume`` goes on with one. Whoever consumes the events (the
command line, a notebook, a test) decides how they look; another process reads the run's files.
"""

import threading
from collections.abc import Callable, Iterator
from typing import Any

from minialign.methods import Method
from minialign.run_folder import Run
from minialign.training import offline, online
from minialign.training.events import Event
from minialign.training.lifecycle import Driver, resume_with, start_with
from minialign.training.rounds import run as rounds
from minialign.training.settings import Settings


def driver_of(method: Method) -> Driver:
    """What happens in a run of a method: on rows, on its own answers, or in rounds of both."""
    if method.rounds:
        return rounds.events
    return online.events if method.on_policy else offline.events


def start(
    method: Method,
    settings: Settings,
    config: Any,
    stop: threading.Event | None = None,
    progress: Callable[[str, int, int], None] | None = None,
) -> tuple[Run, Iterator[Event]]:
    """A new run's folder and its events, as ``start_with`` has them.

    Raises:
        UserError: for settings that no run can use, a model that is not to be had, or a folder
            that is taken.
    """
    return start_with(driver_of(method), method, settings, config, stop, progress)


def resume(run: Run, stop: threading.Event | None = None) -> Iterator[Event]:
    """The events of a run that was stopped or killed, from where it was.

    Raises:
        UserError: when the run is finished, running, or of something that cannot be resumed.
    """
    return resume_with(driver_of, run, stop)
