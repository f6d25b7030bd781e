"""The first run: which model answers, and three questions to try."""

import asyncio

from textual import on, work
from textual.app import ComposeResult
from textual.content import Content
from textual.widgets import OptionList, Static
from textual.widgets.option_list import Option

from tui.services import services_of
from tui.widgets.dialogs import Dialog
from tui.widgets.text import plain

PROMPTS = (
    "Explain what a black hole is to a curious ten-year-old.",
    "Write a short, friendly email that asks for a day off.",
    "Give me three ideas for a quick dinner with chickpeas.",
)
ABOUT = """\
Teach a small language model your preferences, on this machine:
talk with it (F2), say which of two answers you like better (F3), \
and train it on what you said (F5)."""


class Welcome(Dialog[str | None]):
    """Gives the question that was chosen."""

    gives_way = True  # the keys of the other screens, which it names, work

    def __init__(self) -> None:
        keys = "↑↓ Enter ask   Esc write your own"
        super().__init__("Welcome to minialign", keys, "medium welcome")

    def body(self) -> ComposeResult:
        yield plain(ABOUT)
        yield plain("Looking for the model …", id="model")
        yield plain("Ask it one of these:", "heading")
        yield OptionList(*[Option(Content(text)) for text in PROMPTS], markup=False)

    def on_mount(self) -> None:
        self.query_one(OptionList).highlighted = 0
        self.query_one(OptionList).focus()
        self._look()

    @work
    async def _look(self) -> None:
        choice = services_of(self).choice

        def look() -> str:
            from minialign.models.names import DEFAULT, catalog
            from minialign.models.sources.fetch import find

            name = choice.model or DEFAULT
            if find(name) is not None:
                return f"✓ The model {choice.label} is on this machine."
            named = catalog().get(name)
            size = f" (about {named.disk_bytes / 1e6:.0f} MB)" if named else ""
            return f"↓ The model {choice.label}{size} is fetched with your first question."

        self.query_one("#model", Static).update(await asyncio.to_thread(look))

    @on(OptionList.OptionSelected)
    def ask_it(self, event: OptionList.OptionSelected) -> None:
        self.dismiss(PROMPTS[event.option_index])
