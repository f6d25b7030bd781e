"""Data and models: what is listed, what a file holds and what is wrong with it, fetching."""

import json
import shutil
import threading
from pathlib import Path

import pytest
from support.fake_hub import Hub, files_of, serve
from support.scripted import SIZES, Models, drive, make_app, screen_text, shown, until
from textual.widgets import OptionList

from minialign.data import known_files
from minialign.engine.mlx_thread import ModelChoice
from minialign.errors import UserError
from minialign.models.sources import fetch
from minialign.run_folder import Run
from tui.runs.form import RunForm
from tui.widgets.dialogs import Ask, ErrorDialog, Sure

ROWS = [
    {"prompt": "Name a colour.", "chosen": "Blue, or green.", "rejected": "No."},
    {"prompt": "Name a colour.", "chosen": "Blue.", "rejected": "Blue."},
    {"prompt": "Name a tree.", "chosen": 7, "rejected": "No."},
    {"prompt": "Name a fish."},
]


@pytest.fixture
def file(tmp_path: Path, home: Path) -> Path:
    path = tmp_path / "pairs.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    return path


async def opened(pilot):
    """The screen, with its list."""
    await pilot.press("f6")
    await until(pilot, lambda: getattr(pilot.app.screen, "entries", None))
    await until(pilot, lambda: pilot.app.screen.current)  # something is highlighted
    return pilot.app.screen


def go_to(screen, wanted: str) -> None:
    """Highlight the entry whose id ends so."""
    listed = screen.query_one(OptionList)
    listed.highlighted = next(
        at for at in range(listed.option_count)
        if (listed.get_option_at_index(at).id or "").endswith(wanted)
    )  # fmt: skip


@pytest.mark.parametrize("size", SIZES)
def test_what_a_file_holds_and_what_is_wrong_with_it(file, size):
    app = make_app(Models())

    async def script(pilot):
        screen = await opened(pilot)
        await until(pilot, lambda: "Models to get" in screen_text(app))
        go_to(screen, "gemma-3-1b")
        await until(pilot, lambda: "not here: p fetches it" in screen_text(app))
        for key in ("t", "l", "v", "x", "delete", "c"):
            await pilot.press(key)  # nothing of a model that is not here
        await until(pilot, lambda: app.screen is screen)
        await pilot.press("a")
        await until(pilot, lambda: isinstance(app.screen, Ask))
        await pilot.press(*str(file), "enter")
        await until(pilot, lambda: app.screen is screen and screen.current.name == str(file))
        await until(pilot, lambda: screen.facts_of(screen.current))
        await shown(pilot, "4 rows, 1 bad", "2 pairs, 1 prompts",
                    "1 × chosen and rejected are the same text: line 2")  # fmt: skip
        if size[1] > 40:
            await shown(pilot, "line 3: found", "fix:", "Name a colour.", "+ Blue, or green.")
        else:
            await pilot.press("shift+down", "shift+down")
            await shown(pilot, "line 3: found")
            await pilot.press("shift+up")
        with open(file, "a") as out:
            out.write('{"prompt": "cut off')
        await pilot.press("v")
        await shown(pilot, "5 rows, 2 bad")
        await pilot.press("t")
        await until(pilot, lambda: isinstance(app.screen, RunForm) and app.screen.query("#f-data"))
        assert app.screen.query_one("#f-data").value == str(file)
        assert app.screen.method == "dpo"
        await pilot.press("escape", "f6")
        await until(pilot, lambda: app.screen is screen)
        await pilot.press("delete")
        await until(pilot, lambda: not any(e.kind == "data" for e in screen.entries))
        assert file.exists()
        await until(pilot, lambda: "a adds a file" in screen_text(app) or size[1] < 40)

    drive(app, script, size)


