"""An answer of the chat becomes a pair to label: with the one beside it, or with a second one."""

from dataclasses import replace
from functools import partial

from minialign.chat.store import Turn
from minialign.engine.mlx_thread import ModelChoice, ModelThread
from minialign.labels.items import Waiting
from minialign.records import Comparison
from tui.model_job import Job
from tui.model_work import Asked, write_another_answer

KEPT = ("model", "adapter", "seed", "finish_reason")  # of where an answer came from


async def set_aside(thread: ModelThread, turn: Turn, asked: Asked) -> str | None:
    """Put an answer and another one among the pairs that wait; why that failed, or None.

    Raises:
        UserError: when it cannot be written, or the model fails.
    """
    origin = turn.origin
    beside = origin.get("beside")
    if isinstance(beside, dict):
        other, other_origin = str(beside["text"]), beside
    else:
        choice = ModelChoice(origin.get("model"), origin.get("adapter"))
        asked = replace(asked, choice=choice, attempts=int(origin.get("attempts", 0)))
        work = partial(write_another_answer, asked, turn.content)
        drawn = await Job(thread, work).result()
        if drawn is None:
            return "The model gives the same answer each time"
        other, other_origin = drawn[0], {**origin, **drawn[1]}
    if turn.content.strip() == other.strip():
        return "Both answers are the same"
    a, b = ({key: one[key] for key in KEPT if key in one} for one in (origin, other_origin))
    Waiting().add(Comparison(list(asked.messages), turn.content, other, a_from=a, b_from=b))
    return None
