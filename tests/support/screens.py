"""Pictures (SVG) of the screens: ``make pictures``, or ``python -m support.screens FOLDER``.

With ``--all`` every screen at 80x24 and at 140x45, dark and light, to be looked at; else those of
the README at one size. What they show is real (screens_content.py): the embedded model answers,
trains, is judged and judges first, which takes a few minutes. ``--models`` names a folder with
another model of that name and ``--iters`` the steps of a run, for a test that is quick.
"""

import argparse
import asyncio
import os
import re
import tempfile
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from textual.widgets import OptionList

from minialign.chat.store import title_of
from minialign.engine.mlx_thread import ModelChoice, ModelThread, leave
from minialign.errors import UserError
from minialign.models.sources.fetch import ensure
from support.places import MODEL_HOME, ROOT
from support.screens_content import (
    DAMAGED,
    MODEL,
    MORE,
    PATIENCE,
    PROMPTS,
    QUESTION,
    SHORT,
    fill_home,
    talk,
    vote,
)
from support.scripted import SIZES, current_screen, settle_keys, until
from tui.app import MinialignApp
from tui.chat.screen import ChatScreen
from tui.chat.welcome import Welcome
from tui.judge.screen import JudgeScreen
from tui.label.screen import LabelScreen
from tui.library.screen import LibraryScreen
from tui.runs.screen import RunsScreen
from tui.widgets.dialogs import ErrorDialog

Shot = Callable[[str], Awaitable[None]]
SIZE = (112, 32)
README = ("chat", "beside", "label", "judge", "verdict", "runs-overlay", "answers", "form", "data")


async def pictures(
    folder: Path, size: tuple[int, int], theme: str, wanted: tuple[str, ...]
) -> None:
    """The wanted screens at one size, all of them when none is named."""
    app = MinialignApp(ModelThread(), choice=ModelChoice(MODEL), theme=theme)
    app.preferences.place, app.preferences.label_source = "chat", PROMPTS
    app.preferences.sampling = {"max_tokens": 300}
    LabelScreen.BOUNCE = 0.0

    async with app.run_test(size=size) as pilot:
        settle_keys(pilot)

        async def shot(name: str) -> None:
            if wanted and name not in wanted:
                return
            await pilot.pause(0.3)
            app.clear_notifications()
            await pilot.pause(0.1)
            file = f"{name}.svg" if wanted else f"{name}-{size[0]}x{size[1]}-{theme}.svg"
            (folder / file).write_text(compact(app.export_screenshot(title="")), encoding="utf-8")

        await pilot.pause(0.3)
        for draw in (_draw_chat, _draw_labels_and_verdicts, _draw_data_and_runs, _draw_dialogs):
            await draw(pilot, shot)
    app.model_thread.close(10)


async def _draw_chat(pilot: Any, shot: Shot) -> None:
    app = pilot.app
    await shot("chat-empty")
    chat = current_screen(app, ChatScreen)
    assert chat.store is not None
    kept = {entry.title: entry.id for entry in chat.store.search()}
    await talk(pilot, MORE, 3, whole=False)
    await shot("chat")
    await pilot.press("escape")
    await until(pilot, lambda: not chat.sides, PATIENCE)
    await pilot.press("escape")
    await shot("chat-answer")
    await chat.show(chat.store.load(kept[title_of(QUESTION)]))
    await shot("beside")
    dialogs = {"ctrl+o": "conversations", "ctrl+s": "settings", "ctrl+g": "models"}
    for key, name in {**dialogs, "f1": "help", "ctrl+p": "palette"}.items():
        await pilot.press(key)
        await until(pilot, lambda: app.screen is not chat)
        await shot(name)
        await pilot.press("escape")
        await until(pilot, lambda: app.screen is chat)


