"""An answer of the chat becomes a pair to label: with the one beside it, or with a second one."""

from typing import Any

from minialign.chat.store import Turn
from minialign.engine.mlx_thread import Lane, Which
from minialign.labels.items import Waiting
from minialign.records import Comparison, Message
from tui import work as answers
from tui.job import Job

KEPT = ("model", "adapter", "seed", "finish_reason")  # of where an answer came from


async def set_aside(
    lane: Lane, turn: Turn, prompt: list[Message], sampling: dict[str, Any], seed: int
) -> str | None:
    """Put an answer and another one among the pairs that wait; why that failed, or None.

    Raises:
        UserError: when it cannot be written, or the model fails.
    """
    other = turn.origin.get("beside")
    if isinstance(other, dict):
        texts, origins = [turn.content, str(other["text"])], [turn.origin, other]
    else:
        which = Which(turn.origin.get("model"), turn.origin.get("adapter"))
        attempts = int(turn.origin.get("attempts", 0))
        work = answers.candidate(which, prompt, sampling, seed, attempts, turn.content)
        found = await Job(lane, work).result()
        if found is None:
            return "The model gives the same answer each time"
        text, drawn = found
        texts, origins = [turn.content, text], [turn.origin, {**turn.origin, **drawn}]
    if texts[0].strip() == texts[1].strip():
        return "Both answers are the same"
    kept = [{key: origin[key] for key in KEPT if key in origin} for origin in origins]
    Waiting().add(Comparison(prompt, *texts, a_from=kept[0], b_from=kept[1]))
    return None
