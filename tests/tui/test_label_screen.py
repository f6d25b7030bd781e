"""The label screen, driven by keys: every vote is on disk, and nothing is voted on unseen."""

import asyncio
import json
import threading
import time
from pathlib import Path

import pytest
from support.scripted import SIZES, Models, drive, make_app, screen_text, shown, until
from textual.widgets import Markdown

from minialign import formats
from minialign.engine.mlx_thread import ModelChoice
from minialign.home import labels_file
from minialign.labels.items import Waiting, read_items, starters
from minialign.labels.votes import Votes
from minialign.records import Comparison
from tui.label.screen import LabelScreen
from tui.widgets.dialogs import Ask, Edit, ErrorDialog, Pick

ROWS = [
    {"prompt": f"question {n}", "chosen": f"good {n}", "rejected": f"bad {n}"} for n in range(9)
]


@pytest.fixture
def file(tmp_path: Path, home: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file of pairs; votes count as soon as a pair is drawn."""
    monkeypatch.setattr(LabelScreen, "BOUNCE", 0.0)
    path = tmp_path / "pairs.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    return path


async def drawn(pilot):
    """Wait for a pair; returns the screen."""
    await until(pilot, lambda: getattr(pilot.app.screen, "drawn", None) is not None)
    return pilot.app.screen


@pytest.mark.parametrize("size", SIZES)
def test_every_key(file, size):
    app = make_app(Models(), label_source=str(file))

    async def script(pilot):
        screen = await drawn(pilot)
        a, b = (screen.query_one(f"#side-{side}").region for side in "ab")
        if size[0] < 100:
            assert a.bottom <= b.y  # stacked
        else:
            assert a.right <= b.x  # side by side
        seen = []
        for key in ("a", "left", "b", "right", "t", "x", "s"):
            pair = screen.drawn
            seen.append(pair)
            await shown(pilot, pair.a, pair.b, pair.prompt[0]["content"])
            assert "chosen" not in screen_text(app)  # blind
            await pilot.press(key)
            assert Votes().all[-1].prompt == pair.prompt  # on disk already
        choices = ["a", "a", "b", "b", "tie", "both_bad", "skip"]
        assert [vote.choice for vote in Votes().all] == choices
        for expected in reversed(seen):
            await pilot.press("u")
            assert screen.drawn == expected
        assert Votes().all == []
        await pilot.press("u")
        await pilot.press("n")
        await until(pilot, lambda: isinstance(app.screen, Ask))
        await pilot.press(*"hm", "enter")
        await until(pilot, lambda: app.screen is screen)
        await until(pilot, lambda: "note: hm" in screen_text(app))
        await pilot.press("e")
        await until(pilot, lambda: isinstance(app.screen, Edit))
        first = screen.drawn
        await until(pilot, lambda: app.screen.query_one("TextArea").text == first.a)
        await pilot.press("ctrl+o")
        await until(pilot, lambda: app.screen.query_one("TextArea").text == first.b)
        app.screen.query_one("TextArea").text = "much better"
        await pilot.press("ctrl+s")
        await until(pilot, lambda: app.screen is screen and screen.drawn is not first)
        (vote,) = Votes().all
        assert (vote.choice, vote.edited, vote.note) == ("both_bad", "much better", "hm")
        await until(pilot, lambda: "1 vote ·" in screen_text(app))
        await pilot.press("down", "up", "pagedown", "pageup", "shift+down", "shift+up")

    drive(app, script, size)
    assert formats.read(labels_file()).problems == []


def test_prompts_are_answered_twice_ahead_and_the_empty_end_says_what_next(file):
    file.with_name("p.txt").write_text("one?\ntwo?\nthree?\n")
    models = Models()
    app = make_app(models, label_source=str(file.with_name("p.txt")))

    async def script(pilot):
        screen = await drawn(pilot)
        for _ in range(3):
            await drawn(pilot)
            pair = screen.drawn
            assert pair.a != pair.b
            assert pair.a_from["seed"] != pair.b_from["seed"]
            assert pair.a_from["model"] == "m"
            await pilot.press("a")
            await until(pilot, lambda pair=pair: screen.drawn is not pair)
        await until(pilot, lambda: "Nothing to label" in screen_text(app))
        await pilot.press("a", "e", "n")  # no pair: no vote, no dialog
        await until(pilot, lambda: app.screen is screen)
        assert len(Votes().all) == 3

    drive(app, script)
    (engine,) = models.loaded.values()
    assert len(set(engine.seeds)) == len(engine.seeds) == 6


class Interrupted(Models):
    """What is written for "one?" is given up for a while, as when the chat needs the model."""

    def __call__(self, choice, progress):
        engine = super().__call__(choice, progress)
        complete, given_up = engine.complete, []

        def interrupted(waiting, *arguments, **options):
            if b"one?" in bytes(waiting[0].prompt) and len(given_up) < 25:
                given_up.append(waiting)
                time.sleep(0.02)
                return
            yield from complete(waiting, *arguments, **options)

        engine.complete = interrupted
        return engine


def test_pairs_come_in_the_order_of_the_file_whichever_prompt_is_answered_first(file):
    file.with_name("p.txt").write_text("one?\ntwo?\nthree?\nfour?\n")
    app = make_app(Interrupted(), label_source=str(file.with_name("p.txt")))
    seen = []

    async def script(pilot):
        screen = await drawn(pilot)
        for _ in range(4):
            await drawn(pilot)
            pair = screen.drawn
            seen.append(pair.prompt[0]["content"])
            await pilot.press("a")
            await until(pilot, lambda pair=pair: screen.drawn is not pair)
            if len(seen) == 2:
                app.choose(ModelChoice("other"))  # what is being written is asked for anew

    drive(app, script)
    assert seen == ["one?", "two?", "three?", "four?"]


def test_what_is_drawn_while_a_vote_is_taken_back_is_one_pair(file, monkeypatch):
    app = make_app(Models(), label_source=str(file))

    async def script(pilot):
        screen = await drawn(pilot)
        first = screen.drawn
        go, update, waited = asyncio.Event(), Markdown.update, ["the first is slow"]

        async def slowly(self, text):
            if waited:
                waited.pop()
                await go.wait()
            await update(self, text)

        monkeypatch.setattr(Markdown, "update", slowly)
        voting = asyncio.create_task(screen.action_vote("a"))
        await until(pilot, lambda: Votes().all)
        undoing = asyncio.create_task(screen.action_undo())
        await until(pilot, lambda: not Votes().all)
        await pilot.pause()
        go.set()
        await asyncio.gather(voting, undoing)
        assert screen.drawn == screen.sitting.current == first
        await until(pilot, lambda: first.a in screen_text(app) and first.b in screen_text(app))

    drive(app, script)


def test_a_key_that_is_held_down_does_not_vote_on_what_was_not_seen(file, monkeypatch):
    monkeypatch.setattr(LabelScreen, "BOUNCE", 3600.0)
    app = make_app(Models(), label_source=str(file))

    async def script(pilot):
        await drawn(pilot)
        await pilot.press("a", "a", "a")
        assert Votes().all == []

    drive(app, script)


def test_a_model_with_one_answer_only_is_told(file):
    file.with_name("p.txt").write_text("one?\n")
    app = make_app(Models(same=True), label_source=str(file.with_name("p.txt")))

    async def script(pilot):
        await until(pilot, lambda: getattr(app.screen, "sitting", None) is not None)
        await until(pilot, lambda: "Nothing to label" in screen_text(app))

    drive(app, script)


def test_source_is_chosen_remembered_and_a_wrong_one_is_a_dialog(file):
    app = make_app(Models())

    async def script(pilot):
        await pilot.press("f3")
        screen = await drawn(pilot)
        assert screen.drawn.prompt == starters()[0]
        await pilot.press("o")
        await until(pilot, lambda: isinstance(app.screen, Pick))
        await pilot.press("down", "enter")
        await until(pilot, lambda: isinstance(app.screen, Ask))
        await pilot.press(*"nowhere.jsonl", "enter")
        await until(pilot, lambda: isinstance(app.screen, ErrorDialog))
        await until(pilot, lambda: "no such file" in screen_text(app))
        await pilot.press("enter", "o", "down", "enter")
        await until(pilot, lambda: isinstance(app.screen, Ask))
        app.screen.query_one("Input").value = str(file)
        await pilot.press("enter")
        await until(pilot, lambda: screen.drawn and "question" in screen.drawn.prompt[0]["content"])

    drive(app, script)
    assert json.loads((file.parent / "home" / "tui.json").read_text())["label_source"] == str(file)


def test_a_vote_while_the_source_is_read_is_known_to_the_new_sitting(file, monkeypatch):
    app = make_app(Models(), label_source=str(file))
    go, reading = threading.Event(), threading.Event()

    def slowly(source):
        items = read_items(source)
        reading.set()
        go.wait(30)
        return items

    async def script(pilot):
        screen = await drawn(pilot)
        before, first = screen.sitting, screen.drawn
        monkeypatch.setattr("tui.label.screen.read_items", slowly)
        screen.open_source(str(file))
        await until(pilot, reading.is_set)
        await pilot.press("a")
        await until(pilot, lambda: screen.drawn is not first)
        go.set()
        await until(pilot, lambda: screen.sitting is not before and screen.drawn)
        assert first.key in screen.sitting.done
        assert [vote.id for vote in screen.sitting.votes.all] == [first.key]
        await pilot.press("u")
        await until(pilot, lambda: screen.drawn.key == first.key)
        assert Votes().all == []

    drive(app, script)


def test_a_pair_made_in_the_chat_is_waiting(file):
    app = make_app(Models())

    async def script(pilot):
        await pilot.press("f3")
        screen = await drawn(pilot)
        await pilot.press("f2")
        Waiting().add(Comparison([{"role": "user", "content": "from chat"}], "x1", "x2"))
        await pilot.press("f3")
        await until(pilot, lambda: "from chat" in str(list(screen.sitting.ready)))

    drive(app, script)


@pytest.mark.parametrize("size", SIZES)
def test_the_pairs_of_which_somebody_is_least_sure_come_first(file, size):
    rows = [{"prompt": f"question {n}", "chosen": "x " * (9 - n), "rejected": "y"}
            for n in range(9)]  # fmt: skip
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    app = make_app(Models(), label_source=str(file))

    async def script(pilot):
        screen = await drawn(pilot)
        await pilot.press("l")
        await until(pilot, lambda: isinstance(app.screen, Pick) and app.screen.choices)
        assert [choice.text for choice in app.screen.choices] == [
            "In their own order", "m as a judge"
        ]  # fmt: skip
        await pilot.press("escape")
        app.preferences.label_order = "length"  # it needs no model
        first, before = screen.drawn, screen.sitting
        screen.open_source(str(file))
        await until(pilot, lambda: "8/8 by length" in screen.measured)
        assert screen.sitting is not before
        assert screen.drawn is first  # the same pair, its sides where they were
        assert screen.sitting.left == 9
        seen = []
        for _ in range(4):
            await until(pilot, lambda: screen.drawn is screen.sitting.current)
            seen.append(screen.drawn.prompt[0]["content"])
            await pilot.press("s")
            await until(pilot, lambda: len(Votes().all) == len(seen))
        # those that were laid ready before the first measure come before the others
        sure_last = [one for one in seen if one not in ("question 0", "question 1")]
        assert sure_last == ["question 8", "question 7", "question 6"][: len(sure_last)]
        assert len(sure_last) >= 2
        app.preferences.label_order = "reward:nobody"
        screen.open_source(str(file))
        await until(pilot, lambda: isinstance(app.screen, ErrorDialog))
        await pilot.press("escape")
        await until(pilot, lambda: screen.drawn and screen.drawn is screen.sitting.current)
        await pilot.press("a")
        await until(pilot, lambda: len(Votes().all) == 5)  # labelling goes on, in the file's order

    drive(app, script, size)
