"""A training run of any method, from its settings to its adapter, as a stream of events.

``start`` makes the run's folder, ``resume`` goes on with one. Whoever consumes the events (the
command line, a notebook, a test) decides how they look; another process reads the run's files.
"""

from functools import partial

from minialign.methods import Method
from minialign.training import offline, online
from minialign.training.lifecycle import Driver, resume_with, start_with
from minialign.training.rounds import run as rounds


def driver_of(method: Method) -> Driver:
    """What happens in a run of a method: on rows, on its own answers, or in rounds of both."""
    if method.rounds:
        return rounds.events
    return online.events if method.on_policy else offline.events


start = partial(start_with, driver_of)
resume = partial(resume_with, driver_of)
