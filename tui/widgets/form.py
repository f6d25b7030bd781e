"""What the forms share: a row a setting, its help, what is wrong, and Ctrl-S that accepts."""

import dataclasses
from collections.abc import Sequence
from typing import Any, ClassVar

from textual import events, work
from textual.app import ComposeResult
from textual.binding import Binding
from textual.containers import Horizontal
from textual.widget import Widget
from textual.widgets import Checkbox, Input, Select, Static

from minialign.errors import UserError
from tui.widgets.app_screen import bind
from tui.widgets.dialogs import Dialog, Given
from tui.widgets.text import label, plain

Options = Sequence[tuple[str, str]]


class Form(Dialog[Given]):
    """Settings to fill in; ``fields`` are its rows and ``read`` is what it gives.

    Each entry's id is the form's ``PREFIX`` and its name.
    """

    BINDINGS = bind(Binding("ctrl+s", "accept", "Accept", priority=True))
    PREFIX: ClassVar[str]

    def __init__(self, title: str, verb: str, look: str = "large form"):
        super().__init__(title, f"Ctrl-S {verb}   Tab next   Esc cancel", look)
        self.meanings: dict[str, str] = {}  # name: its whole help

    def body(self) -> ComposeResult:
        yield from self.fields()
        yield plain(id="wrong")

    def fields(self) -> ComposeResult:
        """The rows."""
        raise NotImplementedError

    async def read(self) -> Given:
        """What was typed.

        Raises:
            UserError: it cannot be; the form says so and stays.
        """
        raise NotImplementedError

    def on_descendant_focus(self, event: events.DescendantFocus) -> None:
        """The whole help of the field that is being filled in, if there is room for it."""
        name = (event.widget.id or "").removeprefix(self.PREFIX)
        for place in self.query("#meaning").results(Static):
            place.update(self.meanings.get(name, ""))

    def row(
        self,
        name: str,
        value: Any,
        note: str,
        options: Options = (),
        title: str = "",
        hint: str = "",
    ) -> Horizontal:
        """What is set (or ``title``), its entry, and a word about it.

        Args:
            options: (what is shown, its value) of those there are to choose from.
        """
        look: dict[str, Any] = {"id": f"{self.PREFIX}{name}", "compact": True}
        entry: Widget
        if options:
            entry = Select(options, value=value, allow_blank=False, **look)
        elif isinstance(value, bool):
            entry = Tick(value=value, **look)
        else:
            entry = Input(text_of(value), validate_on=(), placeholder=hint, **look)
        named = label((title or name).replace("_", " "), "name")
        return Horizontal(named, entry, label(note, "note"), classes="field")

    def entry(self, name: str, kind: type[Widget] = Input) -> Any:
        """The entry of a setting."""
        return self.query_one(f"#{self.PREFIX}{name}", kind)

    @work(exclusive=True)
    async def action_accept(self) -> None:
        """Check what was typed, and give it to whoever asked."""
        try:
            self.dismiss(await self.read())
        except UserError as error:
            self.query_one("#wrong", Static).update(f"✗ {self.explain(error)}")

    def explain(self, error: UserError) -> str:
        """What is wrong, in a line."""
        return error.problem + (f" — {error.hint}" if error.hint else "")


class Tick(Checkbox):
    """A box that says whether it is ticked without its colour."""

    @property
    def BUTTON_INNER(self) -> str:  # type: ignore[override]
        """The letter in the box."""
        return "✓" if self.value else " "


def text_of(value: Any) -> str:
    """A setting's value as it is typed."""
    if value is None or value is dataclasses.MISSING:
        return ""
    if isinstance(value, tuple | list):
        return ", ".join(map(str, value))
    return f"{value:g}" if isinstance(value, float) else str(value)


def value_of(name: str, text: str, kind: type, many: bool) -> Any:
    """What was typed as a setting's value; None when nothing was.

    Raises:
        UserError: it is of another kind.
    """
    text = text.strip()
    if not text:
        return None
    words = [word.strip() for word in text.split(",") if word.strip()] if many else [text]
    try:
        values = [kind(word) for word in words]
    except ValueError:
        wanted = {int: "a whole number", float: "a number"}.get(kind, "a text")
        raise UserError(f"{name.replace('_', ' ')} = {text!r}", f"it must be {wanted}") from None
    return tuple(values) if many else values[0]
