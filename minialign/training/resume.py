"""Going on with any run, whatever made it."""

import threading
from collections.abc import Iterator

from minialign.methods.rounds import LOOPS
from minialign.run_folder import Run
from minialign.training import offline, online
from minialign.training.events import Event
from minialign.training.rounds import run as rounds


def resume(run: Run, stop: threading.Event | None = None) -> Iterator[Event]:
    """The events of a run that was stopped or killed, from where it was.

    Raises:
        UserError: when the run is finished, running, or of something that cannot be resumed.
    """
    method = run.config.get("method")
    owner = online if method == "ppo" else rounds if method in LOOPS else offline
    return owner.resume(run, stop)
