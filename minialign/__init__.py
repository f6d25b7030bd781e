"""minialign: teach a small quantized Llama your preferences, on your laptop.

The names below are loaded when they are used: ``minialign.api`` says what each does.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from minialign.api import ask_judge, best_of_n, generate, load, read, scorer, train, win_rates
    from minialign.errors import UserError
    from minialign.learn import losses
    from minialign.records import Comparison, Demonstration, Pair, Ranking, Rated

__version__ = "0.1.0"
__all__ = ["Comparison", "Demonstration", "Pair", "Ranking", "Rated", "UserError", "losses"]
__all__ += ["ask_judge", "best_of_n", "generate", "load", "read", "scorer", "train", "win_rates"]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module 'minialign' has no attribute {name!r}")
    from minialign import api

    return getattr(api, name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
