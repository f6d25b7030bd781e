"""The app loses nothing: not by a kill, a full disk, a damaged file or by being left."""

import contextlib
import os
import random
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from support.places import ROOT
from support.scripted import (
    Models,
    drive,
    make_app,
    pairs_file,
    screen_text,
    until,
)

from minialign import formats
from minialign.chat.store import Conversations
from minialign.home import labels_file
from minialign.labels.votes import Votes
from minialign.run_folder import Run
from tui.chat.composer import Composer
from tui.label.screen import LabelScreen
from tui.widgets.dialogs import ErrorDialog


@pytest.fixture(autouse=True)
def no_bounce(monkeypatch):
    """Votes count as soon as a pair is drawn."""
    monkeypatch.setattr(LabelScreen, "BOUNCE", 0.0)


def test_again_that_is_stopped_before_a_word_keeps_the_answer_that_was_there(home):
    models = Models()
    app = make_app(models)

    async def script(pilot):
        chat = app.screen
        await pilot.press(*"one", "enter")
        await until(pilot, lambda: len(chat.talk.turns) == 2 and not chat.sides)
        before = chat.talk.turns[1]
        next(iter(models.loaded.values())).go.clear()
        await pilot.press("ctrl+r")
        await until(pilot, lambda: bool(chat.sides))
        await pilot.press("escape")
        await until(pilot, lambda: not chat.sides)
        assert chat.talk.turns[1] is before
        await until(pilot, lambda: before.content[-20:] in screen_text(app))
        await until(pilot, lambda: chat.query_one(Composer).text == "")
        next(iter(models.loaded.values())).go.set()

    drive(app, script)


VOTER = """
import sys
from support.scripted import Models, drive, make_app, until
from tui.label.screen import LabelScreen
LabelScreen.BOUNCE = 0.0
app = make_app(Models(), label_source=sys.argv[1])
async def script(pilot):
    await until(pilot, lambda: getattr(app.screen, "drawn", None))
    print("shown", app.screen.drawn.prompt[0]["content"], flush=True)
    while True:
        screen = app.screen
        pair = screen.drawn
        await pilot.press("a")
        if screen.drawn is not pair:
            print("kept", screen.sitting.votes.all[-1].id, flush=True)
drive(app, script)
"""


@pytest.mark.parametrize("kills", [2, pytest.param(30, marks=pytest.mark.slow)])
def test_kill_9_while_labelling_loses_no_vote_and_it_goes_on_where_it_was(home, tmp_path, kills):
    file = pairs_file(tmp_path, 5000, "good " * 300)
    kept: list[str] = []
    chance = random.Random(1)
    for _ in range(kills):
        voter = subprocess.Popen(
            [sys.executable, "-c", VOTER, str(file)], stdout=subprocess.PIPE, text=True,
            env={**os.environ, "PYTHONPATH": f"{ROOT}:{ROOT / 'tests'}"},
        )  # fmt: skip
        assert voter.stdout is not None
        new = {vote.id for vote in Votes().all if "." not in vote.id}
        assert voter.stdout.readline().split() == ["shown", f"q{len(new)}"]
        kept.append(voter.stdout.readline().split()[1])
        time.sleep(chance.uniform(0, 0.4))
        voter.kill()
        lines = voter.stdout.read().split("\n")[:-1]  # what is cut was not acknowledged
        kept += [line.split()[1] for line in lines]
        voter.wait()
        voter.stdout.close()
        there = [vote.id for vote in Votes().all]
        assert set(kept) <= set(there)
        assert len(set(there)) == len(there)
        assert formats.read(labels_file()).problems == []
    app = make_app(Models())  # with no word about a file: it opens where it was

    async def script(pilot):
        await until(pilot, lambda: getattr(app.screen, "drawn", None))
        new = {vote.id for vote in Votes().all if "." not in vote.id}
        assert app.screen.drawn.prompt[0]["content"] == f"q{len(new)}"

    drive(app, script)


