"""The one door to a loaded model for inference: stream, sample n, log-probs. Ids in, ids out.

Its names load MLX when they are first asked for: the app's first frame needs the thread alone.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from minialign.engine.answers import Completion, Piece, Request, requests
    from minialign.engine.engine import Engine
    from minialign.sampling import Sampling

__all__ = ["Completion", "Engine", "Piece", "Request", "Sampling", "requests"]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    places = {"Engine": "minialign.engine.engine", "Sampling": "minialign.sampling"}
    return getattr(import_module(places.get(name, "minialign.engine.answers")), name)