async def _draw_labels_and_verdicts(pilot: Any, shot: Shot) -> None:
    app = pilot.app
    app.preferences.sampling = SHORT
    await pilot.press("f3")
    label = current_screen(app, LabelScreen)
    await vote(pilot)
    await until(pilot, lambda: label.drawn, PATIENCE)
    await shot("label")
    await pilot.press("e")
    await until(pilot, lambda: app.screen is not label)
    await shot("edit")
    await pilot.press("escape", "u", "f4")
    await until(pilot, lambda: isinstance(app.screen, JudgeScreen))
    judge = current_screen(app, JudgeScreen)
    await until(pilot, lambda: judge.judged.opinions and judge.judged.verdicts)
    await pilot.pause(0.5)
    await shot("judge")
    await pilot.press("enter")
    await until(pilot, lambda: app.screen is not judge)
    await shot("verdict")
    await pilot.press("escape", "n")
    await until(pilot, lambda: getattr(app.screen, "abouts", None))
    await shot("judge-form")
    await pilot.press("escape")


async def _draw_data_and_runs(pilot: Any, shot: Shot) -> None:
    app = pilot.app
    await pilot.press("f6")
    library = current_screen(app, LibraryScreen)
    await until(pilot, lambda: library.entries)
    await shot("models")
    listed = library.query_one(OptionList)
    ids = [str(listed.get_option_at_index(n).id) for n in range(listed.option_count)]
    listed.highlighted = next(n for n, one in enumerate(ids) if one.endswith(DAMAGED))
    await until(pilot, lambda: library.current and library.facts_of(library.current))
    await shot("data")
    await pilot.press("f5")
    runs = current_screen(app, RunsScreen)
    await until(pilot, lambda: runs.seen.chart)
    await shot("runs")
    await pilot.press("down", "space", "down")
    await pilot.pause(1)
    await shot("runs-overlay")
    await pilot.press("home", "v")
    await until(pilot, lambda: "reward" in str(runs.query_one("#answered").render()))
    await shot("answers")
    await pilot.press("v", "n")
    await until(pilot, lambda: app.screen is not runs)
    await shot("form")
    await pilot.press("escape")


async def _draw_dialogs(pilot: Any, shot: Shot) -> None:
    problem = "run dpo-7: the weights of step 50 are kept, the loss is not a number"
    hint = "try a smaller --learning-rate, a longer --warmup or --grad-clip 0.5"
    pilot.app.push_screen(ErrorDialog(UserError(problem, hint)))
    await shot("error")
    await pilot.press("escape")
    pilot.app.push_screen(Welcome())
    await shot("welcome")


def compact(svg: str) -> str:
    """Without the fonts, which would be fetched from elsewhere; a third of the size."""
    svg = re.sub(r"@font-face \{.*?\}\s*", "", svg, flags=re.DOTALL)
    return re.sub(r'(?<==")(\d+\.\d)\d+(?=")', r"\1", svg)


def main() -> None:
    """Write them."""
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("--all", action="store_true")
    parser.add_argument("--models", type=Path)
    parser.add_argument("--iters", type=int, default=24)
    parser.add_argument("--votes", type=int, default=16)
    options = parser.parse_args()
    folder, models = options.folder.resolve(), options.models or MODEL_HOME / "models"
    folder.mkdir(parents=True, exist_ok=True)
    themes = ("minialign", "minialign-light") if options.all else ("minialign",)
    if options.models is None:
        os.environ["MINIALIGN_HOME"] = str(MODEL_HOME)
        ensure(MODEL)  # fetched once, and kept for the tests too
    with tempfile.TemporaryDirectory() as place:
        os.environ["MINIALIGN_HOME"] = str(Path(place, "home"))
        os.chdir(place)  # paths in the pictures are relative
        Path("home").mkdir()
        Path("home", "models").symlink_to(models.resolve())
        Path("examples").symlink_to(ROOT / "examples")
        fill_home(options.iters, options.votes)
        for size in SIZES if options.all else (SIZE,):
            for theme in themes:
                asyncio.run(pictures(folder, size, theme, () if options.all else README))
        os.chdir(ROOT)
    print(f"{len(list(folder.glob('*.svg')))} pictures in {folder}", flush=True)
    leave(0)


if __name__ == "__main__":
    main()
