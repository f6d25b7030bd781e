"""What the pictures show: a home filled by the app and the commands themselves, with a real model.

Four short runs, two conversations, votes on pairs of the model's own answers, and what two judges
say of these pairs. The seeds are fixed. One thing is not a person's: votes go to the shorter
answer. Nothing here draws.
"""

import asyncio
import json
import time
from pathlib import Path
from typing import Any

from minialign.data import known_files
from minialign.engine.mlx_thread import ModelChoice, ModelThread
from minialign.home import labels_file
from minialign.judge.plans import LABELS, Plan
from minialign.labels.votes import Votes
from minialign.runs import launch
from support.scripted import current_screen, settle_keys, until
from tui.app import MinialignApp
from tui.chat.composer import Composer
from tui.judge.screen import JudgeScreen
from tui.label.screen import LabelScreen
from tui.preferences import Preferences

MODEL = "smollm2-135m-4bit"
PAIRS, PROMPTS = "examples/concise/train.jsonl", "examples/prompts.txt"
DAMAGED = "my-pairs.jsonl"
QUESTION = "Does drinking coffee really dehydrate you, or is that a myth?"
MORE = "Give me three tips for better sleep, as a list."
SHORT = {"max_tokens": 72}
PATIENCE = 300.0  # seconds for one thing of the model


def fill_home(iters: int, votes: int) -> None:
    """Fill MINIALIGN_HOME, which has the model; paths are relative to the working directory."""
    _train(iters)
    Preferences(welcomed=True, sampling={"max_tokens": 160}, label_source=PROMPTS).save()
    asyncio.run(_sit(votes))
    lines = Path(PAIRS).read_text(encoding="utf-8").splitlines()[:5]
    Path(DAMAGED).write_text(damaged(lines), encoding="utf-8")
    known_files.remember(Path(DAMAGED))


def _train(iters: int) -> None:
    """Runs as the form starts them: a reward head, DPO twice, RLOO with the head as its scorer."""
    every = max(1, iters // 4)
    common: dict[str, Any] = {"data": (PAIRS,), "model": MODEL, "iters": iters, "seed": 0,
                              "eval_split": 0.05, "steps_per_eval": every}  # fmt: skip
    rounds = {"advantage": "rloo", "scorer": "reward:reward-1", "rollout_prompts": 2,
              "response_length": 32, "iters": iters // 2, "steps_per_eval": iters}  # fmt: skip
    for method, options in (
        ("reward", {"batch_size": 4, "learning_rate": 5e-4}),
        ("dpo", {"batch_size": 2, "learning_rate": 1e-4}),
        ("dpo", {"batch_size": 2, "learning_rate": 3e-4}),
        ("ppo", {"batch_size": 2, "learning_rate": 1e-4, **rounds}),
    ):
        started = launch.start(method, {**common, **options})
        print(f"{started.name} trains", flush=True)
        if started.process.wait(600) != 0:
            raise RuntimeError(started.said())


async def _sit(votes: int) -> None:
    """Chat, label and judge by keys."""
    LabelScreen.BOUNCE = 0.0
    app = MinialignApp(ModelThread(), choice=ModelChoice(MODEL))
    async with app.run_test(size=(112, 32)) as pilot:
        await pilot.pause()
        settle_keys(pilot)
        print("the model answers", flush=True)
        await talk(pilot, MORE, 1)
        app.preferences.beside = [MODEL, "dpo-1"]
        await talk(pilot, QUESTION, 2)
        app.preferences.beside, app.preferences.sampling = None, SHORT
        await pilot.press("f3")
        label = current_screen(app, LabelScreen)
        for _ in range(votes):
            await vote(pilot)
        assert label.sitting
        assert len(label.sitting.votes.all) == votes
        await pilot.press("f4")
        judge = current_screen(app, JudgeScreen)
        for plan in (Plan("reward:reward-1"), Plan(MODEL, LABELS, debias=True)):
            print(f"{plan.judge} judges", flush=True)
            judge.begin(plan)

            def all_judged(plan: Plan = plan) -> bool:
                judged = judge.judged
                done = judge.job is None and 0 < judged.total == len(judged.verdicts)
                return judged.plan == plan and done

            await until(pilot, all_judged, PATIENCE)
            time.sleep(0.01)  # the last one is the newest
    app.model_thread.close(10)


async def talk(pilot: Any, question: str, seed: int, whole: bool = True) -> None:
    """Ask in a new conversation; return when the answer is there, or when it has begun."""
    chat = pilot.app.screen
    await pilot.press("ctrl+n")
    chat.talk.seed = seed
    chat.query_one(Composer).text = question
    await pilot.press("enter")
    await until(pilot, lambda: len(chat.talk.turns) == 2 or (
        not whole and chat.sides and chat.sides[0].tokens > 100), PATIENCE)  # fmt: skip


async def vote(pilot: Any) -> None:
    """Wait for a pair; the shorter answer is the better one."""
    screen = pilot.app.screen
    await until(pilot, lambda: screen.drawn and screen.drawn is screen.sitting.current, PATIENCE)
    pair = screen.drawn
    a, b = len(pair.a.split()), len(pair.b.split())
    before = len(Votes().all)
    await pilot.press("t" if abs(a - b) < 3 else "a" if a < b else "b")
    await until(pilot, lambda: screen.drawn is not pair, PATIENCE)
    assert len(Votes().all) == before + 1, labels_file()


def damaged(lines: list[str]) -> str:
    """Rows of a real file, four of five with something wrong."""
    first, same, number, renamed, cut = (json.loads(line) for line in lines)
    same["rejected"] = same["chosen"]
    number["chosen"] = 7
    renamed["better"] = renamed.pop("chosen")
    rows = [json.dumps(row, ensure_ascii=False) for row in (first, same, number, renamed, cut)]
    return "\n".join([*rows[:4], rows[4][: len(rows[4]) * 2 // 3]]) + "\n"
