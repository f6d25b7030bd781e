"""A training run in words: a line of the list, what stands above its plots, its answers."""

import time
from typing import Any

from textual.content import Content

from minialign.runs.summary import Sample, Summary
from tui.widgets.text import one_line, printable

SAMPLES = 100  # that are shown
SIGNS = {
    "running": ("●", "$success"),
    "finished": ("✓", "$text-muted"),
    "stopped": ("■", "$text-muted"),
    "failed": ("✗", "$error"),
    "interrupted": ("!", "$warning"),
    "new": ("○", "$text-muted"),
    "broken": ("?", "$error"),
}


def line_of(run: Summary, overlaid: bool) -> Content:
    """A run in the list: how it stands, its step and its figure."""
    mark, colour = SIGNS.get(run.status, ("?", "$text-muted"))
    steps = f"{run.step}/{run.total}" if run.total else str(run.step or "")
    figure = f"{run.loss:.3f}" if run.loss is not None else ""
    if run.eval_accuracy is not None:
        figure = f"{100 * run.eval_accuracy:.0f} %"
    if run.reward is not None:
        figure = f"r {run.reward:.2f}"
    return Content.assemble(
        (f"{mark} ", colour),
        ("◆" if overlaid else " ", "$accent"),
        f"{run.name[:20]:<16} ",
        (f"{steps:>7} {figure:>6}", "$text-muted"),
    )


def list_answers(samples: list[Sample]) -> Content:
    """The newest first, one step after the other."""
    if not samples:
        return Content("This run kept no answers; ppo does.")
    parts: list[Any] = []
    for at, sample in enumerate(reversed(samples[-SAMPLES:])):
        facts = [f"step {sample.step}"]
        if sample.reward is not None:
            facts.append(f"reward {sample.reward:.3g}")
        if sample.kl is not None:
            facts.append(f"kl {sample.kl:.3g}")
        prompt = one_line(sample.prompt)[:300]
        parts += ["\n" if at else "", (" · ".join(facts) + "\n", "bold $primary")]
        parts += [(prompt + "\n", "$text-muted"), printable(sample.response.strip()) + "\n"]
    return Content.assemble(*parts)


def describe(run: Summary, smoothing: float) -> Content:
    """A run in words, above its plots."""
    status = run.status + (f": {run.message}" if run.message else "")
    parts = [f"{run.method} on {run.model}", status]
    if run.total:
        parts.append(f"step {run.step} of {run.total}")
    if run.reward is not None:
        parts.append(f"reward {run.reward:.3g}")
    elif run.loss is not None:
        parts.append(f"loss {run.loss:.4f}")
    if run.eval_accuracy is not None:
        parts.append(f"held-out accuracy {100 * run.eval_accuracy:.0f} %")
    if smoothing:
        parts.append(f"smoothed {smoothing}")
    age = time.strftime("%d %b %H:%M", time.localtime(time.time() - run.age))
    return Content.assemble((run.name, "bold"), "  ", " · ".join([*parts, age]))
