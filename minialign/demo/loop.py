"""The whole loop on the embedded model: answer, align with the shipped pairs, answer again.

The pairs prefer a sentence or two, plainly and warmly (``examples/README.md``). Everything that is
said at the end is measured on held-out pairs and prompts that training never saw.
"""

import json
import sys
import threading
import time
from collections.abc import Generator, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from minialign import cpu
from minialign.demo.style import follows
from minialign.durable import read_object, write_atomic
from minialign.engine import Engine, Sampling
from minialign.errors import UserError
from minialign.formats import read
from minialign.learn.batch import encode_prompt
from minialign.methods import METHODS
from minialign.models.load import load
from minialign.progress import Progress
from minialign.records import Pair, Prompt
from minialign.run_folder import Run, list_runs, remove_run
from minialign.training import memory
from minialign.training.events import Ended, Event
from minialign.training.settings import Settings
from minialign.training.start import resume, start

NAME = "demo"
SAMPLING = Sampling(temperature=0.7, max_tokens=80)


def examples_folder() -> Path:
    """The shipped examples: in the checkout, or where the wheel installs them.

    Raises:
        UserError: when neither is there.
    """
    beside = Path(__file__).resolve().parents[2] / "examples"
    installed = Path(sys.prefix) / "share" / "minialign" / "examples"
    for folder in (beside, installed):
        if (folder / "concise" / "train.jsonl").exists():
            return folder
    raise UserError(f"the example pairs are not at {installed}", "pip install --force-reinstall .")


def slow_machine() -> bool:
    """Whether this is a CPU without the native kernels, where the demo does less of everything."""
    return cpu.on_cpu() and not cpu.native()


def settings(model: str) -> Settings:
    """The demo's training settings; every other one is the default."""
    folder = examples_folder() / "concise"
    return Settings(
        model=model,
        data=(str(folder / "train.jsonl"),),
        eval_data=(str(folder / "heldout.jsonl"),),
        name=NAME,
        iters=20 if slow_machine() else 32,
        num_layers=16,
        learning_rate=1e-3,
        max_seq_length=512,
        save_every=10,
    )


@dataclass(frozen=True)
class Stage:
    """What begins now."""

    text: str


@dataclass(frozen=True)
class Result:
    """Everything that the demo measured."""

    values: dict[str, Any]


def demo(
    model: str, *, again: bool = False, stop: threading.Event | None = None
) -> Iterator[Event | Stage | Progress | Result]:
    """The events of the demo; the last is its ``Result``, unless it is stopped.

    A finished demo is shown again, an interrupted one goes on; ``again`` starts anew.
    """
    began, stop = time.monotonic(), stop or threading.Event()
    chosen = settings(model)
    pairs = [record for record in read(chosen.eval_data[0]).records if isinstance(record, Pair)]
    prompts = [pair.prompt for pair in pairs[: 24 if slow_machine() else 48]]
    run = next((run for run in list_runs() if run.name == NAME), None)
    if run is not None and (again or run.config.get("model") != model):
        remove_run(run)
        run = None
    if run is not None and (run.path / "demo.json").exists():
        yield Result({**read_object(run.path / "demo.json"), "reused": True})
        return
    method = METHODS["dpo"]
    yield Stage(f"answers to {len(prompts)} held-out prompts, before")
    if run is not None and (run.path / "answers_before.json").exists():
        before = json.loads((run.path / "answers_before.json").read_text(encoding="utf-8"))
    else:
        before = yield from _answer(model, None, prompts)
    yield Stage("preference training on the shipped pairs (DPO)")
    if run is None:
        run, events = start(method, chosen, method.config(nll_weight=1.0), stop)
    else:
        events = resume(run, stop)
    write_atomic(run.path / "answers_before.json", json.dumps(before))
    if run.state().status != "finished":
        for event in events:
            yield event
            if isinstance(event, Ended) and event.values["status"] != "finished":
                return
    yield Stage(f"answers to {len(prompts)} held-out prompts, after")
    after = yield from _answer(model, str(run.path), prompts)
    result = _result(run, prompts, before, after, time.monotonic() - began)
    write_atomic(run.path / "demo.json", json.dumps(result, indent=2, ensure_ascii=False) + "\n")
    yield Result(result)


def _answer(
    model: str, adapter: str | None, prompts: list[Prompt]
) -> Generator[Progress, None, list[str]]:
    """One sampled answer to each prompt, with an event for each."""
    loaded = load(model, adapter)
    ids = [encode_prompt(prompt, loaded.tokenizer) for prompt in prompts]
    texts = [""] * len(prompts)
    drawn = Engine(loaded).generate(ids, SAMPLING, seed=1, batch_size=16)
    for count, done in enumerate(drawn, 1):
        texts[done.prompt_index] = done.text.strip() or " "
        yield Progress("answers", count, len(prompts))
    return texts


def _result(
    run: Run, prompts: list[Prompt], before: list[str], after: list[str], seconds: float
) -> dict[str, Any]:
    summary = read_object(run.path / "summary.json")
    return {
        "run": run.name,
        "path": str(run.path),
        "pairs": summary["after"]["rows"],
        "reward_accuracy": summary["after"]["rewards/accuracies"],
        "logp_accuracy_before": summary["before"]["logps/accuracies"],
        "logp_accuracy_after": summary["after"]["logps/accuracies"],
        "shorter_wins": summary["after"]["shorter_wins"],
        "prompts": [prompt[-1]["content"] for prompt in prompts],
        "before": before,
        "after": after,
        "style_before": sum(map(follows, before)),
        "style_after": sum(map(follows, after)),
        "training_seconds": summary["seconds"],
        "seconds": seconds,
        "peak_memory": memory.peak(),
    }
