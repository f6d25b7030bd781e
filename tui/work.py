"""What is asked of the lane: an answer in pieces, a second candidate, a pair, a model in memory.

Each function gives work for ``Lane.submit``; heavy modules are imported on the lane.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from minialign.engine.mlx_thread import Engines, Ticket, Which, Work
from minialign.progress import Progress
from minialign.records import Message

if TYPE_CHECKING:
    from minialign.records import Comparison


@dataclass(frozen=True)
class Text:
    """A piece of an answer."""

    text: str
    reason: str | None  # why it ended, on the last piece
    seed: int


def _get(engines: Engines, ticket: Ticket, which: Which) -> Any:
    def tell(what: str, done: int, total: int) -> None:
        ticket.check()
        ticket.on_item(Progress(what, done, total))

    if which not in engines.held():
        ticket.on_item(Progress(f"loading {which.label}", 0, 0))
    return engines.get(which, tell)


def answer(
    which: Which,
    messages: Sequence[Message],
    sampling: dict[str, Any],
    seed: int,
    attempts: int,
) -> Work:
    """Work whose items are ``Progress`` and ``Text``."""

    def work(engines: Engines, ticket: Ticket) -> Iterator[Any]:
        engine = _get(engines, ticket, which)
        from minialign.chat.turns import Conversation, reply
        from minialign.engine import Sampling

        turns = list(messages)
        system = turns.pop(0)["content"] if turns and turns[0]["role"] == "system" else ""
        conversation = Conversation(system, seed, turns, attempts)
        drawn = conversation.answer_seed()

        def reading(done: int, total: int) -> None:
            ticket.check()
            if total > 256:
                ticket.on_item(Progress("reading", done, total))

        pieces = reply(engine, conversation, Sampling(**sampling), reading)
        try:
            for piece in pieces:
                yield Text(piece.text, piece.finish_reason, drawn)
        finally:
            pieces.close()

    return work


def candidate(
    which: Which,
    messages: Sequence[Message],
    sampling: dict[str, Any],
    seed: int,
    attempts: int,
    first: str,
) -> Work:
    """Work whose last item is another answer than ``first``, (its text, its seed and finish
    reason); None when the model only ever gives that one."""
    if sampling.get("temperature") == 0:
        sampling = {**sampling, "temperature": 0.7}

    def work(engines: Engines, ticket: Ticket) -> Iterator[Any]:
        found = None
        for extra in range(1, 4):
            text, drawn = "", {}
            for item in answer(which, messages, sampling, seed, attempts + extra)(engines, ticket):
                text += item.text
                drawn = {"seed": item.seed, "finish_reason": item.reason}
                yield item
            if text.strip() and text.strip() != first.strip():
                found = text, drawn
                break
        yield found

    return work


def pair(which: Which, prompt: list[Message], sampling: dict[str, Any], seed: int) -> Work:
    """Work whose last item is a pair to label, or None."""

    def work(engines: Engines, ticket: Ticket) -> Iterator[Any]:
        engine = _get(engines, ticket, which)
        from minialign.engine import Sampling
        from minialign.labels.items import write_two_answers

        origin = {"model": engine.model.name}
        if which.adapter:
            origin["adapter"] = which.adapter
        steps = 0

        def pressed() -> bool:
            nonlocal steps
            steps += 1
            if steps % 8 == 0:
                ticket.on_item(Progress("writing two answers", steps, 0))
            return ticket.pressed()

        yield from write_two_answers(
            engine, prompt, Sampling(**sampling), origin, seed, pressed, lambda: ticket.cancelled
        )

    return work


def doubt(scorer: str, pairs: Sequence["Comparison"]) -> Work:
    """Work whose items are (key of a pair, how sure the scorer is of it)."""

    def work(engines: Engines, ticket: Ticket) -> Iterator[Any]:
        ticket.on_item(Progress(f"loading {scorer}", 0, 0))
        from minialign.scoring.uncertainty import measure_certainty

        yield from measure_certainty(scorer, pairs, ticket.check)

    return work


def warm(which: Which) -> Work:
    """Work that loads a model which is on this disk, so that the first answer comes sooner; its
    item is whether it did."""

    def work(engines: Engines, ticket: Ticket) -> Iterator[bool]:
        from minialign.engine.open import base_of
        from minialign.models.names import DEFAULT
        from minialign.models.sources.fetch import find

        if find(which.model or base_of(which.adapter) or DEFAULT) is None:
            yield False
            return
        _get(engines, ticket, which)
        yield True

    return work


def choices(runs_too: bool = True) -> list[tuple[Which, str, bool]]:
    """(model and adapter, a note, whether it is here) of all that can answer. Runs in a thread."""
    from minialign.models.library import installed
    from minialign.models.names import DEFAULT, catalog
    from minialign.run_folder import list_runs

    here = {entry.name for entry in installed()}
    found: list[tuple[Which, str, bool]] = []
    names = sorted(here, key=lambda name: (name != DEFAULT, name))
    found += [(Which(name), "", True) for name in names]
    if runs_too:
        for run in reversed(list_runs()):
            if not (run.path / "adapters.safetensors").exists():
                continue
            try:
                config = run.config
            except Exception:  # a damaged run is told on its own screen
                continue
            if config.get("method") != "reward":
                note = f"{config.get('method', '?')} run"
                found.append((Which(str(config.get("model")), run.name), note, True))
    for name, named in catalog().items():
        if name not in here:
            found.append((Which(name), f"fetches {named.disk_bytes / 1e6:,.0f} MB first", False))
    return found
