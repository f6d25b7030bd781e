"""A turn of a conversation on the screen: who spoke, what, and how it ended."""

import re

from textual.app import ComposeResult
from textual.binding import Binding
from textual.containers import Vertical
from textual.message import Message
from textual.widgets import Markdown, Static
from textual.widgets.markdown import MarkdownStream

from tui.widgets.app_screen import bind, key, scroll_keys
from tui.widgets.text import markdown, plain, printable

CODE = re.compile(r"^(?:```|~~~)[^\n]*\n(.*?)^(?:```|~~~)\s*$", re.MULTILINE | re.DOTALL)
BORDER = re.compile(r"\n\n(?=[^\W\d_])")  # a paragraph begins that no list or block goes on in
PART = 2000  # letters
THUMBS = {True: "👍 good", False: "👎 bad"}


class Bubble(Vertical, can_focus=True):
    """One turn. ``place`` is its place among the turns, ``side`` 1 for the second answer."""

    BINDINGS = bind(
        key("c", "do('copy')", "Copy", "copy"),
        key("k", "do('code')", "Copy code", "copy-code"),
        key("r", "do('again')", "Again", "again"),
        key("e", "do('edit')", "Edit", "edit"),
        key("p", "do('pair')", "Pair to label", "pair"),
        key("plus,equals_sign", "do('good')", "Good", "good", key_display="+"),
        key("minus", "do('bad')", "Bad", "bad", key_display="-"),
        key("escape", "leave", "Write", "write", "Back to writing"),
        *scroll_keys({"up": -1, "down": 1}, "near"),
        *scroll_keys({"left": -1, "right": 1}, "beside"),
        Binding("enter", "do('write')", "Write", show=False),
    )

    class Asked(Message):
        """A key on a turn."""

        def __init__(self, bubble: "Bubble", what: str):
            super().__init__()
            self.on, self.what = bubble, what

    def __init__(self, role: str, who: str, text: str = "", place: int = 0, side: int = 0):
        super().__init__(classes=f"bubble {role}")
        self.role, self.who, self.text = role, who, text
        self.place, self.side = place, side
        self._stream: MarkdownStream | None = None
        self._last = 0  # letters in the last widget

    def compose(self) -> ComposeResult:
        yield plain(printable(self.who), "who")
        text = printable(self.text)
        yield plain(text, "said") if self.role == "user" else markdown(text, classes="said")
        yield plain(classes="foot")

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        """A question can be copied and edited, an answer everything else."""
        if action == "leave":
            return not getattr(self.screen, "sides", None)  # else Escape stops what is written
        if action != "do":
            return True
        what = parameters[0]
        if self.role == "user":
            return what in ("copy", "edit", "write")
        if what == "code":
            return bool(CODE.search(self.text))
        return what != "edit"

    async def add(self, text: str) -> None:
        """More of the answer. A long one goes on in a widget of its own now and then: each piece
        lays out the paragraphs of the last one only."""
        if self._stream is None:
            self._stream = Markdown.get_stream(self.query_one(Markdown))
        before, self.text = self.text, self.text + text
        self._last += len(text)
        if self._last > PART and (border := BORDER.search(tail := before[-2:] + text)):
            at = border.end() - (len(tail) - len(text))
            if (before + text[:at]).count("```") % 2 == 0:
                await self._stream.write(printable(text[:at]))
                await self._stream.stop()
                part = markdown(classes="said more")
                await self.mount(part, before=self.query_one(".foot"))
                self._stream, self._last = Markdown.get_stream(part), 0
                text = text[at:]
        await self._stream.write(printable(text))

    async def end(self, note: str = "") -> None:
        """The answer is complete."""
        if self._stream is not None:
            await self._stream.stop()
            self._stream = None
        self.foot(note)

    def foot(self, note: str) -> None:
        """A remark under the text."""
        foot = self.query_one(".foot", Static)
        foot.update(note)
        foot.display = bool(note)

    def action_do(self, what: str) -> None:
        self.post_message(self.Asked(self, what))

    def action_leave(self) -> None:
        """Back to the question being written."""
        self.action_do("write")

    def action_near(self, by: int) -> None:
        """Focus the turn above or below; below the last is the question being written."""
        all_of_them = [b for b in self.screen.query(Bubble) if b.side == self.side or not b.side]
        at = all_of_them.index(self) + by
        if at >= len(all_of_them):
            self.action_do("write")
        elif at >= 0:
            all_of_them[at].focus()

    def action_beside(self, by: int) -> None:
        """Focus the other model's answer."""
        for bubble in self.screen.query(Bubble):
            if (bubble.place, bubble.side) == (self.place, self.side + by):
                bubble.focus()
