"""The form of a training run: the method's settings and those of every run, with their help."""

import dataclasses
from collections.abc import Sequence
from functools import cache
from typing import Any, ClassVar

from textual import events, on
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Horizontal, Vertical, VerticalScroll
from textual.content import Content
from textual.screen import ModalScreen
from textual.widgets import Checkbox, Collapsible, Input, Label, Select, Static

from minialign.config import field_help, field_type, parts, resolve
from minialign.engine.mlx_thread import Which
from minialign.errors import UserError

FIRST = ("data", "model", "adapter", "name", "iters", "epochs", "learning_rate", "batch_size",
         "max_seq_length")  # fmt: skip
HIDDEN = ("out", "map")


@cache
def load_methods() -> dict[str, Any]:
    """The training methods; the first import takes a moment, so a thread does it."""
    from minialign.methods import METHODS

    return dict(METHODS)


def _parts(method: Any) -> list[tuple[str, type, list[Any]]]:
    """(title, dataclass, fields) of the settings that only this method has, its own first."""
    *shared, own = parts(method.config)
    titled = [(f"{method.name}'s own", *own)]
    return titled + [("rounds and sampling", *one) for one in shared]


class Tick(Checkbox):
    """A box that says whether it is ticked without its colour."""

    @property
    def BUTTON_INNER(self) -> str:  # type: ignore[override]
        """The letter in the box."""
        return "✓" if self.value else " "


class RunForm(ModalScreen[tuple[str, dict[str, Any]] | None]):
    """Gives (method, the options that differ from the defaults), or None."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("ctrl+s", "start", "Start", priority=True),
        Binding("escape", "dismiss(None)", "Cancel"),
    ]

    def __init__(self, which: Which, method: str = "dpo", data: tuple[str, ...] = ()):
        super().__init__()
        self.which, self.method, self.data = which, method, data
        self._meanings: dict[str, str] = {}  # field: its help
        self._rest: list[Any] = []  # fields whose entries are not there yet

    def compose(self) -> ComposeResult:
        with Vertical(classes="dialog large form"):
            yield Label("Start a training run", classes="title", markup=False)
            with Horizontal(classes="field"):
                yield Label("method", classes="name", markup=False)
                yield Select([(name, name) for name in load_methods()], value=self.method,
                             allow_blank=False, id="method", compact=True)  # fmt: skip
                yield Label("", id="needs", classes="note", markup=False)
            yield VerticalScroll(id="fields", classes="body", can_focus=False)
            yield Static("", id="meaning", markup=False)
            yield Static("", id="wrong", markup=False)
            yield Static("Ctrl-S start   Tab next   Esc cancel", classes="keys", markup=False)

    def on_descendant_focus(self, event: events.DescendantFocus) -> None:
        """The whole help of the field that is being filled in."""
        name = (event.widget.id or "").removeprefix("f-")
        self.query_one("#meaning", Static).update(self._meanings.get(name, ""))

    async def on_mount(self) -> None:
        await self._fill()
        fields = self.query("#fields Input")
        if fields:
            fields.first().focus()

    @on(Select.Changed, "#method")
    async def another(self, event: Select.Changed) -> None:
        if event.value != self.method:
            self.method = str(event.value)
            await self._fill()

    async def _fill(self) -> None:
        from minialign.training.settings import Settings

        method = load_methods()[self.method]
        needs = self._meanings["method"] = f"needs {method.needs}"
        self.query_one("#needs", Label).update(Content(needs))
        holder = self.query_one("#fields")
        await holder.remove_children()
        every = {
            field.name: field
            for field in dataclasses.fields(Settings)
            if field.name not in method.unused
        }
        first = [self._field(Settings, every[name]) for name in FIRST if name in every]
        self._rest = [field for name, field in every.items() if name not in FIRST + HIDDEN]
        entries: list[Any] = [*first]
        for title, config, fields in _parts(method):
            if fields:
                heading = Static(title, classes="heading", markup=False)
                entries += [heading, *(self._field(config, field) for field in fields)]
        await holder.mount(*entries, Collapsible(title="everything else", collapsed=True))

    @on(Collapsible.Expanded)
    async def _fill_rest(self, event: Collapsible.Expanded) -> None:
        """Make the entries of everything else: half of the form's, and few look at them."""
        from minialign.training.settings import Settings

        rest, self._rest = self._rest, []
        await event.collapsible.query_one(Collapsible.Contents).mount(
            *(self._field(Settings, field) for field in rest)
        )
        self.call_after_refresh(event.collapsible.scroll_visible, animate=False)

    def _field(self, config: type, field: Any) -> Horizontal:
        kind, words, many = field_type(config, field.name)
        self._meanings[field.name] = meaning = field_help(config)[field.name]
        value = self._default(field)
        if field.name == "model" and self.which.model:
            value = self.which.model
        if field.name == "adapter" and self.which.adapter:
            value = self.which.adapter
        if field.name == "data" and self.data:
            value = self.data
        entry: Any
        if kind is bool:
            entry = Tick(value=bool(value), id=f"f-{field.name}", compact=True)
        elif words and not many and value in words:
            entry = Select([(word, word) for word in words], value=value, allow_blank=False,
                           id=f"f-{field.name}", compact=True)  # fmt: skip
        else:
            entry = Input(_text(value), id=f"f-{field.name}", compact=True, validate_on=(),
                          placeholder="your votes" if field.name == "data" else "")  # fmt: skip
        return Horizontal(
            Label(field.name.replace("_", " "), classes="name", markup=False),
            entry,
            Label(meaning, classes="note", markup=False),
            classes="field",
        )

    def _default(self, field: Any) -> Any:
        return load_methods()[self.method].defaults.get(field.name, field.default)

    def _values(self, config: type, fields: Sequence[Any]) -> dict[str, Any]:
        """What was typed, where it differs from the default."""
        values = {}
        for field in fields:
            found = self.query(f"#f-{field.name}")
            if not found:
                continue
            entry = found.first()
            kind, _, many = field_type(config, field.name)
            value = (
                _value(field.name, entry.value, kind, many)
                if isinstance(entry, Input)
                else entry.value  # type: ignore[attr-defined]
            )
            default = self._default(field)
            if value is None and default is not None:
                continue  # an empty entry is the default
            if value != default:
                values[field.name] = value
        return values

    def action_start(self) -> None:
        """Check what was typed, and give it to whoever asked."""
        from minialign.training.settings import Settings, check

        method = load_methods()[self.method]
        try:
            typed = self._values(Settings, dataclasses.fields(Settings))
            for _, config, fields in _parts(method):
                typed |= self._values(config, fields)
            values = {**method.defaults, **typed}
            settings = resolve(Settings, values, {}, "form")
            check(settings)
            own = resolve(method.config, values, {}, "form")
            if method.rounds and not (settings.data and own.plan.scorer):
                raise UserError("it needs data and a scorer", "data: prompts; scorer: reward:RUN")
            method.check(own)
        except UserError as error:
            hint = f" — {error.hint}" if error.hint else ""
            self.query_one("#wrong", Static).update(
                f"✗ {error.problem.removeprefix('form: ')}{hint}"
            )
            return
        self.dismiss((self.method, typed))


def _text(value: Any) -> str:
    if value is None or value is dataclasses.MISSING:
        return ""
    if isinstance(value, tuple | list):
        return ", ".join(map(str, value))
    return f"{value:g}" if isinstance(value, float) else str(value)


def _value(name: str, text: str, kind: type, many: bool) -> Any:
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
