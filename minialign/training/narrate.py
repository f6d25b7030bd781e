"""The events of a run in words, for the command line, the demo and a notebook alike."""

import contextlib
import signal
import threading
from collections.abc import Iterator
from typing import Any

from minialign.progress import Line, duration, say, size
from minialign.statistics.shares import share_text
from minialign.training import events
from minialign.training.events import Event


def narrate(event: Event, line: Line) -> None:
    """Show an event to a person: what passes on the live line, what stays on one of its own."""
    match event:
        case events.Note(text) | events.PhaseSampled(text):
            line.clear()
            say(text)
        case events.ReferenceRead(done, total, values):
            text = f"reference log-probs {done}/{total}"
            if cached := values["cached"]:
                text += f" ({cached} were on disk)"
            if done == total:
                line.clear()
                say(text)
            elif cached < total:
                line.update(text)
        case events.Updated(done, total):
            line.update(_step_text(event), force=done in (1, total))
        case events.Sampled(text, done, total, values):
            left = f", {duration(values['eta'])} left" if done < total else ""
            line.update(text + left)
        case events.Evaluating(done, total):
            line.update(f"held out {done}/{total}")
        case events.Evaluated():
            line.clear()
            say(event.text or _eval_text(event))


def _step_text(event: events.Updated) -> str:
    values = event.values
    parts = [f"step {event.step}/{event.total}", f"loss {values['loss']:.4f}"]
    for key in ("rewards/accuracies", "ratings/accuracies"):
        if key in values:
            parts.append(f"accuracy {values[key]:.2f}")
    if "rewards/margins" in values:
        parts.append(f"margin {values['rewards/margins']:.3f}")
    if "approx_kl" in values:
        parts.append(f"approx_kl {values['approx_kl']:.4f}, clipped {values['clipfrac']:.2f}")
    parts.append(f"{values['tokens_per_second']:.0f} tokens/s")
    parts.append(size(values["peak_memory"]))
    if event.step < event.total:
        parts.append(f"{duration(values['eta'])} left")
    return ", ".join(parts)


def _eval_text(event: events.Evaluated) -> str:
    values = event.values
    text = f"held out, step {event.step}: loss {values['loss']:.4f}"
    if "rewards/accuracies" in values and event.step:
        rows = values["rows"]
        text += f", accuracy {share_text(round(values['rewards/accuracies'] * rows), rows)}"
        text += f"; shorter answer wins {100 * values['shorter_wins']:.1f} %"
    if "ratings/accuracies" in values and event.step:
        text += f", accuracy {100 * values['ratings/accuracies']:.1f} %"
    if "rewards/length_correlation" in values and event.step:
        text += f"; correlation of reward and length {values['rewards/length_correlation']:+.2f}"
    return text


def summarise(summary: events.Values) -> str:
    """What a finished run took, in one line."""
    shared, separate = summary["shared_batches"], summary["separate_batches"]
    return (
        f"finished: {summary['steps']} steps in {duration(summary['seconds'])}, "
        f"{summary['tokens']} tokens, peak {size(summary['peak_resident'])} "
        f"({size(summary['peak_memory'])} by MLX's count); "
        f"prompts shared in {shared} of {shared + separate} batches"
    )


@contextlib.contextmanager
def stop_on_interrupt(stop: threading.Event | None = None) -> Iterator[threading.Event]:
    """Ctrl-C or SIGTERM sets the event once, so that a run can save; the second time it kills."""
    stop = stop or threading.Event()

    def ask(number: int, frame: Any) -> None:
        if stop.is_set():
            raise KeyboardInterrupt
        stop.set()
        say("\nstopping after this step (again: at once) …")

    before = {number: signal.signal(number, ask) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
