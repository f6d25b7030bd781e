"""The app answers within a frame also when there is much: votes, conversations, a long answer.
Times are CPU times of the loop's thread."""

import asyncio
import json
import random

import pytest
from support.scripted import (
    Models,
    best_of,
    drive,
    make_app,
    pairs_file,
    screen_text,
    stalls,
    until,
)

from minialign.chat.store import Conversations
from minialign.home import labels_file
from tui.label.screen import LabelScreen
from tui.widgets.dialogs import Pick

FRAME = 0.1  # seconds


@pytest.fixture(autouse=True)
def no_bounce(monkeypatch):
    """Votes count as soon as a pair is drawn."""
    monkeypatch.setattr(LabelScreen, "BOUNCE", 0.0)


def test_ten_thousand_votes_open_scroll_and_undo_within_a_frame(home, tmp_path):
    vote = {"prompt": [{"role": "user", "content": "q " * 200}], "a": "x" * 300, "b": "y" * 300}
    home.mkdir(exist_ok=True)
    lines = [
        json.dumps({"id": f"{number:016x}", **vote, "choice": "a"}) + "\n"
        for number in range(10_000)
    ]
    file = pairs_file(tmp_path, 3000, "good " * 100)

    def measure() -> float:
        labels_file().write_text("".join(lines))
        app = make_app(Models(), label_source=str(file))

        async def script(pilot):
            async with stalls() as watched:
                await until(pilot, lambda: getattr(app.screen, "drawn", None))
                screen = app.screen
                await until(pilot, lambda: "10000 votes" in screen_text(app))
                for key in ("a", "b", "down", "u", "t", "pagedown", "x", "u", "s"):
                    pair = screen.drawn
                    await pilot.press(key)
                    if key in "abtxs":
                        await until(pilot, lambda pair=pair: screen.drawn is not pair)
                await pilot.pause(1)
            return watched.longest

        return drive(app, script)

    best_of(measure, FRAME)


def test_two_thousand_conversations_open_and_scroll_within_a_frame(home):
    chance = random.Random(0)
    words = ["tea", "rain", "cats", "learn", "python", "river", "seven", "slow"]
    store = Conversations()
    with store._change() as db:
        for number in range(2000):
            db.execute(
                "INSERT INTO conversations (id, title, created, updated) VALUES (?, ?, 0, ?)",
                (number + 1, f"title {number}", number),
            )
            for place in range(6):
                text = " ".join(chance.choices(words, k=100)) + "\n\n- one\n- two\n\n```\ncode\n```"
                role = "assistant" if place % 2 else "user"
                db.execute(
                    "INSERT INTO turns VALUES (?, ?, ?, ?, '{}')", (number + 1, place, role, text)
                )
    store.close()

    async def script(pilot):
        app, chat = pilot.app, pilot.app.screen
        await until(pilot, lambda: chat.store is not None)
        async with stalls() as watched:
            await pilot.press("ctrl+o")
            await until(pilot, lambda: isinstance(app.screen, Pick) and app.screen.choices)
            assert app.screen.choices[0].text == "title 1999"
            await pilot.press(*["pagedown"] * 10)
            await pilot.press(*"rain 7")
            await until(pilot, lambda: "7" in app.screen.choices[0].text)
            await pilot.press("enter")
            await until(pilot, lambda: app.screen is chat and len(chat.talk.turns) == 6)
            await pilot.press(*["pageup"] * 5, *["pagedown"] * 5, "escape", "up", "up")
            await pilot.pause(0.3)
        return watched.longest

    best_of(lambda: drive(make_app(Models()), script), FRAME)


@pytest.mark.slow
def test_an_answer_of_20_kb_streams_and_scrolls_within_a_frame(home):
    async def script(pilot):
        chat = pilot.app.screen
        async with stalls() as watched:
            await pilot.press(*"go", "enter")
            await until(pilot, lambda: len(chat.talk.turns) == 2 and not chat.sides, 600)
            await asyncio.sleep(0.2)
            await pilot.press(*["pageup"] * 5)
        assert len(chat.talk.turns[1].content) > 20_000
        return watched.longest

    best_of(lambda: drive(make_app(Models(words=3000, delay=0.001)), script), FRAME)
