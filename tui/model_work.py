"""Work for the model thread: answers, a pair to label, a judge's verdicts, a model in memory.

With its first arguments given (``partial``) each function is work for ``ModelThread.submit``; heavy
modules are imported on that thread.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from threading import Event
from typing import TYPE_CHECKING, Any

from minialign.engine.mlx_thread import Engines, ModelChoice, Ticket
from minialign.progress import Progress, Tell
from minialign.records import Message

if TYPE_CHECKING:
    from minialign.engine import Engine
    from minialign.judge.plans import Plan
    from minialign.records import Comparison


AT_ONCE = 2  # pairs that are judged; between two batches the thread turns to others


@dataclass(frozen=True)
class Asked:
    """What an answer is drawn from; ``attempts`` are those that were drawn before."""

    choice: ModelChoice
    messages: Sequence[Message]
    sampling: dict[str, Any]
    seed: int
    attempts: int = 0


@dataclass(frozen=True)
class Text:
    """A piece of an answer."""

    text: str
    reason: str | None  # why it ended, on the last piece
    seed: int


def get_engine(engines: Engines, ticket: Ticket, choice: ModelChoice) -> "Engine":
    """A model in memory, and word of its loading."""
    if choice not in engines.loaded:
        ticket.tell(f"loading {choice.label}")
    return engines.get(choice, ticket.tell)


def write_answer(asked: Asked, engines: Engines, ticket: Ticket) -> Iterator[Any]:
    """Give an answer in pieces of ``Text``."""
    engine = get_engine(engines, ticket, asked.choice)
    from minialign.chat.turns import Conversation, reply
    from minialign.engine import Sampling

    turns = list(asked.messages)
    system = turns.pop(0)["content"] if turns and turns[0]["role"] == "system" else ""
    conversation = Conversation(system, asked.seed, turns, asked.attempts)
    seed = conversation.answer_seed()

    def read_on(done: int, total: int) -> None:
        ticket.check()
        if total > 256:
            ticket.tell("reading", done, total)

    pieces = reply(engine, conversation, Sampling(**asked.sampling), read_on)
    try:
        for piece in pieces:
            yield Text(piece.text, piece.finish_reason, seed)
    finally:
        pieces.close()


def write_another_answer(
    asked: Asked, first: str, engines: Engines, ticket: Ticket
) -> Iterator[Any]:
    """Give pieces, then another answer than ``first``: (its text, its seed and finish reason); None
    when the model only ever gives that one."""
    sampling = asked.sampling
    if sampling.get("temperature") == 0:
        sampling = {**sampling, "temperature": 0.7}
    for attempt in range(asked.attempts + 1, asked.attempts + 4):
        text, drawn = "", {}
        again = replace(asked, sampling=sampling, attempts=attempt)
        for item in write_answer(again, engines, ticket):
            text += item.text
            drawn = {"seed": item.seed, "finish_reason": item.reason}
            yield item
        if text.strip() and text.strip() != first.strip():
            yield text, drawn
            return
    yield None


def write_pair(asked: Asked, engines: Engines, ticket: Ticket) -> Iterator[Any]:
    """Give a pair to label last, or None."""
    choice = asked.choice
    engine = get_engine(engines, ticket, choice)
    from minialign.engine import Sampling
    from minialign.labels.items import write_two_answers

    origin = {"model": engine.model.name}
    if choice.adapter:
        origin["adapter"] = choice.adapter
    steps = 0

    def is_pressed() -> bool:
        nonlocal steps
        steps += 1
        if steps % 8 == 0:
            ticket.on_item(Progress("writing two answers", steps, 0))
        return ticket.pressed()

    prompt, sampling = list(asked.messages), Sampling(**asked.sampling)
    yield from write_two_answers(
        engine, prompt, sampling, origin, asked.seed, is_pressed, lambda: ticket.cancelled
    )


def measure_doubt(
    scorer: str, pairs: Sequence["Comparison"], engines: Engines, ticket: Ticket
) -> Iterator[Any]:
    """Give (key of a pair, how sure the scorer is of it)."""
    ticket.tell(f"loading {scorer}")
    from minialign.scoring.uncertainty import measure_certainty

    yield from measure_certainty(scorer, pairs, ticket.check)


def load_model(choice: ModelChoice, engines: Engines, ticket: Ticket) -> Iterator[Any]:
    """Load a model if it is on this disk, for a sooner first answer; give whether it is."""
    from minialign.engine.open import base_of
    from minialign.models.names import DEFAULT
    from minialign.models.sources.fetch import find

    here = find(choice.model or base_of(choice.adapter) or DEFAULT) is not None
    if here:
        get_engine(engines, ticket, choice)
    yield here


def judge_pairs(
    plan: "Plan", pairs: Sequence["Comparison"], stop: Event, engines: Engines, ticket: Ticket
) -> Iterator[Any]:
    """Give a ``Verdict`` for each pair; it ends soon after ``stop`` is set."""
    from minialign.judge.ask import judge_comparisons
    from minialign.judge.open import open_judge

    ticket.tell(f"opening {plan.judge}")
    engine = _get_judge_model(plan, engines, ticket.tell)
    judge = open_judge(plan.judge, plan.options, engine=engine, progress=ticket.tell)
    located = [replace(pair, source=str(pair.a_from.get("file", ""))) for pair in pairs]
    yield from judge_comparisons(judge, located, file=plan.file, batch_size=AT_ONCE, stop=stop)


def _get_judge_model(plan: "Plan", engines: Engines, tell: Tell) -> Any:
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
