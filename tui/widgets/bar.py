"""The line at the top: where you are, where else you can go, which model answers."""

from textual import events
from textual.app import ComposeResult
from textual.containers import Horizontal
from textual.widgets import Footer, Static
from textual.widgets._footer import FooterKey

PLACES = (("chat", "F2", "Chat"), ("label", "F3", "Label"), ("judge", "F4", "Judge"),
          ("runs", "F5", "Runs"), ("library", "F6", "Data"))  # fmt: skip


class Place(Static):
    """A screen's name; a click goes there."""

    def __init__(self, mode: str, key: str, name: str, here: bool):
        super().__init__(f"{'▸' if here else ' '}{key} {name} ", markup=False,
                         classes="place" + (" here" if here else ""))  # fmt: skip
        self.mode = mode

    def on_click(self, event: events.Click) -> None:
        self.app.action_go(self.mode)  # type: ignore[attr-defined]


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
        for mode, key, name in PLACES:
            yield Place(mode, key, name, mode == self.here)
        yield Line("which")

    def tell(self, text: str) -> None:
        """What stands at the right end: of a long name with an adapter, the adapter."""
        self.text = text
        place = self.query_one("#which", Line)
        room = place.content_size.width
        place.tell("…" + text[1 - room :] if " + " in text and len(text) > room > 9 else text)

    def on_resize(self) -> None:
        self.call_after_refresh(lambda: self.tell(self.text))


class Keys(Footer):
    """The line at the bottom: the screen's keys; help stands at the right end, always whole."""

    def __init__(self) -> None:
        super().__init__(compact=True, show_command_palette=False)

    def compose(self) -> ComposeResult:
        found = self.screen.active_bindings.values()
        help_key = next((key.binding for key in found if key.binding.id == "help"), None)
        for widget in super().compose():
            if getattr(widget, "action", None) != "help":
                yield widget
        if help_key is not None:
            shown = self.app.get_key_display(help_key)
            yield FooterKey(
                help_key.key, shown, "Help", "help", classes="-command-palette"
            ).data_bind(compact=Footer.compact)
