"""Pictures (SVG) of every screen, at 80x24 and at 140x45: ``python tests/screens.py FOLDER``.

The pairs are those of examples/concise; conversation and runs are made up, so that the pictures are
the same each time. No model is loaded.
"""

import asyncio
import math
import os
import random
import sys
import tempfile
from pathlib import Path

from scripted import SIZES, Models, make_app, until

from minialign.home import home
from minialign.runs import Run
from minialign.tasks.conversations import Conversations, Talk, Turn
from tui.dialogs import ErrorDialog

ROOT = Path(__file__).resolve().parent.parent
MODEL = "smollm2-135m-4bit"
QUESTION = "How do I read a file line by line in Python?"
ANSWER = """\
Open it with `with`, so that it is closed again, and loop over it:

```python
with open("notes.txt", encoding="utf-8") as file:
    for line in file:
        print(line.rstrip())
```

- The file is read **lazily**: a big one needs no memory.
- `rstrip()` takes the end of the line away.
"""
SHORT = 'Loop over it: `for line in open("notes.txt"): print(line.rstrip())`'


def fill_home() -> None:
    """A conversation and four runs."""
    store = Conversations()
    origin = {"model": MODEL, "seed": 1, "attempts": 0, "good": True}
    beside = {"text": SHORT, "model": MODEL, "adapter": "dpo-2", "seed": 1}
    question = Turn("user", QUESTION)
    for talk in (
        Talk("Names for a cat", turns=[Turn("user", "Names?"), Turn("assistant", "Momo.", origin)]),
        Talk(QUESTION, turns=[question, Turn("assistant", ANSWER, {**origin, "beside": beside})]),
        Talk(QUESTION, turns=[question, Turn("assistant", ANSWER, origin),
                              Turn("user", "日本語でありがとうは？ 🙂"),
                              Turn("assistant", "**ありがとう** (arigatō).", {"model": MODEL})]),
    ):  # fmt: skip
        store.save(talk)
    store.close()
    chance = random.Random(0)
    for name, method, steps, status in (
        ("sft-1", "sft", 60, "finished"), ("dpo-1", "dpo", 35, "stopped"),
        ("reward-1", "reward", 3, "failed"), ("dpo-2", "dpo", 80, "finished"),
    ):  # fmt: skip
        run = Run.create(method, {"model": MODEL, "total_steps": max(steps, 60)}, name=name)
        for step in range(1, steps + 1):
            fall = math.exp(-step / 25)
            values = {"loss": 0.2 + 0.5 * fall + chance.gauss(0, 0.02)}
            if method != "sft":
                values["rewards/accuracies"] = min(1.0, 0.95 - 0.45 * fall + chance.gauss(0, 0.05))
                values["rewards/margins"] = 3 * (1 - fall) + chance.gauss(0, 0.1)
            run.log("train", step, values)
            if step % 20 == 0:
                run.log("eval", step, {**values, "loss": 0.25 + 0.45 * fall})
        (run.path / "adapters.safetensors").write_bytes(b"")
        run.finish(status, "the loss is not a number" if status == "failed" else "")
    (home() / "logs").mkdir(exist_ok=True)
    (home() / "logs" / "dpo-2.log").write_text(
        "$ minialign dpo --data=examples/concise/train.jsonl --name=dpo-2\n"
        "216 examples to train on, 24 held out; 80 steps of 4 examples\n"
        "step 80/80, loss 0.2191, accuracy 0.92, margin 2.881, 410 tokens/s, 1.2 GB\n"
        "finished: 80 steps in 6 min 2 s, 148,112 tokens, peak 1.2 GB\n"
    )


async def pictures(folder: Path, size: tuple[int, int], theme: str) -> None:
    """All screens at one size."""
    app = make_app(Models(), label_source=None, theme=theme)
    app.preferences.label_source = str(ROOT / "examples" / "concise" / "train.jsonl")

    async with app.run_test(size=size) as pilot:

        async def shot(name: str) -> None:
            await pilot.pause(0.3)
            file = folder / f"{name}-{size[0]}x{size[1]}-{theme}.svg"
            file.write_text(app.export_screenshot(title=""), encoding="utf-8")

        await pilot.pause(0.3)
        await shot("chat-empty")
        chat = app.screen
        await chat.show(chat.store.load(3))
        await shot("chat")
        await pilot.press("escape")
        await shot("chat-answer")
        await chat.show(chat.store.load(2))
        await shot("beside")
        for key, name in (("ctrl+o", "conversations"), ("ctrl+s", "settings"),
                          ("ctrl+g", "models"), ("f1", "help"), ("ctrl+p", "palette")):  # fmt: skip
            await pilot.press(key)
            await until(pilot, lambda: app.screen is not chat)
            await shot(name)
            await pilot.press("escape")
            await until(pilot, lambda: app.screen is chat)
        await pilot.press("f3")
        label = app.screen
        await until(pilot, lambda: label.drawn)
        for key in "abta":
            pair = label.drawn
            await pilot.pause(0.4)
            await pilot.press(key)
            await until(pilot, lambda pair=pair: label.drawn is not pair)
        await shot("label")
        await pilot.pause(0.4)
        await pilot.press("e")
        await until(pilot, lambda: app.screen is not label)
        await shot("edit")
        await pilot.press("escape", "f5")
        runs = app.screen
        await until(pilot, lambda: getattr(runs, "seen", None) and runs.seen.chart)
        await shot("runs")
        await pilot.press("space", "down", "down", "m")
        await pilot.pause(1)
        await shot("runs-overlay")
        await pilot.press("n")
        await until(pilot, lambda: app.screen is not runs)
        await shot("form")
        await pilot.press("escape")
        from minialign.errors import UserError

        app.push_screen(ErrorDialog(UserError(
            "run dpo-7: the weights of step 50 are kept, the loss is not a number",
            "try a smaller --learning-rate, a longer --warmup or --grad-clip 0.5")))  # fmt: skip
        await shot("error")
        await pilot.press("escape")
        from tui.welcome import Welcome

        app.push_screen(Welcome())
        await shot("welcome")
    app.lane.close(5)


def main() -> None:
    """Write them all."""
    folder = Path(sys.argv[1]).resolve()
    folder.mkdir(parents=True, exist_ok=True)
    for size in SIZES:
        for theme in ("minialign", "minialign-light"):
            with tempfile.TemporaryDirectory() as place:
                os.environ["MINIALIGN_HOME"] = place
                fill_home()
                asyncio.run(pictures(folder, size, theme))
    print(f"{len(list(folder.glob('*.svg')))} pictures in {folder}")


if __name__ == "__main__":
    main()
