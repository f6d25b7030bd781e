"""No text breaks the layout, nothing is told by a colour alone, and an answer is followed until the
user scrolls."""

import asyncio
import json

import pytest
from rich.cells import cell_len
from support.scripted import (
    SIZES,
    Models,
    drive,
    make_app,
    press,
    screen_text,
    until,
)

from minialign.chat.store import Talk, Turn
from tui.label.screen import LabelScreen


@pytest.fixture(autouse=True)
def no_bounce(monkeypatch):
    """Votes count as soon as a pair is drawn."""
    monkeypatch.setattr(LabelScreen, "BOUNCE", 0.0)


ODD = (
    "漢字かな交じり文 한국어 " * 30,
    "👩‍👩‍👧‍👦 🏳️‍🌈 👍🏽 e\u0301 a\u0308 \u200b \u2060 " * 30,
    "שלום עולם مرحبا بالعالم \u202eabc\u2066 \u2028 x\u2029y " * 30,
    "\t tab \x07 \x1b[31m \x9b1m " * 20,
    "W" * 20_000,
    "# heading\n\n| a | b |\n|---|---|\n| 漢 | 🙂 |\n\n> quote\n\n1. one\n" + "word " * 4000,
)  # fmt: skip


@pytest.mark.parametrize("size", SIZES)
def test_no_text_breaks_the_layout(home, size, tmp_path):
    file = tmp_path / "pairs.jsonl"
    rows = [{"prompt": text, "chosen": text, "rejected": "x"} for text in ODD]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    app = make_app(Models(), label_source=str(file))

    async def sound(pilot) -> None:
        await until(pilot, lambda: "Help" in screen_text(app))
        strips = app.screen._compositor.render_strips()
        assert {strip.cell_length for strip in strips} == {size[0]}
        rows = screen_text(app).splitlines()
        assert len(rows) == size[1]
        assert not any(set(row) & set("\x1b\x07\x9b\t\u202e\u2066\u2028\u2029") for row in rows)
        assert "minialign" in rows[0]
        assert "Help" in rows[-1]
        for row in rows:
            if row.startswith(" │"):  # a side of the frame stands where its corner stands
                assert cell_len(row[: row.rindex("│")]) == size[0] - 2

    async def script(pilot):
        for _ in ODD:
            await until(pilot, lambda: getattr(app.screen, "drawn", None))
            await sound(pilot)
            await pilot.press("s")
        await pilot.press("f2")
        chat = app.screen
        await until(pilot, lambda: chat.store is not None)
        for text in ODD:
            beside = {"text": text, "model": text[:50]}
            turns = [Turn("user", text), Turn("assistant", text, {"beside": beside})]
            await chat.show(Talk(text[:60], turns=turns))
            await sound(pilot)
            for who in chat.query(".who"):  # those out of sight too
                assert not set(str(who.render())) & set("\x1b\x07\x9b\t\u202e\u2066\u2028\u2029")

    drive(app, script, size)


@pytest.mark.parametrize("size", SIZES)
def test_without_colours_and_without_motion_everything_is_still_told(home, size, monkeypatch):
    monkeypatch.setenv("NO_COLOR", "1")
    app = make_app(Models())

    async def script(pilot):
        assert app.no_color
        await until(pilot, lambda: "▸F2" in screen_text(app))  # where one is, without a colour
        app.action_still()
        assert app.animation_level == "none"
        chat = app.screen
        turns = [Turn("user", "q"), Turn("assistant", "a", {"good": False})]
        await chat.show(Talk("t", turns=turns))
        await pilot.pause()
        await until(pilot, lambda: "bad" in screen_text(app))
        app.show_error(ValueError("no"))
        await until(pilot, lambda: "✗" in screen_text(app))
        await pilot.press("escape")
        for strip in app.screen._compositor.render_strips():
            for segment in strip:
                for colour in (segment.style.color, segment.style.bgcolor) if segment.style else ():
                    if colour is not None and colour.triplet is not None:
                        assert len(set(colour.triplet)) == 1  # a grey

    drive(app, script, size)
    again = make_app(Models())
    assert again.animation_level == "none"
    again.model_thread.close()


@pytest.mark.parametrize("size", SIZES)
def test_the_answer_is_followed_until_the_user_scrolls(home, size):
    app = make_app(Models(words=20_000, delay=0.004))

    async def script(pilot):
        chat = app.screen
        talk = chat.query_one("#talk")

        def at_the_end():
            return talk.scroll_y >= talk.max_scroll_y - 2

        await pilot.press(*"go", "enter")
        await until(pilot, lambda: talk.max_scroll_y > 20 and at_the_end())
        press(app, "pageup")
        await asyncio.sleep(1)
        await until(pilot, lambda: talk.scroll_y == talk.scroll_target_y)
        at = talk.scroll_y
        assert at < talk.max_scroll_y - 5
        tokens = chat.sides[0].tokens
        await until(pilot, lambda: chat.sides[0].tokens > tokens + 100)
        assert talk.scroll_y == at
        for _ in range(40):
            press(app, "pagedown")
            await asyncio.sleep(0.2)
            if at_the_end():
                break
        end = talk.max_scroll_y
        await until(pilot, lambda: talk.max_scroll_y > end + 20 and at_the_end())
        press(app, "escape")
        await until(pilot, lambda: not chat.sides)

    drive(app, script, size)
