"""The turns of a conversation, one under the other; it stays at the end until the user scrolls."""

from typing import Any

from textual.containers import Horizontal, VerticalScroll

from minialign.chat.store import Talk, Turn
from minialign.engine.mlx_thread import ModelChoice
from tui.chat.bubble import THUMBS, Bubble
from tui.widgets.text import markdown, plain

SHOWN = 30  # turns of an old conversation that are drawn
ENDS = {"length": "cut at the limit: Ctrl-S sets it", "cancelled": "stopped", "stop_string": ""}

EMPTY = """\
Ask something below, and press Enter.

Ctrl-G   another model or adapter
Ctrl-B   two models side by side
Ctrl-S   system prompt and sampling
Ctrl-O   earlier conversations
Esc ↑    go to the answers: copy, again, thumbs, pair to label"""


class Transcript(VerticalScroll, can_focus=False):
    """Bubbles; those of two models that answered the same question stand side by side."""

    def __init__(self) -> None:
        super().__init__(plain(EMPTY, id="empty"), id="talk")

    def on_mount(self) -> None:
        self.anchor()

    def action_page_down(self) -> None:
        """A page on; at the end the answer that is being written is followed again."""
        if self.scroll_target_y + self.size.height >= self.max_scroll_y:
            self.anchor()
        else:
            super().action_page_down()

    async def warm(self) -> None:
        """Have the styles of Markdown read before the first answer comes: it takes a moment."""
        first = markdown("# a\n\nb\n\n- c\n\n```\nd\n```")
        first.display = False
        await self.mount(first)
        await first.remove()

    async def say(self, turn: Turn, place: int) -> None:
        """A turn at the end."""
        if turn.role == "user":
            await self.put([Bubble("user", "you", turn.content, place)])
            return
        origins = [turn.origin]
        if isinstance(other := turn.origin.get("beside"), dict) and "text" in other:
            origins.append(other)
        bubbles = []
        for side, origin in enumerate(origins):
            who = ModelChoice(origin.get("model"), origin.get("adapter")).label
            text = str(origin["text"]) if side else turn.content
            bubbles.append(Bubble("assistant", who, text, place, side))
        await self.put(bubbles)
        for bubble, origin in zip(bubbles, origins, strict=True):
            bubble.foot(foot(origin))

    async def put(self, bubbles: list[Bubble]) -> None:
        """One bubble, or two side by side, at the end."""
        self.query_one("#empty").display = False
        await self.mount(bubbles[0] if len(bubbles) == 1 else Horizontal(*bubbles, classes="pair"))

    async def drop(self, place: int) -> None:
        """Take the bubbles of a turn away."""
        for bubble in list(self.query(Bubble)):
            if bubble.place == place and bubble.is_mounted:
                holder = bubble.parent
                await (holder if isinstance(holder, Horizontal) else bubble).remove()

    async def show(self, talk: Talk) -> None:
        """A conversation, as far as it has been written."""
        await self.query(".bubble, .pair, .earlier").remove()
        self.query_one("#empty").display = not talk.turns
        if hidden := max(0, len(talk.turns) - SHOWN):
            text = f"… {hidden} earlier turns; an export (Ctrl-E) holds all"
            await self.mount(plain(text, "earlier"))
        for place in range(hidden, len(talk.turns)):
            await self.say(talk.turns[place], place)
        self.anchor()


def foot(origin: dict[str, Any]) -> str:
    """What stands under an answer: its thumb, and why it ended early."""
    thumb, reason = origin.get("good"), str(origin.get("finish_reason"))
    parts = [THUMBS[thumb] if isinstance(thumb, bool) else "", ENDS.get(reason, "")]
    return "   ".join(part for part in parts if part)
