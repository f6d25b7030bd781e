"""The dialog for the system prompt and how answers are drawn."""

from dataclasses import fields
from typing import Any, ClassVar

from textual import events
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Horizontal, Vertical, VerticalScroll
from textual.screen import ModalScreen
from textual.widgets import Input, Label, Static, TextArea

from minialign.config import field_help
from minialign.errors import UserError
from minialign.sampling import Sampling


class SamplingDialog(ModalScreen[tuple[str, dict[str, Any]] | None]):
    """Gives (system prompt, the sampling settings that differ from the defaults), or None."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("ctrl+s", "save", "Save", priority=True),
        Binding("escape", "dismiss(None)", "Cancel"),
    ]

    def __init__(self, system: str, values: dict[str, Any]):
        super().__init__()
        self.system, self.values = system, values

    def compose(self) -> ComposeResult:
        texts, default = field_help(Sampling), Sampling()
        with Vertical(classes="dialog large"):
            yield Label("System prompt and sampling", classes="title", markup=False)
            with VerticalScroll(classes="body", can_focus=False):
                yield Static("System prompt", classes="heading", markup=False)
                yield TextArea(self.system, id="system", soft_wrap=True, compact=True,
                               placeholder="none: the model as it is")  # fmt: skip
                for field in fields(Sampling):
                    value = self.values.get(field.name, getattr(default, field.name))
                    with Horizontal(classes="field"):
                        yield Label(field.name.replace("_", " "), classes="name", markup=False)
                        yield Input(_text(value), id=f"s-{field.name}", compact=True)
                        yield Label(texts[field.name] or "most tokens of an answer",
                                    classes="note", markup=False)  # fmt: skip
            yield Static("", id="meaning", markup=False)
            yield Static("", id="wrong", markup=False)
            yield Static("Ctrl-S save   Tab next   Esc cancel", classes="keys", markup=False)

    def on_descendant_focus(self, event: events.DescendantFocus) -> None:
        """The whole help of the field that is being filled in."""
        name = (event.widget.id or "").removeprefix("s-")
        self.query_one("#meaning", Static).update(field_help(Sampling).get(name, ""))

    def action_save(self) -> None:
        """Take the values, or say which one is wrong."""
        default = Sampling()
        try:
            values = {
                field.name: _value(
                    field.name, self.query_one(f"#s-{field.name}", Input).value,
                    getattr(default, field.name),
                )
                for field in fields(Sampling)
            }  # fmt: skip
            Sampling(**values)
        except UserError as error:
            self.query_one("#wrong", Static).update(f"✗ {error.problem}: {error.hint}")
            return
        changed = {
            name: list(value) if isinstance(value, tuple) else value
            for name, value in values.items()
            if value != getattr(default, name)
        }
        self.dismiss((self.query_one("#system", TextArea).text.strip(), changed))


def _text(value: Any) -> str:
    return ", ".join(value) if isinstance(value, tuple | list) else f"{value:g}"


def _value(name: str, text: str, default: Any) -> Any:
    text = text.strip()
    if isinstance(default, tuple):
        return tuple(part.strip() for part in text.split(",") if part.strip())
    try:
        return type(default)(text) if text else default
    except ValueError:
        wanted = "a whole number" if isinstance(default, int) else "a number"
        raise UserError(f"{name.replace('_', ' ')} = {text!r}", f"it must be {wanted}") from None
