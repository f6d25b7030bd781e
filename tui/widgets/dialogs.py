"""Small windows: an error, a line of text, a choice, a text to edit, a yes or no."""

import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from textual import on
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Vertical, VerticalScroll
from textual.content import Content
from textual.screen import ModalScreen
from textual.widgets import Input, Label, OptionList, Static, TextArea
from textual.widgets.option_list import Option

from minialign.errors import UserError


class ErrorDialog(ModalScreen[None]):
    """What went wrong, what to do, and a key that copies both."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape,enter,q", "dismiss", "Close"),
        Binding("c", "copy", "Copy"),
    ]

    def __init__(self, error: BaseException):
        super().__init__()
        if isinstance(error, UserError):
            self.heading, self.problem, self.hint = "That did not work", error.problem, error.hint
        else:
            self.heading = "A mistake in minialign"
            self.problem = "".join(traceback.format_exception(error)[-6:]).strip()
            self.hint = "The app goes on. Copy this (c) into a bug report."

    def compose(self) -> ComposeResult:
        with Vertical(classes="dialog error"):
            yield Label(f"✗ {self.heading}", classes="title", markup=False)
            with VerticalScroll(classes="body", can_focus=False):
                yield Static(self.problem, markup=False)
                if self.hint:
                    yield Static(f"→ {self.hint}", classes="hint", markup=False)
            yield Static("Enter close   c copy", classes="keys", markup=False)

    def action_copy(self) -> None:
        self.app.copy_to_clipboard(f"{self.problem}\n{self.hint}")
        self.notify("Copied", timeout=2)


class Ask(ModalScreen[str | None]):
    """One line of text; None when left with Escape."""

    BINDINGS: ClassVar[list[BindingType]] = [Binding("escape", "dismiss(None)", "Cancel")]

    def __init__(self, title: str, value: str = "", placeholder: str = "", empty: bool = False):
        super().__init__()
        self.heading, self.value, self.placeholder, self.empty = title, value, placeholder, empty

    def compose(self) -> ComposeResult:
        with Vertical(classes="dialog small"):
            yield Label(self.heading, classes="title", markup=False)
            yield Input(self.value, placeholder=self.placeholder)
            yield Static("Enter accept   Esc cancel", classes="keys", markup=False)

    @on(Input.Submitted)
    def accept(self, event: Input.Submitted) -> None:
        event.stop()
        if event.value.strip() or self.empty:
            self.dismiss(event.value.strip())


class Sure(ModalScreen[bool]):
    """A question with yes and no; no is the default."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("y", "dismiss(True)", "Yes"),
        Binding("n,escape,enter", "dismiss(False)", "No"),
    ]

    def __init__(self, question: str, detail: str = ""):
        super().__init__()
        self.question, self.detail = question, detail

    def compose(self) -> ComposeResult:
        with Vertical(classes="dialog small"):
            yield Label(self.question, classes="title", markup=False)
            if self.detail:
                yield Static(self.detail, markup=False)
            yield Static("y yes   n no", classes="keys", markup=False)


