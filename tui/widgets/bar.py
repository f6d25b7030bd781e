"""The line at the top: where you are, where else you can go, which model answers."""

from typing import NamedTuple

from textual import events
from textual.app import ComposeResult
from textual.containers import Horizontal
from textual.widgets import Footer, Static
from textual.widgets._footer import FooterKey

from tui.services import services_of


class Mode(NamedTuple):
    """A screen that one can go to."""

    name: str
    key: str
    short: str  # at the top
    title: str
    about: str


PLACES = (
    Mode("chat", "f2", "Chat", "Chat", "Talk with a model"),
    Mode("label", "f3", "Label", "Label", "Say which answer is better"),
    Mode("judge", "f4", "Judge", "Judge", "A judge compares pairs of answers"),
    Mode("runs", "f5", "Runs", "Runs", "Training runs: watch, start, stop"),
    Mode("library", "f6", "Data", "Data and models", "What files hold; pull and remove models"),
)


class Place(Static):
    """A screen's name; a click goes there."""

    def __init__(self, mode: Mode, here: bool):
        text = f"{'▸' if here else ' '}{mode.key.upper()} {mode.short} "
        super().__init__(text, markup=False, classes="place here" if here else "place")
        self.mode = mode.name

    def on_click(self, event: events.Click) -> None:
        services_of(self).action_go(self.mode)


class Line(Static):
    """A line that is told again and again; it is drawn when it changes."""

    def __init__(self, id: str):
        super().__init__("", id=id, markup=False)
        self.text = ""

    def tell(self, text: str) -> None:
        """What it says from now on."""
        if text != self.text:
            self.text = text
            self.update(text, layout=False)


class TopBar(Horizontal):
    """One line; ``here`` is the mode of its screen."""

    def __init__(self, here: str):
        super().__init__()
        self.here = here
        self.text = ""

    def compose(self) -> ComposeResult:
        yield Static("minialign", classes="brand", markup=False)
        for mode in PLACES:
            yield Place(mode, mode.name == self.here)
        yield Line("answering")

    def tell(self, text: str) -> None:
        """What stands at the right end: of a long name with an adapter, the adapter."""
        self.text = text
        place = self.query_one("#answering", Line)
        room = place.content_size.width
        place.tell("…" + text[1 - room :] if " + " in text and len(text) > room > 9 else text)

    def on_resize(self) -> None:
        self.call_after_refresh(lambda: self.tell(self.text))


class Keys(Footer):
    """The line at the bottom: the screen's keys; help stands at the right end, always whole."""

    def __init__(self) -> None:
        super().__init__(compact=True, show_command_palette=False)

    def compose(self) -> ComposeResult:
        bindings = [key.binding for key in self.screen.active_bindings.values()]
        for widget in super().compose():
            if getattr(widget, "action", None) != "help":
                yield widget
        for binding in [binding for binding in bindings if binding.id == "help"][:1]:
            shown = self.app.get_key_display(binding)
            key = FooterKey(binding.key, shown, "Help", "help", classes="-command-palette")
            yield key.data_bind(compact=Footer.compact)
