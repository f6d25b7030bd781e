"""What is labelled, and in which order: two lists to choose from."""

import asyncio
from typing import Any

from textual.app import App

from minialign.engine.mlx_thread import Which
from tui.widgets.dialogs import Ask, Choice, Pick

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
    source = await _pick(app, "What shall be labelled?", known, here)
    if source == "file":
        return await app.push_screen_wait(
            Ask("File of prompts or pairs", placeholder="prompts.txt, pairs.jsonl …")
        )
    return source


async def choose_order(app: App[Any], here: str, which: Which) -> str | None:
    """Whose doubts come first: a scorer or judge as ``--least-sure`` names it, "" for nobody's."""
    known = [Choice("", "In their own order"), *await asyncio.to_thread(_doubters, which)]
    return await _pick(app, "Whose doubts come first?", known, here)


async def _pick(app: App[Any], title: str, known: list[Choice], here: str) -> str | None:
    listed = [Choice(c.value, c.text, c.note, "▸" if c.value == here else " ") for c in known]
    return await app.push_screen_wait(
        Pick(title, lambda words: [c for c in listed if words.lower() in c.text.lower()])
    )


def _doubters(which: Which) -> list[Choice]:
    """Who can say how sure they are: reward heads, and the chat's model as a judge."""
    from minialign.models.names import DEFAULT
    from minialign.run_folder import list_runs

    heads = [
        Choice(f"reward:{run.name}", f"Reward head of {run.name}", "the nearest scores first")
        for run in reversed(list_runs())
        if (run.path / "reward_head.safetensors").exists()
    ]
    name = which.adapter or which.model or DEFAULT
    return [*heads, Choice(f"judge:{name}", f"{which.label} as a judge", "the nearest odds first")]
