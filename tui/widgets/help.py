"""F1: what the screen is for, and its keys as they are bound now."""

from typing import Any, ClassVar

from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Vertical, VerticalScroll
from textual.content import Content
from textual.screen import ModalScreen, Screen
from textual.widgets import Label, Static

EVERYWHERE = (
    ("f1", "Help; again closes it; ? where no text is written"), ("f2", "Chat"),
    ("f3", "Label"), ("f4", "Judge"), ("f5", "Runs"), ("f6", "Data and models"),
    ("ctrl+p", "Every action, by name; themes"), ("tab", "The next part of the screen"),
    ("ctrl+q", "Quit; training runs go on"),
)  # fmt: skip


class HelpScreen(ModalScreen[None]):
    """The help of the screen below."""

    BINDINGS: ClassVar[list[BindingType]] = [Binding("escape,q,question_mark", "dismiss", "Close")]

    def __init__(self, below: Screen):  # type: ignore[type-arg]
        super().__init__()
        self.below = below
        self.changed: dict[str, str] = {}  # keys as we ship them: as the user's config has them

    def compose(self) -> ComposeResult:
        classes = (type(self.app), type(self.below), *getattr(self.below, "HELP_ALSO", ()))
        for binding in (binding for one in classes for binding in one.BINDINGS):
            if key := self.app._keymap.get(getattr(binding, "id", None)):  # type: ignore[arg-type]
                self.changed[binding.key] = key
        with Vertical(classes="dialog large help"):
            yield Label(getattr(self.below, "HELP_TITLE", "Help"), classes="title", markup=False)
            with VerticalScroll(classes="body"):
                if text := getattr(self.below, "HELP_TEXT", ""):
                    yield Static(text, classes="about", markup=False)
                for heading, keys in getattr(self.below, "HELP_KEYS", ()):
                    yield Static(heading, classes="heading", markup=False)
                    yield Static(self._table(keys), markup=False)
                yield Static("Everywhere", classes="heading", markup=False)
                yield Static(self._table(EVERYWHERE), markup=False)
                yield Static(
                    "Keys are changed in config.toml: [tui.keys], then name = \"key\".",
                    classes="hint", markup=False,
                )  # fmt: skip
            yield Static("F1 or Esc close   ↑↓ scroll", classes="keys", markup=False)

    def _table(self, keys: tuple[tuple[str, str], ...]) -> Content:
        shown = [(shown_key(self.changed.get(key, key)), text) for key, text in keys]
        width = max(len(key) for key, _ in shown)
        parts: list[Any] = []
        for key, text in shown:
            parts += [("  " + key.ljust(width), "bold $accent"), f"  {text}\n"]
        return Content.assemble(*parts).rstrip()


def shown_key(key: str) -> str:
    """ "ctrl+n" as "Ctrl-N"."""
    names = {"left": "←", "right": "→", "up": "↑", "down": "↓", "escape": "Esc", "enter": "Enter",
             "space": "Space", "tab": "Tab", "shift+enter": "Shift-Enter", "pageup": "PgUp",
             "pagedown": "PgDn", "shift+up": "Shift-↑", "shift+down": "Shift-↓",
             "delete": "Del"}  # fmt: skip
    words = []
    for word in key.split(","):
        if word in names:
            words.append(names[word])
        elif word.startswith("ctrl+"):
            words.append("Ctrl-" + word[5:].upper())
        elif word[0] == "f" and word[1:].isdecimal():
            words.append(word.upper())
        else:
            words.append(word)
    return " ".join(words)