def test_a_question_outlives_kill_9_and_waits_in_the_composer(home):
    models = Models()
    app = make_app(models)

    async def script(pilot):
        chat = app.screen
        await pilot.press(*"one", "enter")
        await until(pilot, lambda: len(chat.talk.turns) == 2 and not chat.sides)
        next(iter(models.loaded.values())).go.clear()
        await pilot.press(*"two", "enter")
        await until(pilot, lambda: bool(chat.sides))
        other = Conversations()  # as another process sees it now
        (entry,) = other.search()
        talk = other.load(entry.id)
        other.close()
        assert [turn.content for turn in talk.turns][::2] == ["one", "two"]
        await pilot.press("escape")
        await until(pilot, lambda: not chat.sides)
        await chat.show(talk)
        await until(pilot, lambda: chat.query_one(Composer).text == "two")
        assert len(chat.talk.turns) == 2

    drive(app, script)


def test_what_was_written_when_the_app_was_left_is_kept(home):
    app = make_app(Models(words=40_000, delay=0.002))

    async def script(pilot):
        chat = app.screen
        await pilot.press(*"one", "enter")
        await until(pilot, lambda: chat.sides and chat.sides[0].tokens > 20)
        await pilot.press("ctrl+q")

    drive(app, script)
    store = Conversations()
    talk = store.load(store.search()[0].id)
    store.close()
    assert "word5" in talk.turns[1].content
    assert talk.turns[1].origin["finish_reason"] == "cancelled"


@contextlib.contextmanager
def full_disk(path: Path):
    """No file can grow beyond the size of this one."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (path.stat().st_size + 9, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)


def test_a_full_disk_while_labelling_and_chatting_overwrites_nothing(home, tmp_path):
    file = pairs_file(tmp_path, 20, "good " * 200)
    app = make_app(Models(), label_source=str(file))

    async def script(pilot):
        await until(pilot, lambda: getattr(app.screen, "drawn", None))
        await pilot.press("a", "b")
        pair, before = app.screen.drawn, labels_file().read_bytes()
        with full_disk(labels_file()):
            await pilot.press("a")
            await until(pilot, lambda: isinstance(app.screen, ErrorDialog))
            await until(pilot, lambda: "nothing was saved" in screen_text(app))
            await pilot.press("escape")
            assert app.screen.drawn is pair
            assert labels_file().read_bytes() == before
            await pilot.press("f2")
            await pilot.press(*"hi", "enter")
            await until(pilot, lambda: isinstance(app.screen, ErrorDialog))
            await until(pilot, lambda: "cannot save the conversation" in screen_text(app))
            await pilot.press("escape")
            await until(pilot, lambda: isinstance(app.screen, ErrorDialog))
            await pilot.press("escape")
            await until(pilot, lambda: "word5" in screen_text(app))
        await pilot.press(*"again", "enter")
        await until(pilot, lambda: len(app.screen.talk.turns) == 4 and not app.screen.sides)
        await pilot.press("f3", "a")
        assert len(Votes().all) == 3
        assert labels_file().read_bytes().startswith(before)

    drive(app, script)
    store = Conversations()
    assert [entry.turns for entry in store.search()] == [4]
    store.close()


def test_damaged_files_and_a_run_that_goes_away_are_told_and_left_as_they_are(home, tmp_path):
    home.mkdir()
    labels_file().write_text('{"id": 3}\nnot json\n')
    run = Run.create("dpo", {"model": "m", "total_steps": 9}, name="dpo-1")
    for step in range(1, 6):
        run.log("train", step, {"loss": 1 / step})
    metrics = run.path / "metrics.jsonl"
    metrics.write_bytes(metrics.read_bytes()[:-20])
    app = make_app(Models(), label_source=str(pairs_file(tmp_path, 5)))

    async def script(pilot):
        await until(pilot, lambda: getattr(app.screen, "drawn", None))
        await until(pilot, lambda: "2 lines of" in screen_text(app))
        await pilot.press("a", "f5")
        await until(pilot, lambda: "dpo-1" in screen_text(app))
        await until(pilot, lambda: app.screen.seen and app.screen.seen.chart)
        for child in sorted(run.path.rglob("*"), reverse=True):
            child.unlink()
        run.path.rmdir()
        await pilot.press("l", "m", "down")
        await until(pilot, lambda: "dpo-1" not in screen_text(app))
        assert not isinstance(app.screen, ErrorDialog)

    drive(app, script, notifications=True)
    assert labels_file().read_text().startswith('{"id": 3}\nnot json\n{"id"')
