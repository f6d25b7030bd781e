"""The line at the top: where you are, where else you can go, which model answers."""

from textual import events
from textual.app import ComposeResult
from textual.containers import Horizontal
from textual.widgets import Static

PLACES = (("chat", "F2", "Chat"), ("label", "F3", "Label"), ("runs", "F5", "Runs"))


class Place(Static):
    """A screen's name; a click goes there."""

    def __init__(self, mode: str, key: str, name: str, here: bool):
        super().__init__(f"{'▸' if here else ' '}{key} {name} ", markup=False,
                         classes="place" + (" here" if here else ""))  # fmt: skip
        self.mode = mode

    def on_click(self, event: events.Click) -> None:
        self.app.action_go(self.mode)  # type: ignore[attr-defined]


class TopBar(Horizontal):
    """One line; ``here`` is the mode of its screen."""

    def __init__(self, here: str):
        super().__init__()
        self.here = here

    def compose(self) -> ComposeResult:
        yield Static("minialign", classes="brand", markup=False)
        for mode, key, name in PLACES:
            yield Place(mode, key, name, mode == self.here)
        yield Static("", id="which", markup=False)

    def tell(self, text: str) -> None:
        """What stands at the right end."""
        self.query_one("#which", Static).update(text)
