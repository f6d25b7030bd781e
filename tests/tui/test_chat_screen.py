"""The chat screen, driven by keys, with a scripted model, at two sizes."""

import json
import time
from dataclasses import replace

import pytest
from support.scripted import SIZES, Models, ScriptedEngine, drive, make_app, screen_text, until

from minialign import formats
from minialign.chat.store import Conversations, Talk, Turn
from minialign.engine.mlx_thread import ModelChoice
from minialign.errors import UserError
from minialign.labels.items import Waiting
from minialign.records import Rated
from tui.chat.bubble import Bubble
from tui.chat.composer import Composer
from tui.chat.settings_dialog import SamplingDialog
from tui.chat.welcome import Welcome
from tui.widgets.dialogs import Ask, Edit, ErrorDialog, Pick, Sure
from tui.widgets.help import HelpScreen
from tui.widgets.text import markdown_parser


async def say(pilot, text: str) -> None:
    """Type a question and wait for the whole answer."""
    chat = pilot.app.screen
    before = len(chat.talk.turns)
    pilot.app.screen.query_one(Composer).text = text
    await pilot.press("enter")
    await until(pilot, lambda: len(chat.talk.turns) == before + 2 and not chat.sides)


@pytest.mark.parametrize("size", SIZES)
def test_ask_again_edit_copy_rate_and_pair(home, size):
    models = Models()
    app = make_app(models)

    async def script(pilot):
        chat = app.screen
        await until(pilot, lambda: "fetched with the first question" in screen_text(app))
        await pilot.press(*"hi", "shift+enter", *"you", "enter")
        await until(pilot, lambda: len(chat.talk.turns) == 2 and not chat.sides)
        await until(pilot, lambda: "fetched with" not in screen_text(app))  # it was
        assert chat.talk.turns[0].content == "hi\nyou"
        first = chat.talk.turns[1]
        assert first.content.endswith("word5")
        await say(pilot, "second")
        assert [turn.role for turn in chat.talk.turns] == ["user", "assistant"] * 2
        last = chat.talk.turns[3].content
        assert "to second" in last
        await until(pilot, lambda: "word5" in screen_text(app))

        await pilot.press("ctrl+r")
        await until(pilot, lambda: len(chat.talk.turns) == 4 and not chat.sides)
        again = chat.talk.turns[3]
        assert again.content != last
        assert again.origin["attempts"] == 1
        assert again.origin["seed"] != first.origin["seed"]

        await pilot.press("escape")
        await until(pilot, lambda: isinstance(app.focused, Bubble))
        await until(pilot, lambda: "esc Write" in screen_text(app))
        await pilot.press("escape")
        await until(pilot, lambda: isinstance(app.focused, Composer))
        await until(pilot, lambda: "esc Answers" in screen_text(app))
        await pilot.press("escape")
        await until(pilot, lambda: isinstance(app.focused, Bubble))
        await pilot.press("c")
        await until(pilot, lambda: app.clipboard == again.content)
        await pilot.press("minus", "plus")
        assert again.origin["good"] is True
        await until(pilot, lambda: "good" in screen_text(app))
        records = formats.read(home / "ratings.jsonl").records
        assert [(type(r), r.good, len(r.prompt)) for r in records] == [(Rated, True, 3)]
        await pilot.press("plus")
        assert (home / "ratings.jsonl").read_text() == ""

        await pilot.press("p")
        await until(pilot, lambda: len(Waiting().pairs()) == 1)
        (pair,) = Waiting().pairs()
        assert pair.a == again.content != pair.b
        assert pair.a_from["seed"] != pair.b_from["seed"]
        assert [turn["role"] for turn in pair.prompt] == ["user", "assistant", "user"]

        await pilot.press("up")
        await until(pilot, lambda: app.focused.text == "second")
        await pilot.press("e")
        await until(pilot, lambda: isinstance(app.screen, Edit))
        app.screen.query_one("TextArea").text = "third"
        await pilot.press("ctrl+s")
        await until(pilot, lambda: app.screen is chat and len(chat.talk.turns) == 4)
        await until(pilot, lambda: not chat.sides)
        assert [turn.content for turn in chat.talk.turns][::2] == ["hi\nyou", "third"]
        await pilot.press("up", "up", "up", "enter")
        await until(pilot, lambda: isinstance(app.focused, Composer))

    drive(app, script, size)
    store = Conversations()
    (entry,) = store.search()
    assert (entry.title, entry.turns) == ("hi you", 4)
    store.close()


