"""Work for the model thread: a judge compares pairs."""

import threading
from collections.abc import Iterator, Sequence
from typing import Any

from minialign.engine.mlx_thread import Engines, ModelChoice, Tell, Ticket
from minialign.judge.plans import Plan
from minialign.labels.items import Shown

AT_ONCE = 2  # pairs; between two batches the model thread turns to others


def judge_pairs(
    plan: Plan, pairs: Sequence[Shown], stop: threading.Event, engines: Engines, ticket: Ticket
) -> Iterator[Any]:
    """Give a ``Verdict`` for each pair."""
    from minialign.judge.ask import Duel, judge_duels, open_judge

    ticket.tell(f"opening {plan.judge}")
    how = {
        name: getattr(plan, name) for name in ("template", "url", "explain", "debias", "criteria")
    }
    engine = _get_engine(plan, engines, ticket.tell)
    judge = open_judge(plan.judge, engine=engine, progress=ticket.tell, **how)
    duels = []
    for one in pairs:
        file = str(one.a_from.get("file", ""))
        duels.append(Duel(one.prompt, one.a, one.b, None, file, one.a_from, one.b_from))
    yield from judge_duels(judge, duels, file=plan.file, batch_size=AT_ONCE, stop=stop)


def _get_engine(plan: Plan, engines: Engines, tell: Tell) -> Any:
    """The judge's model as the chat holds it, so that it is in memory once; None when the judge is
    of another kind."""
    if plan.url or plan.judge.startswith("reward:"):
        return None
    from minialign.engine.open import base_of
    from minialign.models.names import DEFAULT, catalog
    from minialign.models.sources.fetch import find

    is_model = plan.judge in catalog() or find(plan.judge) is not None
    wanted = ModelChoice(plan.judge) if is_model else ModelChoice(base_of(plan.judge), plan.judge)
    for loaded in engines.loaded:
        if loaded.adapter == wanted.adapter and (loaded.model or DEFAULT) == wanted.model:
            wanted = loaded
    return engines.get(wanted, tell)
