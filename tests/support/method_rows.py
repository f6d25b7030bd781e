"""Runs of a method on the rows of the tests of methods."""

import numpy as np

from minialign.training.settings import Settings
from minialign.training.start import start

WORDS = ["fox", "dog", "quick", "lazy", "brown", "over", "jumps", "yes"]


def close(values, expected):
    np.testing.assert_allclose(np.array(values, np.float64), expected, rtol=1e-5, atol=1e-5)


def settings(tiny_model, file, **changes):
    return Settings(
        **{
            "model": str(tiny_model),
            "data": (str(file),),
            "learning_rate": 1e-2,
            "max_seq_length": 200,
            "eval_split": 0.25,
            "seed": 1,
            **changes,
        }
    )


def finished(method, chosen, **config):
    run, events = start(method, chosen, method.config(**config))
    return run, list(events)
