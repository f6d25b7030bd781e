"""The first run: which model answers, and three questions to try."""

import asyncio
from typing import ClassVar

from textual import on
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Vertical
from textual.content import Content
from textual.screen import ModalScreen
from textual.widgets import Label, OptionList, Static
from textual.widgets.option_list import Option

PROMPTS = (
    "Explain what a black hole is to a curious ten-year-old.",
    "Write a short, friendly email that asks for a day off.",
    "Give me three ideas for a quick dinner with chickpeas.",
)


class Welcome(ModalScreen[str | None]):
    """Gives the question that was chosen."""

    BINDINGS: ClassVar[list[BindingType]] = [Binding("escape", "dismiss(None)", "Later")]
    gives_way = True  # the keys of the other screens, which it names, work

    def compose(self) -> ComposeResult:
        with Vertical(classes="dialog medium welcome"):
            yield Label("Welcome to minialign", classes="title", markup=False)
            yield Static(
                "Teach a small language model your preferences, on this machine:\n"
                "talk with it (F2), say which of two answers you like better (F3), "
                "and train it on what you said (F5).",
                markup=False,
            )
            yield Static("Looking for the model …", id="model", markup=False)
            yield Static("Ask it one of these:", classes="heading", markup=False)
            yield OptionList(*[Option(Content(text)) for text in PROMPTS], markup=False)
            yield Static("↑↓ Enter ask   Esc write your own", classes="keys", markup=False)

    def on_mount(self) -> None:
        self.query_one(OptionList).highlighted = 0
        self.query_one(OptionList).focus()
        self.run_worker(self._look())

    async def _look(self) -> None:
        which = self.app.which  # type: ignore[attr-defined]

        def look() -> str:
            from minialign.models.names import DEFAULT, catalog
            from minialign.models.sources.fetch import find

            name = which.model or DEFAULT
            if find(name) is not None:
                return f"✓ The model {which.label} is on this machine."
            named = catalog().get(name)
            size = f" (about {named.disk_bytes / 1e6:.0f} MB)" if named else ""
            return f"↓ The model {which.label}{size} is fetched with your first question."

        self.query_one("#model", Static).update(await asyncio.to_thread(look))

    @on(OptionList.OptionSelected)
    def chosen(self, event: OptionList.OptionSelected) -> None:
        self.dismiss(PROMPTS[event.option_index])
