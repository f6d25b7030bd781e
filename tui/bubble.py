"""A turn of a conversation on the screen: who spoke, what, and how it ended."""

import re
from typing import ClassVar

from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Vertical
from textual.message import Message
from textual.widgets import Markdown, Static
from textual.widgets.markdown import MarkdownStream

CODE = re.compile(r"^(?:```|~~~)[^\n]*\n(.*?)^(?:```|~~~)\s*$", re.MULTILINE | re.DOTALL)
THUMBS = {True: "👍 good", False: "👎 bad"}


def printable(text: str) -> str:
    """The text without control characters, which must not act on the terminal."""
    return "".join(
        "�" if (ord(c) < 32 and c not in "\n\t") or 127 <= ord(c) < 160 else c for c in text
    )


class Bubble(Vertical, can_focus=True):
    """One turn. ``place`` is its place among the turns, ``side`` 1 for the second answer."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("c", "do('copy')", "Copy", id="copy"),
        Binding("k", "do('code')", "Copy code", id="copy-code"),
        Binding("r", "do('again')", "Again", id="again"),
        Binding("e", "do('edit')", "Edit", id="edit"),
        Binding("p", "do('pair')", "Pair to label", id="pair"),
        Binding("plus,equals_sign", "do('good')", "Good", id="good", key_display="+"),
        Binding("minus", "do('bad')", "Bad", id="bad", key_display="-"),
        Binding("up", "near(-1)", "Up", show=False),
        Binding("down", "near(1)", "Down", show=False),
        Binding("left", "beside(-1)", show=False),
        Binding("right", "beside(1)", show=False),
        Binding("enter", "do('write')", "Write", show=False),
    ]

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

    def compose(self) -> ComposeResult:
        yield Static(self.who, classes="who", markup=False)
        if self.role == "user":
            yield Static(printable(self.text), classes="said", markup=False)
        else:
            yield Markdown(printable(self.text) or None, classes="said", open_links=False)
        yield Static("", classes="foot", markup=False)

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        """A question can be copied and edited, an answer everything else."""
        if action != "do":
            return True
        what = parameters[0]
        if self.role == "user":
            return what in ("copy", "edit", "write")
        if what == "code":
            return bool(CODE.search(self.text))
        return what != "edit"

    async def add(self, text: str) -> None:
        """More of the answer."""
        self.text += text
        if self._stream is None:
            self._stream = Markdown.get_stream(self.query_one(Markdown))
        await self._stream.write(printable(text))

    async def end(self, note: str = "") -> None:
        """The answer is complete."""
        if self._stream is not None:
            stream, self._stream = self._stream, None
            await stream.stop()
        self.foot(note)

    def foot(self, note: str) -> None:
        """A remark under the text."""
        foot = self.query_one(".foot", Static)
        foot.update(note)
        foot.display = bool(note)

    def on_mount(self) -> None:
        self.query_one(".foot").display = False

    def code(self) -> str | None:
        """The last block of code."""
        found = CODE.findall(self.text)
        return found[-1] if found else None

    def action_do(self, what: str) -> None:
        self.post_message(self.Asked(self, what))

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
            if bubble.place == self.place and bubble.side == self.side + by:
                bubble.focus()
