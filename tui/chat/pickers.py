"""The chat's lists: earlier conversations (open, rename, export, delete), and models."""

import asyncio
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from minialign.chat.store import LISTED, Conversations, Talk, export
from minialign.engine.mlx_thread import Which
from tui import work
from tui.widgets.dialogs import Ask, Choice, Pick, Sure

TITLE = 46  # letters

if TYPE_CHECKING:
    from tui.chat.screen import ChatScreen


async def choose_conversation(screen: "ChatScreen", store: Conversations) -> None:
    """Show an earlier conversation; others can be renamed, exported and deleted on the way."""
    app = screen.app

    def find(words: str) -> list[Choice]:
        found = store.search(words)
        listed = [
            Choice(entry.id, _cut(entry.title) or "(no title)",
                   f"{entry.turns} turns, {_age(entry.updated)}",
                   "▸" if entry.id == screen.talk.id else " ")
            for entry in found
        ]  # fmt: skip
        if len(found) == LISTED:
            listed.append(Choice(None, "… older ones: type what they are about"))
        return listed

    async def rename(number: int | None) -> None:
        if number is None:
            return
        title = await app.push_screen_wait(Ask("Rename", store.load(number).title))
        if title:
            store.rename(number, title)
            if number == screen.talk.id:
                screen.talk.title = title

    async def write(number: int | None) -> None:
        if number is not None:
            await export_talk(screen, store.load(number))

    async def remove(number: int | None) -> None:
        if number is None:
            return
        title = store.load(number).title
        if await app.push_screen_wait(Sure("Delete this conversation?", title)):
            store.remove(number)
            if number == screen.talk.id:
                await screen.show(screen.fresh())

    number = await app.push_screen_wait(
        Pick("Conversations", find,
             {"ctrl+r": ("rename", rename), "ctrl+e": ("export", write),
              "ctrl+d": ("delete", remove)}, "search in titles and texts")
    )  # fmt: skip
    if number is not None and number != screen.talk.id:
        await screen.show(store.load(number))


async def export_talk(screen: "ChatScreen", talk: Talk) -> None:
    """Write a conversation to a file that the user names."""
    name = "".join(c if c.isalnum() else "-" for c in talk.title.lower()).strip("-")[:40]
    path = await screen.app.push_screen_wait(
        Ask("Export to (.md to read, .jsonl to train on)", f"{name or 'chat'}.md")
    )
    if path:
        export(talk, Path(path))
        screen.notify(f"Written: {path}", timeout=4)


async def choose_model(screen: "ChatScreen", title: str, here: Which | None, none: bool) -> Any:
    """A ``Which``; "off" where ``none`` is offered and chosen; None when left."""
    known = await asyncio.to_thread(work.choices)
    listed = [Choice("off", "(none: one answer)")] if none and here else []
    listed += [
        Choice(which, which.label, note, "▸" if which == here else " " if at_hand else "↓")
        for which, note, at_hand in known
    ]

    def find(words: str) -> list[Choice]:
        low = words.lower().split()
        found = [c for c in listed if all(word in c.text.lower() for word in low)]
        if words.strip() and not found:
            found = [Choice(Which(words.strip()), words.strip(),
                            "a hub id, folder or GGUF file", "↓")]  # fmt: skip
        return found

    return await screen.app.push_screen_wait(
        Pick(title, find, placeholder="type to search, or a hub id, folder or GGUF file")
    )


def _cut(title: str) -> str:
    """So much of it that how old the conversation is stands beside it, at 80 columns too."""
    return title if len(title) <= TITLE else title[: TITLE - 1] + "…"


def _age(when: float) -> str:
    seconds = max(0.0, time.time() - when)
    for size, name in ((86400, "d"), (3600, "h"), (60, "min")):
        if seconds >= size:
            return f"{seconds // size:.0f} {name} ago"
    return "just now"
