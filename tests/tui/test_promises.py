"""What the app promises, measured: it is there soon, never blocks typing, loses nothing, breaks on
nothing. Times are CPU times, which other programs do not change: a stall is that of the loop's
thread, a token's way to the screen that of all threads, one of which is busy all the time."""

import asyncio
import contextlib
import json
import os
import pty
import random
import resource
import select
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from rich.cells import cell_len
from support.places import ROOT
from support.scripted import SIZES, Models, drive, make_app, press, screen_text, stalls, until

from minialign import formats
from minialign.chat.store import Conversations, Talk, Turn
from minialign.engine.mlx_thread import ModelChoice
from minialign.home import labels_file
from minialign.labels.votes import Votes
from minialign.run_folder import Run
from tui.chat.bubble import Bubble
from tui.chat.composer import Composer
from tui.label.screen import LabelScreen
from tui.widgets.dialogs import Ask, ErrorDialog, Pick
from tui.widgets.help import HelpScreen

FRAME, TYPING = 0.1, 0.05  # seconds


@pytest.fixture(autouse=True)
def no_bounce(monkeypatch):
    """Votes count as soon as a pair is drawn."""
    monkeypatch.setattr(LabelScreen, "BOUNCE", 0.0)


def pairs_file(folder: Path, count: int, text: str = "good") -> Path:
    path = folder / "pairs.jsonl"
    with open(path, "w", encoding="utf-8") as file:
        for n in range(count):
            row = {"prompt": f"q{n}", "chosen": f"{text} {n}", "rejected": f"bad {n}"}
            file.write(json.dumps(row) + "\n")
    return path


def longest(found: list[tuple[float, float]]) -> float:
    """The longest stall in CPU seconds; one of a thousand may be a garbage collection."""
    cpu = sorted(work for _, work in found)
    return cpu[-1 - len(cpu) // 1000]


# ---------------------------------------------------------------------------- soon, and unblocked


class Busy(Models):
    """Answers whose every token costs 20 ms of arithmetic on the model thread's thread."""

    def __call__(self, choice, progress):
        import numpy as np

        engine = super().__call__(choice, progress)
        matrix = np.ones((400, 400), np.float32)
        stream = engine.stream

        def working(*arguments, **options):
            for piece in stream(*arguments, **options):
                end = time.thread_time() + 0.02
                while time.thread_time() < end:
                    matrix @ matrix
                yield piece

        engine.stream = working
        return engine


@pytest.mark.parametrize("size", SIZES)
def test_tokens_are_seen_within_a_second_and_typing_is_never_blocked(home, size):
    models = Busy(words=70)
    app = make_app(models)
    late: list[float] = []

    async def script(pilot):
        chat = app.screen
        await pilot.press(*"go")
        composer, typed = chat.query_one(Composer), ""

        def all_seen() -> bool:
            text = screen_text(app)
            while f"word{len(late)}" in text and f"word{len(late)}" in engine.given:
                late.append(time.process_time() - engine.given[f"word{len(late)}"])
            return len(late) == models.options["words"]

        press(app, "enter")
        while not models.loaded:
            await asyncio.sleep(0.01)
        (engine,) = models.loaded.values()
        async with stalls(app) as found:
            while chat.sides:
                press(app, "x")
                typed += "x"
                await asyncio.sleep(0.02)
                all_seen()
            await until(pilot, all_seen)
        await until(pilot, lambda: composer.text == typed)
        assert max(late) < 1.0
        assert longest(found) < TYPING

    drive(app, script, size)


WRITER = """
import sys, time
from minialign.run_folder import Run
run = Run.create("dpo", {"model": "m", "total_steps": 100000}, name="dpo-1")
for step in range(1, 100000):
    run.log("train", step, {"loss": 1 / step, "rewards/margins": step / 9})
    for _ in range(200000): pass
"""


def test_typing_is_not_blocked_while_a_run_trains(home):
    trainer = subprocess.Popen(
        [sys.executable, "-c", WRITER], env={**os.environ, "PYTHONPATH": str(ROOT)}
    )
    app = make_app(Models())
    metrics = home / "runs" / "dpo-1" / "metrics.jsonl"

    async def script(pilot):
        await until(pilot, metrics.exists, 30)
        await pilot.press("f5")
        await until(pilot, lambda: "dpo-1" in screen_text(app))
        async with stalls(app) as watching:
            for _ in range(20):
                await asyncio.sleep(0.1)
                press(app, "l")
        await pilot.press("f2")
        composer = app.screen.query_one(Composer)
        async with stalls(app) as typing:
            for _ in range(40):
                press(app, "x")
                await asyncio.sleep(0.03)
        await until(pilot, lambda: composer.text == "x" * 40)
        assert longest(typing) < TYPING
        assert longest(watching) < 2 * FRAME

    try:
        drive(app, script)
        assert trainer.poll() is None  # the app's end does not end it
    finally:
        trainer.kill()
        trainer.wait()


LOADING = """
import sys, time
from minialign.engine import mlx_thread
def load(choice, progress):
    print("\\x1b]0;loading\\x07", flush=True)
    time.sleep(60)
mlx_thread._load = load
from minialign.cli import main
sys.exit(main(["tui", "--model", "m"]))
"""


WRITING = """
import sys
from minialign.engine import mlx_thread
from support.scripted import ScriptedEngine
mlx_thread._load = lambda choice, progress: ScriptedEngine(choice, words=100000, delay=0.01)
from minialign.cli import main
sys.exit(main(["tui", "--model", "m"]))
"""


def in_terminal(code: str, steps: list[tuple[bytes, bytes]]) -> tuple[int, float]:
    """Run a program in a terminal of its own; after each text is seen, keys are written. Its exit
    code, and the seconds from the last keys to the end."""
    pid, terminal = pty.fork()
    if pid == 0:
        os.environ["PYTHONPATH"] = f"{ROOT}:{ROOT / 'tests'}"
        os.environ["TERM"] = "xterm-256color"
        os.execv(sys.executable, [sys.executable, "-c", code])
    said, end = b"", time.monotonic() + 60
    began = time.monotonic()
    while time.monotonic() < end:
        ready, _, _ = select.select([terminal], [], [], 0.05)
        if ready:
            try:
                said += os.read(terminal, 65536)
            except OSError:
                break
        if steps and steps[0][0] in said:
            os.write(terminal, steps.pop(0)[1])
            began = time.monotonic()
    seconds = time.monotonic() - began
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)
    os.close(terminal)
    _, status = os.waitpid(pid, 0)
    return os.waitstatus_to_exitcode(status), seconds


