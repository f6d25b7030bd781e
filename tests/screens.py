"""Pictures (SVG) of the screens: ``python tests/screens.py FOLDER``, or ``make pictures``.

With ``--all`` every screen at 80x24 and at 140x45, dark and light, to be looked at; else those of
the README at one size. The pairs are those of examples/concise; conversations, runs and verdicts
are made up, so that the pictures are the same each time. No model is loaded.
"""

import asyncio
import json
import math
import os
import random
import re
import sys
import tempfile
import time
from pathlib import Path

from scripted import SIZES, Models, make_app, until
from scripted_judge import ScriptedJudge

from minialign.home import home
from minialign.lane import Which
from minialign.records import Vote, to_json
from minialign.runs import Run, list_runs
from minialign.tasks import datafiles
from minialign.tasks.conversations import Conversations, Talk, Turn
from minialign.tasks.judge import Duel
from minialign.tasks.judgings import Plan, pairs_of
from minialign.tasks.votes import Votes
from tui.dialogs import ErrorDialog

ROOT = Path(__file__).resolve().parent.parent
SIZE = (112, 32)
README = ("chat", "beside", "label", "judge", "verdict", "runs-overlay", "answers", "form", "data")
PAIRS = "examples/concise/train.jsonl"
JUDGE = "llama-1b-4bit"
BROKEN = """\
{"prompt": "Name a colour.", "chosen": "Blue.", "rejected": "There are many colours."}
{"prompt": "Name a tree.", "chosen": "Oak.", "rejected": "Oak."}
{"prompt": "Name a fish.", "chosen": 7, "rejected": "A trout, or a carp."}
{"prompt": "Name a city.", "better": "Rome.", "rejected": "As a language model I cannot travel."}
{"prompt": "Name a river.", "chosen": "The Nile.", "rejec
"""
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
    """Conversations, runs, data files and a judging."""
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
    _ppo(chance)
    _judged(chance)
    Path("my-pairs.jsonl").write_text(BROKEN)
    datafiles.remember(Path(PAIRS))
    datafiles.remember(Path("my-pairs.jsonl"))
    for number, run in enumerate(list_runs()):  # the same times in every picture
        at = 1_767_225_600 + 3600 * number
        os.utime(run.path / "env.json", (at, at))
    (home() / "logs").mkdir(exist_ok=True)
    (home() / "logs" / "dpo-2.log").write_text(
        "$ minialign dpo --data=examples/concise/train.jsonl --name=dpo-2\n"
        "216 examples to train on, 24 held out; 80 steps of 4 examples\n"
        "step 80/80, loss 0.2191, accuracy 0.92, margin 2.881, 410 tokens/s, 1.2 GB\n"
        "finished: 80 steps in 6 min 2 s, 148,112 tokens, peak 1.2 GB\n"
    )


def _ppo(chance: random.Random) -> None:
    """A run that answers while it learns."""
    run = Run.create("ppo", {"model": MODEL, "total_steps": 60}, name="ppo-1")
    for step in range(1, 61):
        rise = 1 - math.exp(-step / 20)
        kl, reward = 4 * rise + chance.gauss(0, 0.2), 1.5 * rise - 0.4 + chance.gauss(0, 0.1)
        run.log("train", step, {"loss": chance.gauss(0, 0.02), "kl": kl, "reward/mean": reward})
    question = [{"role": "user", "content": QUESTION}]
    kept = (
        (1, ANSWER, -0.41, 0.0),
        (30, "You can read a file with the open function: " + SHORT, 0.62, 2.9),
        (60, SHORT, 1.1, 4.1),
    )
    with open(run.path / "samples.jsonl", "w", encoding="utf-8") as file:
        for step, answer, reward, kl in kept:
            row = {"step": step, "prompt": question, "response": answer, "reward": reward, "kl": kl}
            file.write(json.dumps(row) + "\n")
    (run.path / "adapters.safetensors").write_bytes(b"")
    run.finish("finished")


