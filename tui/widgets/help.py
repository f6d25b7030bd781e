"""F1: what the screen is for, and its keys as they are bound now."""

from dataclasses import dataclass
from pathlib import Path

from textual.app import ComposeResult
from textual.binding import Binding
from textual.containers import VerticalScroll
from textual.content import Content
from textual.dom import DOMNode
from textual.widgets import Static

from tui.widgets.app_screen import AppScreen, bind
from tui.widgets.bar import PLACES
from tui.widgets.dialogs import Dialog
from tui.widgets.text import plain

EVERYWHERE = (
    ("f1", "Help; again closes it; ? where no text is written"),
    *((mode.key, mode.title) for mode in PLACES),
    ("ctrl+p", "Every action, by name; themes"),
    ("tab", "The next part of the screen"),
    ("ctrl+q", "Quit; training runs go on"),
)
NAMES = {
    "left": "←", "right": "→", "up": "↑", "down": "↓", "escape": "Esc", "enter": "Enter",
    "space": "Space", "tab": "Tab", "shift+enter": "Shift-Enter", "pageup": "PgUp",
    "pagedown": "PgDn", "shift+up": "Shift-↑", "shift+down": "Shift-↓", "delete": "Del",
}  # fmt: skip


PAGES = Path(__file__).parents[1] / "help"


@dataclass
class Page:
    """The help of a screen as its file has it: "# title", a text, then "## heading" and "- `key`
    what it does"."""

    title: str
    about: str
    keys: dict[str, list[tuple[str, str]]]  # by heading


def read_page(mode: str) -> Page:
    """The page of a screen."""
    first, *parts = (PAGES / f"{mode}.md").read_text(encoding="utf-8").split("\n## ")
    title, _, about = first.removeprefix("# ").partition("\n")
    keys = {}
    for part in parts:
        heading, *lines = part.strip().splitlines()
        rows = [line.removeprefix("- `").partition("` ") for line in lines if line]
        keys[heading] = [(key, text) for key, _, text in rows]
    return Page(title, " ".join(about.split()), keys)


class HelpScreen(Dialog[None]):
    """The help of the screen below, with the keys as the user's config has them."""

    BINDINGS = bind(Binding("escape,q,question_mark", "dismiss", "Close"))

    def __init__(self, below: AppScreen):
        self.page = read_page(below.MODE)
        super().__init__(self.page.title, "F1 or Esc close   ↑↓ scroll", "large help")
        self.below = below
        self.changed: dict[str, str] = {}  # keys as we ship them: as the user's config has them

    def body(self) -> ComposeResult:
        classes: list[type[DOMNode]] = [type(self.app), type(self.below), *self.below.HELP_ALSO]
        for binding in (binding for one in classes for binding in one.BINDINGS):
            if isinstance(binding, Binding) and (key := self.app._keymap.get(binding.id or "")):
                self.changed[binding.key] = key
        with VerticalScroll(classes="body"):
            yield plain(self.page.about, "about")
            for heading, keys in {**self.page.keys, "Everywhere": EVERYWHERE}.items():
                yield plain(heading, "heading")
                shown = [(shown_key(self.changed.get(key, key)), text) for key, text in keys]
                width = max(len(key) for key, _ in shown)
                rows = [
                    Content.assemble(("  " + key.ljust(width), "bold $accent"), f"  {text}")
                    for key, text in shown
                ]
                yield Static(Content("\n").join(rows))
            yield plain('Keys are changed in config.toml: [tui.keys], then name = "key".', "hint")


def shown_key(key: str) -> str:
    """ "ctrl+n" as "Ctrl-N"."""
    words = []
    for word in key.split(","):
        if word.startswith("ctrl+"):
            word = "Ctrl-" + word[5:].upper()
        elif word[0] == "f" and word[1:].isdecimal():
            word = word.upper()
        words.append(NAMES.get(word, word))
    return " ".join(words)