def test_label_from_a_file(home, tmp_path):
    path = tmp_path / "prompts.jsonl"
    path.write_text('{"prompt": "one?"}\n{"prompt": "two?"}\n')
    known_files.remember(path)
    app = make_app(Models())

    async def script(pilot):
        screen = await opened(pilot)
        go_to(screen, str(path))
        await until(pilot, lambda: screen.facts_of(screen.current))
        await pilot.press("t")  # prompts alone train nothing
        await until(pilot, lambda: app.screen is screen)
        await pilot.press("l")
        await until(pilot, lambda: getattr(app.screen, "drawn", None))
        assert app.screen.drawn.prompt[0]["content"] == "one?"
        assert app.preferences.label_source == str(path)

    drive(app, script)


@pytest.mark.parametrize("size", SIZES)
def test_pull_shows_how_far_it_is_stops_and_goes_on(home, monkeypatch, size):
    go, asked = threading.Event(), []

    def ensure(name, progress):
        asked.append(name)
        for done in range(0, 100_000_001, 20_000_000):
            progress("fetching model.gguf", done, 100_000_000)
            while done == 40_000_000 and not go.wait(0.01):
                progress("fetching model.gguf", done, 100_000_000)
        return home

    monkeypatch.setattr(fetch, "ensure", ensure)
    app = make_app(Models())

    async def script(pilot):
        screen = await opened(pilot)
        go_to(screen, "qwen3-0.6b")
        await pilot.press("p")
        await until(pilot, lambda: "40%" in screen_text(app))
        await until(pilot, lambda: "fetching model.gguf" in screen_text(app))
        assert screen.check_action("pull", ()) is False
        await pilot.press("f2", *"hi", "enter")  # the chat's thread is free
        await until(pilot, lambda: "word5" in screen_text(app))
        await pilot.press("f6", "x")
        await until(pilot, lambda: screen.job is None)
        await until(pilot, lambda: "fetching model.gguf" not in screen_text(app))
        go.set()
        await pilot.press("p")
        await until(pilot, lambda: len(asked) == 2 and screen.job is None)
        await pilot.press("g")
        await until(pilot, lambda: isinstance(app.screen, Ask))
        await pilot.press(*"org/repo", "enter")
        await until(pilot, lambda: len(asked) == 3 and screen.job is None)

    drive(app, script, size)
    assert asked == ["qwen3-0.6b", "qwen3-0.6b", "org/repo"]


def test_a_model_of_the_hub_is_pulled_stopped_and_gone_on_with_while_one_chats(
    home, tiny_model, tmp_path, monkeypatch
):
    from huggingface_hub import constants

    from minialign.models.sources import hub as client

    monkeypatch.setattr(client, "LARGE", 1000)
    monkeypatch.setattr(constants, "DOWNLOAD_CHUNK_SIZE", 1000)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hf"))
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    app = make_app(Models())

    async def script(pilot):
        async def get(name: str):
            await pilot.press("g")
            await until(pilot, lambda: isinstance(app.screen, Ask))
            await pilot.press(*name, "enter")

        screen = await opened(pilot)
        await get("org/nothing")
        await until(pilot, lambda: isinstance(app.screen, ErrorDialog))
        await until(pilot, lambda: "there is no org/nothing" in screen_text(app))
        await pilot.press("escape")
        await until(pilot, lambda: screen.job is None)
        hub.held = threading.Event()
        await get("org/tiny")
        await until(pilot, lambda: "downloading org/tiny" in screen_text(app))
        await until(pilot, lambda: 0 < (screen.query_one("#share").percentage or 0) < 1)
        await pilot.press("f2", *"hi", "enter")
        await until(pilot, lambda: "word5" in screen_text(app))
        await pilot.press("f6", "x")
        await until(pilot, lambda: screen.job is None)
        hub.held.set()
        await get("org/tiny")
        await until(pilot, lambda: screen.current and screen.current.name == "org/tiny", 60)
        await until(pilot, lambda: "on this disk" in screen_text(app))
        await pilot.press("c")
        await until(pilot, lambda: app.screen is not screen)
        await until(pilot, lambda: app.choice == ModelChoice("org/tiny"))

    with serve(Hub({"org/tiny": files_of(tiny_model)})) as hub:
        monkeypatch.setenv("HF_ENDPOINT", hub.url)
        drive(app, script)
    assert any(" bytes=" in request for request in hub.requests)  # it went on where it was
    assert fetch.find("org/tiny")


