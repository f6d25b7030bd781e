"""The turns of a conversation, one under the other; it stays at the end until the user scrolls."""

from typing import Any

from textual.containers import Horizontal, VerticalScroll
from textual.widgets import Markdown, Static

from minialign.chat.store import Talk, Turn
from minialign.engine.mlx_thread import Which
from tui.chat.bubble import THUMBS, Bubble, markdown_parser

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
        super().__init__(Static(EMPTY, id="empty", markup=False), id="talk")

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
        first = Markdown("# a\n\nb\n\n- c\n\n```\nd\n```", parser_factory=markdown_parser)
        first.display = False
        await self.mount(first)
        await first.remove()

    async def say(self, turn: Turn, place: int) -> None:
        """A turn at the end."""
        if turn.role == "user":
            await self.put([Bubble("user", "you", turn.content, place)])
            return
        told: list[tuple[str, dict[str, Any]]] = [(turn.content, turn.origin)]
        if isinstance(other := turn.origin.get("beside"), dict) and "text" in other:
            told.append((str(other["text"]), other))
        bubbles = [
            Bubble("assistant", Which(origin.get("model"), origin.get("adapter")).label,
                   text, place, side)
            for side, (text, origin) in enumerate(told)
        ]  # fmt: skip
        await self.put(bubbles)
        for bubble, (_, origin) in zip(bubbles, told, strict=True):
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
        hidden = max(0, len(talk.turns) - SHOWN)
        if hidden:
            text = f"… {hidden} earlier turns; an export (Ctrl-E) holds all"
            await self.mount(Static(text, classes="earlier", markup=False))
        for place in range(hidden, len(talk.turns)):
            await self.say(talk.turns[place], place)
        self.anchor()


def foot(origin: dict[str, Any]) -> str:
    """What stands under an answer: its thumb, and why it ended early."""
    parts = [THUMBS.get(origin.get("good"), ""), ENDS.get(str(origin.get("finish_reason")), "")]  # type: ignore[arg-type]
    return "   ".join(part for part in parts if part)