def test_escape_stops_at_once_and_the_next_answer_is_not_mixed(home):
    models = Models(words=40_000, delay=0.005)
    app = make_app(models)

    async def script(pilot):
        chat = app.screen
        for number in range(3):
            await pilot.press(*f"q{number}", "enter")
            await until(pilot, lambda: chat.sides and chat.sides[0].tokens > 3)
            bubble = chat.sides[0].bubble
            await pilot.press("escape")
            await until(pilot, lambda: not chat.sides)
            text = bubble.text
            assert text.count("word0") <= 1
            assert f"to q{number}:" in text
            assert chat.talk.turns[-1].content == text
            assert chat.talk.turns[-1].origin["finish_reason"] == "cancelled"
        texts = [turn.content for turn in chat.talk.turns if turn.role == "assistant"]
        for number, text in enumerate(texts):
            assert [f"to q{n}:" in text for n in range(3)] == [n == number for n in range(3)]
        await until(pilot, lambda: "stopped" in screen_text(app))
        (engine,) = models.loaded.values()
        await until(pilot, lambda: engine.closed == 3)

    drive(app, script)


def test_a_stopped_answer_is_rated_and_paired_as_a_cut_one(home):
    models = Models(words=40_000, delay=0.005)
    app = make_app(models)

    def at_the_limit(*arguments, **options):
        (engine,) = models.loaded.values()
        for piece in ScriptedEngine.stream(engine, *arguments, **options):
            yield replace(piece, finish_reason=piece.finish_reason and "length")

    async def script(pilot):
        chat = app.screen
        await pilot.press("q", "enter")
        await until(pilot, lambda: chat.sides and chat.sides[0].tokens > 3)
        await pilot.press("escape")
        await until(pilot, lambda: not chat.sides and len(chat.talk.turns) == 2)
        (engine,) = models.loaded.values()
        engine.words, engine.delay = 3, 0
        await pilot.press("escape", "plus", "p")
        await until(pilot, lambda: len(Waiting().pairs()) == 1)
        await pilot.press("escape")
        stream, engine.stream = engine.stream, at_the_limit
        await say(pilot, "again")
        engine.stream = stream
        await pilot.press("escape", "minus", "p")
        await until(pilot, lambda: len(Waiting().pairs()) == 2)

    drive(app, script)
    stopped, at_limit = formats.read(home / "ratings.jsonl").records
    assert (stopped.good, stopped.finish_reasons) == (True, ["cancelled"])
    assert (at_limit.good, at_limit.finish_reasons) == (False, ["length"])
    ends = [(pair.a_from["finish_reason"], pair.b_from["finish_reason"])
            for pair in Waiting().pairs()]  # fmt: skip
    assert ends == [("cancelled", "stop"), ("length", "stop")]


def test_a_question_stopped_before_its_answer_goes_back_to_the_composer(home):
    models = Models()
    app = make_app(models)

    async def script(pilot):
        chat = app.screen
        await until(pilot, lambda: models.loaded or chat._ready)
        await say(pilot, "one")
        (engine,) = models.loaded.values()
        engine.go.clear()
        await pilot.press(*"two", "enter")
        await until(pilot, lambda: bool(chat.sides))
        await pilot.press("escape")
        await until(pilot, lambda: not chat.sides)
        engine.go.set()
        await until(pilot, lambda: chat.query_one(Composer).text == "two")
        await until(pilot, lambda: len(chat.query(Bubble)) == 2)
        assert len(chat.talk.turns) == 2
        await pilot.press("enter")
        await until(pilot, lambda: len(chat.talk.turns) == 4)

    drive(app, script)


