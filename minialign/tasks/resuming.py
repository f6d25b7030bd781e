"""Going on with any run, whatever made it."""

import threading
from collections.abc import Iterator

from minialign.runs import Run
from minialign.tasks import ppo, rounds, train
from minialign.tasks.round_methods import LOOPS
from minialign.tasks.session import Event


def resume(run: Run, stop: threading.Event | None = None) -> Iterator[Event]:
    """The events of a run that was stopped or killed, from where it was.

    Raises:
        UserError: when the run is finished, running, or of something that cannot be resumed.
    """
    method = run.config.get("method")
    owner = ppo if method == "ppo" else rounds if method in LOOPS else train
    return owner.resume(run, stop)