@pytest.mark.parametrize(("code", "seen"), [(LOADING, b"loading"), (WRITING, b"word9")])
def test_quitting_while_a_model_loads_or_writes_is_clean_and_takes_a_second(home, code, seen):
    make_app(Models()).model_thread.close()  # so that the welcome is over
    best = 9.0
    for _ in range(4):
        status, seconds = in_terminal(code, [(b"Ask something", b"hi\r"), (seen, b"\x11")])
        assert status == 0
        best = min(best, seconds)
        if best <= 1.0:
            return
    assert best <= 1.0


# ------------------------------------------------------------------------------- keys and layouts


@pytest.mark.parametrize("size", SIZES)
def test_the_other_keys_of_the_chat(home, size, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    app = make_app(Models(words=200))
    code = "One:\n\n```python\nprint(1)\n```\n\nTwo:\n\n```sh\nls -l\n```\n"

    async def script(pilot):
        chat = app.screen
        await until(pilot, lambda: chat.store is not None)
        turns = [Turn("user", "q"), Turn("assistant", code, {"model": "m"})]
        await chat.show(Talk("codes", turns=turns))
        await pilot.press("escape", "k")
        await until(pilot, lambda: isinstance(app.screen, Pick))
        assert [choice.text for choice in app.screen.choices] == ["print(1)", "ls -l"]
        await pilot.press("down", "enter")
        await until(pilot, lambda: app.clipboard == "ls -l\n")
        await until(pilot, lambda: isinstance(app.focused, Bubble))
        await pilot.press("question_mark")
        await until(pilot, lambda: isinstance(app.screen, HelpScreen))
        await pilot.press("question_mark")
        await until(pilot, lambda: app.screen is chat)
        await pilot.press("minus")
        assert chat.talk.turns[1].origin["good"] is False
        await pilot.press("enter", "question_mark")
        await until(pilot, lambda: chat.query_one(Composer).text == "?")
        await pilot.press("backspace", "ctrl+t")
        await until(pilot, lambda: isinstance(app.screen, Ask))
        app.screen.query_one("Input").value = "[b]bold[/b]"
        await pilot.press("enter")
        await until(pilot, lambda: chat.talk.title == "[b]bold[/b]")
        await pilot.press("ctrl+e")
        await until(pilot, lambda: isinstance(app.screen, Ask))
        app.screen.query_one("Input").value = "[b]out.md"
        await pilot.press("enter")
        await until(pilot, lambda: (tmp_path / "[b]out.md").exists())
        await until(pilot, lambda: "Written: [b]out.md" in screen_text(app))
        await until(pilot, lambda: app.screen is chat)
        await pilot.press("ctrl+b")
        await until(pilot, lambda: isinstance(app.screen, Pick))
        await pilot.press(*"org/other", "enter")
        await until(pilot, lambda: chat.beside == ModelChoice("org/other"))
        await pilot.press("ctrl+b")
        await until(pilot, lambda: isinstance(app.screen, Pick) and app.screen.choices)
        await pilot.press("enter")
        await until(pilot, lambda: app.screen is chat and chat.beside is None)

    drive(app, script, size, notifications=True)


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


def test_keys_of_the_config_stand_in_the_help(home):
    home.mkdir()
    (home / "config.toml").write_text('[tui.keys]\nvote-tie = "0"\n')
    app = make_app(Models(), label_source=str(pairs_file(home, 3)))

    async def script(pilot):
        await until(pilot, lambda: getattr(app.screen, "drawn", None))
        await pilot.press("0")
        assert Votes().all[-1].choice == "tie"
        await pilot.press("question_mark")
        await until(pilot, lambda: isinstance(app.screen, HelpScreen))
        await pilot.pause()
        text = "\n".join(str(static.render()) for static in app.screen.query("Static"))
        assert "0    A tie" in text

    drive(app, script, (140, 45))


# --------------------------------------------------------------------------------- nothing is lost

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


# --------------------------------------------------------------------------------------- and large


def test_ten_thousand_votes_open_scroll_and_undo_within_a_frame(home, tmp_path):
    vote = {"prompt": [{"role": "user", "content": "q " * 200}], "a": "x" * 300, "b": "y" * 300}
    home.mkdir(exist_ok=True)
    with open(labels_file(), "w") as out:
        for number in range(10_000):
            out.write(json.dumps({"id": f"{number:016x}", **vote, "choice": "a"}) + "\n")
    app = make_app(Models(), label_source=str(pairs_file(tmp_path, 3000, "good " * 100)))

    async def script(pilot):
        async with stalls(app) as found:
            await until(pilot, lambda: getattr(app.screen, "drawn", None))
            screen = app.screen
            await until(pilot, lambda: "10000 votes" in screen_text(app))
            for key in ("a", "b", "down", "u", "t", "pagedown", "x", "u", "s"):
                pair = screen.drawn
                await pilot.press(key)
                if key in "abtxs":
                    await until(pilot, lambda pair=pair: screen.drawn is not pair)
            await pilot.pause(1)
        assert longest(found) < FRAME

    drive(app, script)


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
    app = make_app(Models())

    async def script(pilot):
        chat = app.screen
        await until(pilot, lambda: chat.store is not None)
        async with stalls(app) as found:
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
        assert longest(found) < FRAME

    drive(app, script)


@pytest.mark.slow
def test_an_answer_of_20_kb_streams_and_scrolls_within_a_frame(home):
    app = make_app(Models(words=3000, delay=0.001))

    async def script(pilot):
        chat = app.screen
        async with stalls(app) as found:
            await pilot.press(*"go", "enter")
            await until(pilot, lambda: len(chat.talk.turns) == 2 and not chat.sides, 60)
            await asyncio.sleep(0.2)
            await pilot.press(*["pageup"] * 5)
        assert len(chat.talk.turns[1].content) > 20_000
        assert longest(found) < FRAME

    drive(app, script)