def test_typing_while_an_answer_is_written_is_kept_and_not_sent(home):
    models = Models(words=40_000, delay=0.005)
    app = make_app(models)

    async def script(pilot):
        chat = app.screen
        await pilot.press("x", "enter")
        await until(pilot, lambda: chat.sides and chat.sides[0].tokens > 2)
        await pilot.press(*"next", "enter")
        await until(pilot, lambda: chat.query_one(Composer).text == "next")
        assert len(chat.talk.turns) == 1
        await pilot.press("escape")
        await until(pilot, lambda: not chat.sides)

    drive(app, script)


@pytest.mark.parametrize("size", SIZES)
def test_two_models_side_by_side_keep_their_own_history(home, size):
    models = Models()
    app = make_app(models)
    app.preferences.beside = ["m", "dpo-1"]

    async def script(pilot):
        chat = app.screen
        await say(pilot, "one")
        await say(pilot, "two")
        turn = chat.talk.turns[3]
        assert turn.origin["beside"]["adapter"] == "dpo-1"
        assert set(models.loaded) == {ModelChoice("m"), ModelChoice("m", "dpo-1")}
        mine, theirs = chat.talk.messages(3), chat.talk.messages(3, beside=True)
        assert mine[0] == theirs[0]
        assert len(list(chat.query(".pair"))) == 2
        regions = [bubble.region for bubble in list(chat.query(Bubble))[-2:]]
        assert regions[0].y == regions[1].y
        assert regions[0].right <= regions[1].x
        await pilot.press("escape", "left", "p")
        if turn.content == turn.origin["beside"]["text"]:
            assert Waiting().pairs() == []  # nothing to choose between
        turn.origin["beside"] |= {"text": "cut", "finish_reason": "length"}
        await pilot.press("p")
        await until(pilot, lambda: Waiting().pairs())
        (pair,) = Waiting().pairs()
        assert [pair.a_from["finish_reason"], pair.b_from["finish_reason"]] == ["stop", "length"]
        await pilot.press("escape", "ctrl+o")
        await until(pilot, lambda: isinstance(app.screen, Pick))
        await pilot.press("escape")
        await chat.show(chat.store.load(chat.talk.id))
        assert len(list(chat.query(".pair"))) == 2

    drive(app, script, size)


