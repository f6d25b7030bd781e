"""What responses are worth, and which of them to keep: scorers, best-of-n."""

from minialign.select.scorer import Scorer

__all__ = ["Scorer"]