class Edit(ModalScreen[str | None]):
    """A text to change; ``other`` is put in its place by Ctrl-O."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("ctrl+s", "save", "Save"),
        Binding("ctrl+o", "other", "Other answer"),
        Binding("escape", "dismiss(None)", "Cancel"),
    ]

    def __init__(self, title: str, text: str, other: str | None = None, keys: str = ""):
        super().__init__()
        self.heading, self.text, self.other = title, text, other
        self.keys = keys or "Ctrl-S save   Esc cancel" + (
            "   Ctrl-O begin with the other answer" if other is not None else ""
        )

    def compose(self) -> ComposeResult:
        with Vertical(classes="dialog large"):
            yield Label(self.heading, classes="title", markup=False)
            yield TextArea(self.text, soft_wrap=True)
            yield Static(self.keys, classes="keys", markup=False)

    def action_save(self) -> None:
        self.dismiss(self.query_one(TextArea).text)

    def action_other(self) -> None:
        if self.other is not None:
            area = self.query_one(TextArea)
            self.other, area.text = area.text, self.other


@dataclass(frozen=True)
class Choice:
    """A line of a ``Pick`` list."""

    value: Any
    text: str
    note: str = ""
    mark: str = " "


class Pick(ModalScreen[Any]):
    """A list that typing narrows; gives the chosen value, or None.

    Args:
        find: words -> choices, asked again at every change.
        extra: key: (label, what to do with the highlighted value); the list is drawn anew after.
    """

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape", "dismiss(None)", "Cancel"),
        Binding("down", "move(1)", show=False),
        Binding("up", "move(-1)", show=False),
        Binding("pagedown", "move(10)", show=False),
        Binding("pageup", "move(-10)", show=False),
    ]

    def __init__(
        self,
        title: str,
        find: Callable[[str], Sequence[Choice]],
        extra: dict[str, tuple[str, Callable[[Any], Any]]] | None = None,
        placeholder: str = "type to search",
    ):
        super().__init__()
        self.heading, self.find, self.extra = title, find, extra or {}
        self.placeholder = placeholder
        self.choices: list[Choice] = []
        for key, (label, _) in self.extra.items():
            self._bindings.bind(key, f"extra('{key}')", label, priority=True)

    def compose(self) -> ComposeResult:
        keys = ["Enter choose", *(f"{_key(k)} {label}" for k, (label, _) in self.extra.items())]
        with Vertical(classes="dialog medium"):
            yield Label(self.heading, classes="title", markup=False)
            yield Input(placeholder=self.placeholder)
            choices = OptionList(markup=False)
            choices.can_focus = False
            yield choices
            yield Static("  ".join([*keys, "Esc"]), classes="keys", markup=False)

    def on_mount(self) -> None:
        self.fill("")

    def fill(self, words: str, keep: int = 0) -> None:
        """Ask for the choices again and draw them."""
        try:
            self.choices = list(self.find(words))
        except UserError as error:
            self.choices = []
            self.app.push_screen(ErrorDialog(error))
        listed = self.query_one(OptionList)
        listed.clear_options()
        listed.add_options([Option(_line(choice)) for choice in self.choices])
        if not self.choices:
            listed.add_option(Option("nothing found", disabled=True))
        else:
            listed.highlighted = min(keep, len(self.choices) - 1)

    @on(Input.Changed)
    def search(self, event: Input.Changed) -> None:
        self.fill(event.value)

    @on(Input.Submitted)
    def submit(self) -> None:
        if (choice := self.highlighted) is not None:
            self.dismiss(choice.value)

    @on(OptionList.OptionSelected)
    def click(self, event: OptionList.OptionSelected) -> None:
        if event.option_index < len(self.choices):
            self.dismiss(self.choices[event.option_index].value)

    @property
    def highlighted(self) -> Choice | None:
        at = self.query_one(OptionList).highlighted
        return self.choices[at] if at is not None and at < len(self.choices) else None

    def action_move(self, by: int) -> None:
        listed = self.query_one(OptionList)
        if self.choices:
            at = (listed.highlighted or 0) + by
            listed.highlighted = max(0, min(at, len(self.choices) - 1))

    async def action_extra(self, key: str) -> None:
        if (choice := self.highlighted) is not None:
            self.run_worker(self._extra(key, choice))

    async def _extra(self, key: str, choice: Choice) -> None:
        try:
            await self.extra[key][1](choice.value)
        except UserError as error:
            await self.app.push_screen_wait(ErrorDialog(error))
        self.fill(self.query_one(Input).value, self.query_one(OptionList).highlighted or 0)


def _key(key: str) -> str:
    return "Ctrl-" + key[5:].upper() if key.startswith("ctrl+") else key


def _line(choice: Choice) -> Content:
    return Content.assemble(
        f"{choice.mark} ", choice.text, ("  " + choice.note if choice.note else "", "$text-muted")
    )