@pytest.mark.parametrize("size", SIZES)
def test_conversations_are_found_renamed_exported_and_deleted(home, size, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    store = Conversations()
    for name in ("a very long title about all the birds of the whole world", "about cats",
                 "about dogs"):  # fmt: skip
        store.save(
            Talk(name, turns=[Turn("user", name), Turn("assistant", f"**{name}** 日本語 🙂")])
        )
    store.close()
    app = make_app(Models())

    async def script(pilot):
        chat = app.screen
        await until(pilot, lambda: chat.store is not None)
        await pilot.press("ctrl+o")
        await until(pilot, lambda: isinstance(app.screen, Pick))
        pick = app.screen
        assert [choice.text for choice in pick.choices][:2] == ["about dogs", "about cats"]

        def long_one() -> str:
            return next((row for row in screen_text(app).splitlines() if "very long" in row), "")

        await until(pilot, lambda: "2 turns, just now" in long_one())  # at 80 columns too
        await pilot.press(*"cat")
        assert [choice.text for choice in pick.choices] == ["about cats"]
        await pilot.press("ctrl+r")
        await until(pilot, lambda: isinstance(app.screen, Ask))
        app.screen.query_one("Input").value = "cats and more"
        await pilot.press("enter")
        await until(pilot, lambda: app.screen is pick)
        await until(pilot, lambda: pick.choices[0].text == "cats and more")
        await pilot.press("ctrl+e")
        await until(pilot, lambda: isinstance(app.screen, Ask))
        app.screen.query_one("Input").value = "out.jsonl"
        await pilot.press("enter")
        await until(pilot, lambda: (tmp_path / "out.jsonl").exists() and app.screen is pick)
        await pilot.press("enter")
        await until(pilot, lambda: app.screen is chat and len(chat.talk.turns) == 2)
        await until(pilot, lambda: "日本語" in screen_text(app))
        await until(pilot, lambda: "about cats" in screen_text(app))
        await pilot.press("ctrl+o")
        await until(pilot, lambda: isinstance(app.screen, Pick))
        await pilot.press("ctrl+d")
        await until(pilot, lambda: isinstance(app.screen, Sure))
        await pilot.press("y")
        await until(pilot, lambda: isinstance(app.screen, Pick))
        await pilot.press("escape")
        await until(pilot, lambda: app.screen is chat)
        await pilot.press("ctrl+n")
        assert chat.talk.turns == []

    drive(app, script, size)
    row = json.loads((tmp_path / "out.jsonl").read_text())
    assert row["messages"][1]["content"] == "**about cats** 日本語 🙂"
    store = Conversations()
    assert "cats and more" in [entry.title for entry in store.search()]
    assert len(store.search()) == 2
    store.close()


@pytest.mark.parametrize("size", SIZES)
def test_settings_are_checked_used_and_remembered(home, size):
    app = make_app(Models())

    async def script(pilot):
        chat = app.screen
        await pilot.press("ctrl+s")
        await until(pilot, lambda: isinstance(app.screen, SamplingDialog))
        dialog = app.screen
        dialog.query_one("#s-stop").focus()
        await until(pilot, lambda: str(dialog.query_one("#meaning").render()).startswith("texts"))
        dialog.query_one("#system").text = "be brief"
        dialog.query_one("#s-temperature").value = "hot"
        await pilot.press("ctrl+s")
        await until(pilot, lambda: app.screen is dialog)
        await until(pilot, lambda: "must be a number" in screen_text(app))
        dialog.query_one("#s-temperature").value = "-1"
        await pilot.press("ctrl+s")
        await until(pilot, lambda: app.screen is dialog)
        dialog.query_one("#s-temperature").value = "0.2"
        dialog.query_one("#s-stop").value = "END, STOP"
        await pilot.press("ctrl+s")
        await until(pilot, lambda: app.screen is chat)
        assert chat._sampling() == {"temperature": 0.2, "stop": ["END", "STOP"]}
        assert chat.talk.system == "be brief"
        await say(pilot, "x")

    drive(app, script, size)
    kept = json.loads((home / "tui.json").read_text())
    assert (kept["system"], kept["sampling"]["temperature"]) == ("be brief", 0.2)


def test_model_is_chosen_and_a_model_that_fails_is_a_dialog(home):
    models = Models()
    app = make_app(models)

    async def script(pilot):
        chat = app.screen
        await pilot.press("ctrl+g")
        await until(pilot, lambda: isinstance(app.screen, Pick))
        await pilot.press(*"org/thing", "enter")
        await until(pilot, lambda: app.screen is chat)
        await until(pilot, lambda: app.choice == ModelChoice("org/thing"))
        models.fails = UserError("org/thing: damaged weights", "get the model again")
        await pilot.press(*"hello", "enter")
        await until(pilot, lambda: isinstance(app.screen, ErrorDialog))
        await until(pilot, lambda: "damaged weights" in screen_text(app))
        await until(pilot, lambda: "get the model again" in screen_text(app))
        await pilot.press("c")
        await until(pilot, lambda: "get the model again" in app.clipboard)
        await pilot.press("enter")
        await until(pilot, lambda: app.screen is chat)
        await until(pilot, lambda: chat.query_one(Composer).text == "hello")
        await until(pilot, lambda: "a new conversation" in screen_text(app))
        models.fails = None
        await pilot.press("enter")
        await until(pilot, lambda: len(chat.talk.turns) == 2)

    drive(app, script)


@pytest.mark.parametrize("size", SIZES)
def test_chat_with_another_model_from_elsewhere_is_told_and_begins_with_writing(home, size):
    app = make_app(Models(words=40_000, delay=0.005))
    choice = ModelChoice("a-model-with-a-long-name-4bit", "dpo-12")

    async def script(pilot):
        chat = app.screen
        await pilot.press("x", "enter")
        await until(pilot, lambda: chat.sides and chat.sides[0].tokens > 2)
        chat.sides[0].bubble.focus()
        await until(pilot, lambda: "esc Stop" in screen_text(app))
        await pilot.press("escape")  # also from an answer it stops what is written
        await until(pilot, lambda: not chat.sides)
        assert isinstance(app.focused, Bubble)
        await pilot.press("f6")
        app.chat_with(choice)
        await until(pilot, lambda: app.screen is chat and isinstance(app.focused, Composer))
        await until(pilot, lambda: screen_text(app).splitlines()[0].endswith("+ dpo-12"))
        await until(pilot, lambda: size[0] < 100 or choice.label in screen_text(app))

    drive(app, script, size)


@pytest.mark.parametrize("size", SIZES)
def test_the_first_run_offers_three_questions(home, size):
    app = make_app(Models(), welcomed=False)

    async def script(pilot):
        chat = app.screen_stack[0]
        await until(pilot, lambda: isinstance(app.screen, Welcome))
        await pilot.pause()
        await until(pilot, lambda: "Welcome to minialign" in screen_text(app))
        await pilot.press("down", "enter")
        await until(pilot, lambda: len(chat.talk.turns) == 2)
        assert "email" in chat.talk.turns[0].content

    drive(app, script, size)
    assert json.loads((home / "tui.json").read_text())["welcomed"] is True


def test_the_welcome_gives_way_to_the_screens_that_it_names(home):
    app = make_app(Models(), welcomed=False)

    async def script(pilot):
        await until(pilot, lambda: isinstance(app.screen, Welcome))
        await pilot.press("f3")
        await until(pilot, lambda: app.current_mode == "label")
        assert not isinstance(app.screen, Welcome)

    drive(app, script)


def test_text_of_a_model_is_never_markup_or_control(home):
    app = make_app(Models())
    text = "[red]x[/red] [@click=app.quit]y[/] \x1b[2J \x07 " + "long " * 4000

    async def script(pilot):
        chat = app.screen
        await until(pilot, lambda: chat.store is not None)
        await chat.show(Talk("t", turns=[Turn("user", text), Turn("assistant", text)]))
        await pilot.pause()
        chat.query_one("#talk").scroll_home(animate=False)
        await until(pilot, lambda: "[red]x[/red]" in screen_text(app))
        assert "\x1b" not in screen_text(app)
        await pilot.press("x", "backspace")

    drive(app, script)


@pytest.mark.parametrize("moment", ["loading", "writing"])
def test_quitting_in_the_middle_is_clean_and_quick(home, moment):
    models = Models(words=50_000, delay=0.002)
    if moment == "loading":
        models.load_seconds = 0.5
    app = make_app(models)

    async def script(pilot):
        await pilot.press("x", "enter")
        if moment == "writing":
            await until(pilot, lambda: app.screen.sides and app.screen.sides[0].tokens > 3)
        began = time.process_time()
        await pilot.press("ctrl+q")
        await until(pilot, lambda: not app.is_running)
        assert time.process_time() - began < 5  # the answer would take minutes

    drive(app, script)


def test_a_database_that_is_none_is_told_and_left_alone(home):
    home.mkdir()
    (home / "conversations.db").write_text("this is no database, but the user's own text " * 30)
    before = (home / "conversations.db").read_bytes()
    app = make_app(Models())

    async def script(pilot):
        await until(pilot, lambda: isinstance(app.screen, ErrorDialog))
        await pilot.press("escape")
        await say(pilot, "still here?")

    drive(app, script)
    assert (home / "conversations.db").read_bytes() == before


def test_code_without_a_language_is_text():
    text = "```\nplain = 1\n```\n\n```python\nx = 1\n```\n\npar\n\n    indented\n"
    infos = [t.info for t in markdown_parser().parse(text) if t.type in ("fence", "code_block")]
    assert infos == ["text", "python", "text"]


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