def _judged(chance: random.Random) -> None:
    """A judge that likes long answers, half way through the pairs; 20 votes of somebody else."""
    plan, judge, votes = Plan(JUDGE, PAIRS), ScriptedJudge(), Votes()
    plan.save()
    with open(plan.file, "w", encoding="utf-8") as file:
        for number, pair in enumerate(pairs_of(plan)[:120]):
            duel = Duel(pair.prompt, pair.a, pair.b, a_from=pair.a_from, b_from=pair.b_from)
            verdict = judge.verdict(duel, JUDGE, "pairwise", chance.gauss(0.3, 0.5))
            file.write(json.dumps(to_json(verdict)) + "\n")
            if number % 6 == 0:
                choice = chance.choice(("a", "a", "a", "b", "tie"))
                votes.add(Vote(pair.key, pair.prompt, pair.a, pair.b, choice))


async def pictures(
    folder: Path, size: tuple[int, int], theme: str, wanted: tuple[str, ...]
) -> None:
    """The wanted screens at one size, all of them when none is named."""
    app = make_app(Models(), which=Which(MODEL), label_source=None, theme=theme)
    app.preferences.label_source = PAIRS

    async with app.run_test(size=size) as pilot:

        async def shot(name: str) -> None:
            if wanted and name not in wanted:
                return
            await pilot.pause(0.3)
            app.clear_notifications()
            await pilot.pause(0.1)
            file = f"{name}.svg" if wanted else f"{name}-{size[0]}x{size[1]}-{theme}.svg"
            (folder / file).write_text(compact(app.export_screenshot(title="")), encoding="utf-8")

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
        await pilot.press("escape", "f4")
        judge = app.screen
        await until(pilot, lambda: getattr(judge, "opinions", None) and judge.verdicts)
        await pilot.pause(0.5)
        await shot("judge")
        await pilot.press("enter")
        await until(pilot, lambda: app.screen is not judge)
        await shot("verdict")
        await pilot.press("escape", "n")
        await until(pilot, lambda: getattr(app.screen, "abouts", None))
        await shot("judge-form")
        await pilot.press("escape", "f6")
        library = app.screen
        await until(pilot, lambda: getattr(library, "entries", None))
        await shot("models")
        await pilot.press("end", "up", "up")
        await until(pilot, lambda: library.facts_of(library.current))
        await shot("data")
        await pilot.press("f5")
        runs = app.screen
        await until(pilot, lambda: getattr(runs, "seen", None) and runs.seen.chart)
        await shot("runs")
        await pilot.press("down", "space", "down", "down")
        await pilot.pause(1)
        await shot("runs-overlay")
        await pilot.press("home", "v")
        await until(pilot, lambda: "reward" in str(runs.query_one("#answered").render()))
        await shot("answers")
        await pilot.press("v", "n")
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


def compact(svg: str) -> str:
    """Without the fonts, which would be fetched from elsewhere; a third of the size."""
    svg = re.sub(r"@font-face \{.*?\}\s*", "", svg, flags=re.DOTALL)
    return re.sub(r'(?<==")(\d+\.\d)\d+(?=")', r"\1", svg)


def main() -> None:
    """Write them."""
    everything = "--all" in sys.argv
    folder = Path(sys.argv[1]).resolve()
    folder.mkdir(parents=True, exist_ok=True)
    os.environ["TZ"] = "UTC"
    time.tzset()
    themes = ("minialign", "minialign-light") if everything else ("minialign",)
    for size in SIZES if everything else (SIZE,):
        for theme in themes:
            with tempfile.TemporaryDirectory() as place:
                os.environ["MINIALIGN_HOME"] = place
                os.chdir(place)  # paths in the pictures are relative
                Path("examples").symlink_to(ROOT / "examples")
                fill_home()
                asyncio.run(pictures(folder, size, theme, () if everything else README))
                os.chdir(ROOT)
    print(f"{len(list(folder.glob('*.svg')))} pictures in {folder}")


if __name__ == "__main__":
    main()
