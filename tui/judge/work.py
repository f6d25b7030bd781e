"""Work for the model thread: a judge compares pairs."""

import threading
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

from minialign.engine.mlx_thread import Engines, ModelChoice, Ticket
from minialign.judge.plans import Plan
from minialign.progress import Tell
from minialign.records import Comparison

AT_ONCE = 2  # pairs; between two batches the model thread turns to others


def judge_pairs(
    plan: Plan, pairs: Sequence[Comparison], stop: threading.Event, engines: Engines, ticket: Ticket
) -> Iterator[Any]:
    """Give a ``Verdict`` for each pair."""
    from minialign.judge.ask import judge_comparisons
    from minialign.judge.open import open_judge

    ticket.tell(f"opening {plan.judge}")
    engine = _get_engine(plan, engines, ticket.tell)
    judge = open_judge(plan.judge, plan.options, engine=engine, progress=ticket.tell)
    located = [replace(pair, source=str(pair.a_from.get("file", ""))) for pair in pairs]
    yield from judge_comparisons(judge, located, file=plan.file, batch_size=AT_ONCE, stop=stop)


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
