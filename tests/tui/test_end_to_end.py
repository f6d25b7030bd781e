"""One sitting with the real model: chat, two answers, six votes, ``minialign dpo`` on them, and the
adapter answers in the chat."""

import asyncio
import os
import subprocess
import sys
import time

import pytest
from support.places import ROOT
from support.scripted import press, screen_text, stalls, until

from minialign.engine.mlx_thread import ModelChoice, ModelThread
from minialign.labels.items import Waiting
from minialign.labels.votes import Votes
from tui.app import MinialignApp
from tui.chat.composer import Composer
from tui.label.screen import LabelScreen
from tui.preferences import Preferences
from tui.widgets.dialogs import Pick

MODEL = "smollm2-135m-4bit"
PROMPTS = ("Name a fruit.", "Why is the sky blue?", "Say hello.", "What is tea?", "Name a river.",
           "What is rain?")  # fmt: skip


@pytest.mark.slow
def test_chat_label_train_and_chat_with_the_adapter(home, embedded_model, tmp_path, monkeypatch):
    monkeypatch.setattr(LabelScreen, "BOUNCE", 0.0)
    home.mkdir()
    (home / "models").symlink_to(embedded_model.parent)
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("\n".join(PROMPTS))
    Preferences(welcomed=True, sampling={"max_tokens": 40}, label_source=str(prompts)).save()
    app = MinialignApp(ModelThread(), choice=ModelChoice(MODEL))
    figures: dict[str, float] = {}

    async def ask(pilot, text: str) -> None:
        chat = app.screen
        turns = len(chat.talk.turns)
        composer = chat.query_one(Composer)
        composer.focus()
        composer.text = text
        press(app, "enter")
        await until(pilot, lambda: chat.sides and chat.sides[0].tokens, 120)
        keys: list[float] = []
        cpu: list[float] = []
        async with stalls() as watched:
            while chat.sides:
                began, worked = time.monotonic(), time.thread_time()
                before = len(composer.text)
                press(app, "x")
                while len(composer.text) == before:
                    await asyncio.sleep(0.001)
                keys.append(time.monotonic() - began)
                cpu.append(time.thread_time() - worked)
                await asyncio.sleep(0.02)
        composer.text = ""
        assert len(chat.talk.turns) == turns + 2
        figures[f"key, p50, {text}"] = sorted(keys)[len(keys) // 2]
        figures[f"key, most, {text}"] = max(keys)
        figures[f"key, CPU, p50, {text}"] = sorted(cpu)[len(cpu) // 2]
        figures[f"stall, CPU, {text}"] = max(watched.turns)
        assert sorted(watched.turns)[-2] / watched.slowness < 0.05
        assert sorted(cpu)[len(cpu) // 2] < 0.05

    async def script(pilot) -> None:
        chat = app.screen
        await ask(pilot, PROMPTS[0])
        await pilot.press("escape", "p")
        await until(pilot, lambda: Waiting().pairs(), 120)
        await pilot.press("f3")
        for number in range(6):
            await until(pilot, lambda n=number: len(Votes().all) == n, 60)
            await until(pilot, lambda: app.screen.drawn is app.screen.sitting.current, 120)
            await until(pilot, lambda: app.screen.drawn is not None, 240)
            pair = app.screen.drawn
            assert pair.a.strip() != pair.b.strip()
            assert pair.a_from["seed"] != pair.b_from["seed"]
            await pilot.press("a" if len(pair.a) < len(pair.b) else "b")
            await until(pilot, lambda n=number: len(Votes().all) == n + 1)
        trainer = subprocess.Popen(
            [sys.executable, "-m", "minialign", "dpo", "--model", MODEL, "--iters", "3",
             "--batch-size", "2", "--name", "mine", "--eval-split", "0"],
            env={**os.environ, "PYTHONPATH": str(ROOT)}, stdout=subprocess.DEVNULL,
        )  # fmt: skip
        await pilot.press("f5")
        async with stalls() as watched:
            while trainer.poll() is None:
                await asyncio.sleep(0.05)
        figures["stall, CPU, while it trains"] = max(watched.turns)
        assert trainer.returncode == 0
        await until(pilot, lambda: "mine" in screen_text(app))
        await pilot.press("f2", "ctrl+g")
        await until(pilot, lambda: isinstance(app.screen, Pick) and app.screen.choices)
        await pilot.press(*"mine")
        await until(pilot, lambda: len(app.screen.choices) == 1)
        await pilot.press("enter")
        await until(pilot, lambda: app.screen is chat and app.choice == ModelChoice(MODEL, "mine"))
        await ask(pilot, PROMPTS[1])
        assert chat.talk.turns[-1].origin["adapter"] == "mine"
        await until(pilot, lambda: f"{MODEL} + mine" in screen_text(app))

    async def run() -> None:
        async with app.run_test(size=(140, 45)) as pilot:
            await pilot.pause()
            await script(pilot)

    asyncio.run(run())
    assert app.model_thread.close(10)
    print({name: round(1000 * value, 1) for name, value in figures.items()}, "ms")
