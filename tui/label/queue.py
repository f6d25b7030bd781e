"""What is labelled, and in which order: two lists to choose from."""

import asyncio
from typing import Any

from textual.app import App

from minialign.engine.mlx_thread import ModelChoice
from tui.known_models import list_reward_heads
from tui.widgets.dialogs import Ask, Choice, pick_from

STARTERS, CHAT_ONLY = "starters", "chat"


async def choose_source(app: App[Any], here: str) -> str | None:
    """A file's path, ``STARTERS`` or ``CHAT_ONLY``."""
    known = [
        Choice(STARTERS, "Everyday prompts", "the model answers each twice"),
        Choice("file", "A file …", "pairs, or prompts that the model answers twice"),
        Choice(CHAT_ONLY, "Only pairs from the chat", "made there with p"),
    ]
    if here not in (STARTERS, CHAT_ONLY):
        known.insert(0, Choice(here, here, "as before"))
    source = await app.push_screen_wait(pick_from("What shall be labelled?", known, here))
    if source == "file":
        hint = "prompts.txt, pairs.jsonl …"
        return await app.push_screen_wait(Ask("File of prompts or pairs", placeholder=hint))
    return source


async def choose_order(app: App[Any], here: str, choice: ModelChoice) -> str | None:
    """Whose doubts come first: a scorer or judge as ``--least-sure`` names it, "" for nobody's."""
    from minialign.models.names import DEFAULT

    name = choice.adapter or choice.model or DEFAULT
    known = [Choice("", "In their own order")]
    for run in await asyncio.to_thread(list_reward_heads):
        known.append(Choice(f"reward:{run}", f"Reward head of {run}", "the nearest scores first"))
    known.append(Choice(f"judge:{name}", f"{choice.label} as a judge", "the nearest odds first"))
    return await app.push_screen_wait(pick_from("Whose doubts come first?", known, here))
