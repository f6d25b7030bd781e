"""The form of a training run: the method's settings and those of every run, with their help."""

import dataclasses
from collections.abc import Sequence
from functools import cache
from typing import Any

from textual import on
from textual.app import ComposeResult
from textual.containers import Horizontal, VerticalScroll
from textual.content import Content
from textual.widget import Widget
from textual.widgets import Collapsible, Input, Label, Select

from minialign.config import field_help, field_type, parts, resolve
from minialign.engine.mlx_thread import ModelChoice
from minialign.errors import UserError
from tui.widgets.form import Form, value_of
from tui.widgets.text import label, plain

FIRST = ["data", "model", "adapter", "name", "iters", "epochs", "learning_rate"]
FIRST += ["batch_size", "max_seq_length"]
HIDDEN = ["out", "map"]


@cache
def load_methods() -> dict[str, Any]:
    """The training methods; the first import takes a moment, so a thread does it."""
    from minialign.methods import METHODS

    return dict(METHODS)


def _parts(method: Any) -> list[tuple[str, type, Sequence[Any]]]:
    """(title, dataclass, fields) of the settings that only this method has, its own first."""
    *shared, own = parts(method.config)
    titled = [(f"{method.name}'s own", *own)]
    return titled + [("rounds and sampling", *one) for one in shared]


class RunForm(Form[tuple[str, dict[str, Any]] | None]):
    """Gives (method, the options that differ from the defaults), or None."""

    PREFIX = "f-"

    def __init__(self, choice: ModelChoice, method: str = "dpo", data: tuple[str, ...] = ()):
        super().__init__("Start a training run", "start")
        self.method = method
        # what the app knows better than the defaults
        self.known = {"model": choice.model, "adapter": choice.adapter, "data": data}
        self._rest: list[Any] = []  # fields whose entries are not there yet

    def fields(self) -> ComposeResult:
        with Horizontal(classes="field"):
            yield label("method", "name")
            methods = [(name, name) for name in load_methods()]
            yield Select(methods, value=self.method, allow_blank=False, id="method", compact=True)
            yield label(id="needs", classes="note")
        yield VerticalScroll(id="fields", classes="body", can_focus=False)
        yield plain(id="meaning")

    async def on_mount(self) -> None:
        await self._fill()
        self.query("#fields Input").first().focus()

    @on(Select.Changed, "#method")
    async def change_method(self, event: Select.Changed) -> None:
        if event.value != self.method:
            self.method = str(event.value)
            await self._fill()

    async def _fill(self) -> None:
        from minialign.training.settings import Settings

        method = load_methods()[self.method]
        needs = self.meanings["method"] = f"needs {method.needs}"
        self.query_one("#needs", Label).update(Content(needs))
        holder = self.query_one("#fields")
        await holder.remove_children()
        fields = dataclasses.fields(Settings)
        every = {one.name: one for one in fields if one.name not in method.unused}
        self._rest = [one for name, one in every.items() if name not in FIRST + HIDDEN]
        rows: list[Widget] = [self._row(Settings, every[name]) for name in FIRST if name in every]
        for title, config, own in _parts(method):
            if own:
                rows += [plain(title, "heading"), *(self._row(config, one) for one in own)]
        await holder.mount(*rows, Collapsible(title="everything else", collapsed=True))

    @on(Collapsible.Expanded)
    async def _fill_rest(self, event: Collapsible.Expanded) -> None:
        """Make the entries of everything else: half of the form's, and few look at them."""
        from minialign.training.settings import Settings

        rows, self._rest = [self._row(Settings, one) for one in self._rest], []
        await event.collapsible.query_one(Collapsible.Contents).mount(*rows)
        self.call_after_refresh(event.collapsible.scroll_visible, animate=False)

    def _row(self, config: type, one: Any) -> Horizontal:
        kind, words, many = field_type(config, one.name)
        self.meanings[one.name] = meaning = field_help(config)[one.name]
        value = self.known.get(one.name) or self._default(one)
        options = [(word, word) for word in words] if value in words and not many else []
        hint = "your votes" if one.name == "data" else ""
        value = bool(value) if kind is bool else value
        return self.row(one.name, value, meaning, options, hint=hint)

    def _default(self, one: Any) -> Any:
        return load_methods()[self.method].defaults.get(one.name, one.default)

    def _values(self, config: type, fields: Sequence[Any]) -> dict[str, Any]:
        """What was typed, where it differs from the default."""
        values = {}
        for one in fields:
            for entry in self.query(f"#f-{one.name}").results(Widget):
                kind, _, many = field_type(config, one.name)
                value = getattr(entry, "value", None)
                if isinstance(entry, Input):
                    value = value_of(one.name, entry.value, kind, many)
                default = self._default(one)
                if value != default and not (value is None and default is not None):
                    values[one.name] = value  # an empty entry is the default
        return values

    async def read(self) -> tuple[str, dict[str, Any]]:
        """What was typed, checked as the command checks it."""
        from minialign.training.settings import Settings, check

        method = load_methods()[self.method]
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
        return self.method, typed

    def explain(self, error: UserError) -> str:
        return super().explain(error).removeprefix("form: ")
