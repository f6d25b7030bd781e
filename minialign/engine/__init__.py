"""The one door to a loaded model for inference: stream, sample n, log-probs. Ids in, ids out."""

from minialign.engine.answers import Completion, Piece, Request, requests
from minialign.engine.engine import Engine
from minialign.sampling import Sampling

__all__ = ["Completion", "Engine", "Piece", "Request", "Sampling", "requests"]
