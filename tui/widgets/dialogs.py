"""Small windows: an error, a line of text, a choice, a text to edit, a yes or no."""

import traceback
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeVar

from textual import on, work
from textual.app import ComposeResult
from textual.binding import Binding
from textual.containers import Vertical, VerticalScroll
from textual.content import Content
from textual.screen import ModalScreen
from textual.widgets import Input, OptionList, TextArea
from textual.widgets.option_list import Option

from minialign.errors import UserError
from tui.services import services_of
from tui.widgets.app_screen import bind, scroll_keys
from tui.widgets.text import label, plain

Given = TypeVar("Given")


class Dialog(ModalScreen[Given]):
    """A window with a title, a ``body`` and a line that names its keys; Escape leaves it.

    Args:
        look: the CSS classes that say how wide it is.
    """

    BINDINGS = bind(Binding("escape", "dismiss(None)", "Cancel"))
    gives_way = False  # whether another screen's key leaves it

    def __init__(self, title: str, keys: str, look: str = "small"):
        super().__init__()
        self.heading, self.keys, self.look = title, keys, look

    def compose(self) -> ComposeResult:
        with Vertical(classes=f"dialog {self.look}"):
            yield label(self.heading, "title")
            yield from self.body()
            yield plain(self.keys, "keys")

    def body(self) -> ComposeResult:
        """What stands between the title and the keys."""
        raise NotImplementedError


class ErrorDialog(Dialog[None]):
    """What went wrong, what to do, and a key that copies both."""

    BINDINGS = bind(Binding("escape,enter,q", "dismiss", "Close"), Binding("c", "copy", "Copy"))

    def __init__(self, error: BaseException):
        if isinstance(error, UserError):
            heading, self.problem, self.hint = "That did not work", error.problem, error.hint
        else:
            heading = "A mistake in minialign"
            self.problem = "".join(traceback.format_exception(error)[-6:]).strip()
            self.hint = "The app goes on. Copy this (c) into a bug report."
        super().__init__(f"✗ {heading}", "Enter close   c copy", "error")

    def body(self) -> ComposeResult:
        with VerticalScroll(classes="body", can_focus=False):
            yield plain(self.problem)
            if self.hint:
                yield plain(f"→ {self.hint}", "hint")

    def action_copy(self) -> None:
        self.app.copy_to_clipboard(f"{self.problem}\n{self.hint}")
        self.notify("Copied", timeout=2)


class Ask(Dialog[str | None]):
    """One line of text; None when left with Escape."""

    def __init__(self, title: str, value: str = "", placeholder: str = "", empty: bool = False):
        super().__init__(title, "Enter accept   Esc cancel")
        self.value, self.placeholder, self.empty = value, placeholder, empty

    def body(self) -> ComposeResult:
        yield Input(self.value, placeholder=self.placeholder)

    @on(Input.Submitted)
    def accept(self, event: Input.Submitted) -> None:
        event.stop()
        if event.value.strip() or self.empty:
            self.dismiss(event.value.strip())


class Sure(Dialog[bool]):
    """A question with yes and no; no is the default."""

    BINDINGS = bind(
        Binding("y", "dismiss(True)", "Yes"), Binding("n,escape,enter", "dismiss(False)", "No")
    )

    def __init__(self, question: str, detail: str = ""):
        super().__init__(question, "y yes   n no")
        self.detail = detail

    def body(self) -> ComposeResult:
        if self.detail:
            yield plain(self.detail)


class Edit(Dialog[str | None]):
    """A text to change; ``other`` is put in its place by Ctrl-O."""

    BINDINGS = bind(Binding("ctrl+s", "save", "Save"), Binding("ctrl+o", "other", "Other answer"))

    def __init__(self, title: str, text: str, other: str | None = None, keys: str = ""):
        more = "" if other is None else "   Ctrl-O begin with the other answer"
        super().__init__(title, keys or f"Ctrl-S save   Esc cancel{more}", "large")
        self.text, self.other = text, other

    def body(self) -> ComposeResult:
        yield TextArea(self.text, soft_wrap=True)

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

    @property
    def line(self) -> Content:
        note = "  " + self.note if self.note else ""
        return Content.assemble(f"{self.mark} ", self.text, (note, "$text-muted"))


Find = Callable[[str], Sequence[Choice]]
Extra = Mapping[str, tuple[str, Callable[[Any], Awaitable[None]]]]


class Pick(Dialog[Any]):
    """A list that typing narrows; gives the chosen value, or None.

    Args:
        find: words -> choices, asked again at every change.
        extra: key: (label, what to do with the highlighted value, unless that is None); the list is
            drawn anew after.
    """

    BINDINGS = bind(*scroll_keys({"down": 1, "up": -1, "pagedown": 10, "pageup": -10}, "move"))

    def __init__(
        self, title: str, find: Find, extra: Extra | None = None, hint: str = "type to search"
    ):
        self.find, self.extra, self.hint = find, extra or {}, hint
        named = [f"Ctrl-{key[-1].upper()} {what}" for key, (what, _) in self.extra.items()]
        super().__init__(title, "  ".join(["Enter choose", *named, "Esc"]), "medium")
        self.choices: list[Choice] = []
        for key, (what, _) in self.extra.items():
            self._bindings.bind(key, f"extra('{key}')", what, priority=True)

    def body(self) -> ComposeResult:
        yield Input(placeholder=self.hint)
        choices = OptionList(markup=False)
        choices.can_focus = False
        yield choices

    def on_mount(self) -> None:
        self.fill("")

    def fill(self, words: str, keep: int = 0) -> None:
        """Ask for the choices again and draw them."""
        try:
            self.choices = list(self.find(words))
        except UserError as error:
            self.choices = []
            services_of(self).show_error(error)
        listed = self.query_one(OptionList)
        listed.clear_options()
        lines = [Option(one.line) for one in self.choices]
        listed.add_options(lines or [Option("nothing found", disabled=True)])
        if lines:
            listed.highlighted = min(keep, len(lines) - 1)

    @on(Input.Changed)
    def search(self, event: Input.Changed) -> None:
        self.fill(event.value)

    @on(Input.Submitted)
    def submit(self) -> None:
        if (choice := self.highlighted) is not None:
            self.dismiss(choice.value)

    @on(OptionList.OptionSelected)
    def click(self, event: OptionList.OptionSelected) -> None:
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

    @work
    async def action_extra(self, key: str) -> None:
        if (choice := self.highlighted) is None or choice.value is None:
            return
        try:
            await self.extra[key][1](choice.value)
        except UserError as error:
            await self.app.push_screen_wait(ErrorDialog(error))
        self.fill(self.query_one(Input).value, self.query_one(OptionList).highlighted or 0)


def pick_from(title: str, choices: Sequence[Choice], here: Any = None) -> Pick:
    """A list of these lines, the one of ``here`` marked; typing keeps those that hold the words."""
    marked = [replace(one, mark="▸") if one.value == here else one for one in choices]
    return Pick(title, lambda words: [one for one in marked if words.lower() in one.text.lower()])