def test_import_choose_and_remove_a_model(home, tiny_model, tmp_path):
    folder = tmp_path / "my-llama"
    shutil.copytree(tiny_model, folder)
    app = make_app(Models())

    async def script(pilot):
        screen = await opened(pilot)
        await pilot.press("i")
        await until(pilot, lambda: isinstance(app.screen, Ask))
        await pilot.press(*"nowhere.gguf", "enter")
        await until(pilot, lambda: isinstance(app.screen, ErrorDialog))
        await pilot.press("c", "enter", "i")
        await until(pilot, lambda: isinstance(app.screen, Ask))
        await pilot.press(*str(folder), "enter")
        await until(pilot, lambda: isinstance(app.screen, Ask)
                    and app.screen.heading.startswith("What"))  # fmt: skip
        await pilot.press("enter")
        await until(pilot, lambda: screen.current and screen.current.name == "my-llama", 60)
        await until(pilot, lambda: "on this disk" in screen_text(app))
        await pilot.press("c")
        await until(pilot, lambda: app.screen is not screen)
        await until(pilot, lambda: app.choice == ModelChoice("my-llama"))
        await pilot.press("f6", "delete")
        await until(pilot, lambda: isinstance(app.screen, Sure))
        await pilot.press("n")
        assert fetch.find("my-llama")
        await pilot.press("delete")
        await until(pilot, lambda: isinstance(app.screen, Sure))
        await pilot.press("y")
        await until(pilot, lambda: not any(e.kind == "here" for e in screen.entries))

    drive(app, script)
    assert (folder / "model.safetensors").exists()  # it was only referenced


def test_a_pull_that_fails_is_told(home, monkeypatch):
    def ensure(name, progress):
        raise UserError("the hub cannot be reached", "try again later")

    monkeypatch.setattr(fetch, "ensure", ensure)
    app = make_app(Models())

    async def script(pilot):
        screen = await opened(pilot)
        go_to(screen, "gemma-3-1b")
        await pilot.press("p")
        await until(pilot, lambda: isinstance(app.screen, ErrorDialog))
        await until(pilot, lambda: "try again later" in screen_text(app))
        await pilot.press("enter")
        await until(pilot, lambda: app.screen is screen)
        assert screen.job is None

    drive(app, script)


def test_the_list_of_data_files(home, tmp_path):
    one, two = tmp_path / "one.jsonl", tmp_path / "two.jsonl"
    for path in (one, two):
        path.write_text('{"prompt": "p"}\n')
    with pytest.raises(UserError, match="no such file"):
        known_files.remember(tmp_path / "three.jsonl")
    known_files.remember(one)
    known_files.remember(two)
    Run.create("sft", {"data": [str(one), str(tmp_path / "gone.jsonl")], "eval_data": []})
    (home / "labels.jsonl").write_text("")
    assert known_files.list_known() == [
        (two, "added"), (one, "added"), (home / "labels.jsonl", "your votes"),
    ]  # fmt: skip
    known_files.forget(one)
    assert (one, "of sft-1") in known_files.list_known()
    (home / "datafiles.json").write_text("[")
    assert two not in dict(known_files.list_known())


def test_a_big_file_is_read_beside_the_app(home, tmp_path):
    path = tmp_path / "big.jsonl"
    path.write_text(
        "".join(json.dumps({**ROWS[0], "prompt": f"p{n}"}) + "\n" for n in range(20000))
    )
    known_files.remember(path)
    app = make_app(Models())

    async def script(pilot):
        screen = await opened(pilot)
        go_to(screen, str(path))
        keys = 0
        while not screen.facts_of(screen.current):
            await pilot.press("down")  # is acted upon while the file is read
            go_to(screen, str(path))
            keys += 1
        assert keys >= 1
        await until(pilot, lambda: "20,000 rows" in screen_text(app))

    drive(app, script)
