"""The chat's lists: earlier conversations (open, rename, export, delete), and models."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from textual.app import App

from minialign.chat.store import LISTED, Conversations, Talk, export
from minialign.engine.mlx_thread import ModelChoice
from tui.known_models import list_models
from tui.widgets.dialogs import Ask, Choice, Pick, Sure
from tui.widgets.text import cut

TITLE = 46  # letters: how old the conversation is stands beside it, at 80 columns too


async def choose_conversation(
    app: App[Any],
    store: Conversations,
    current: Callable[[], Talk],
    show: Callable[[Talk | None], Awaitable[None]],
) -> None:
    """Show an earlier conversation; others can be renamed, exported and deleted on the way.

    Args:
        current: the conversation that is shown.
        show: shows another one; a new one in place of None.
    """

    def find(words: str) -> list[Choice]:
        listed = []
        for entry in store.search(words):
            note = f"{entry.turns} turns, {_age(entry.updated)}"
            mark = "▸" if entry.id == current().id else " "
            listed.append(Choice(entry.id, cut(entry.title, TITLE) or "(no title)", note, mark))
        if len(listed) == LISTED:
            listed.append(Choice(None, "… older ones: type what they are about"))
        return listed

    async def rename(number: int) -> None:
        if title := await app.push_screen_wait(Ask("Rename", store.load(number).title)):
            store.rename(number, title)
            if number == current().id:
                current().title = title

    async def write(number: int) -> None:
        await export_talk(app, store.load(number))

    async def remove(number: int) -> None:
        title = store.load(number).title
        if await app.push_screen_wait(Sure("Delete this conversation?", title)):
            store.remove(number)
            if number == current().id:
                await show(None)

    extra = {"ctrl+r": ("rename", rename), "ctrl+e": ("export", write)}
    extra["ctrl+d"] = ("delete", remove)
    pick = Pick("Conversations", find, extra, "search in titles and texts")
    number = await app.push_screen_wait(pick)
    if number is not None and number != current().id:
        await show(store.load(number))


async def export_talk(app: App[Any], talk: Talk) -> None:
    """Write a conversation to a file that the user names."""
    name = "".join(c if c.isalnum() else "-" for c in talk.title.lower()).strip("-")[:40]
    ask = Ask("Export to (.md to read, .jsonl to train on)", f"{name or 'chat'}.md")
    if path := await app.push_screen_wait(ask):
        export(talk, Path(path))
        app.notify(f"Written: {path}", timeout=4)


async def choose_model(app: App[Any], title: str, here: ModelChoice | None, none: bool) -> Any:
    """A ``ModelChoice``; "off" where ``none`` is offered and chosen; None when left."""
    listed = [Choice("off", "(none: one answer)")] if none and here else []
    for choice, note, at_hand in await asyncio.to_thread(list_models):
        mark = "▸" if choice == here else " " if at_hand else "↓"
        listed.append(Choice(choice, choice.label, note, mark))

    def find(words: str) -> list[Choice]:
        low = words.lower().split()
        matching = [one for one in listed if all(word in one.text.lower() for word in low)]
        if low and not matching:
            name = words.strip()
            return [Choice(ModelChoice(name), name, "a hub id, folder or GGUF file", "↓")]
        return matching

    hint = "type to search, or a hub id, folder or GGUF file"
    return await app.push_screen_wait(Pick(title, find, hint=hint))


def _age(when: float) -> str:
    seconds = max(0.0, time.time() - when)
    for size, name in ((86400, "d"), (3600, "h"), (60, "min")):
        if seconds >= size:
            return f"{seconds // size:.0f} {name} ago"
    return "just now"
