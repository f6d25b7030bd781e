"""The dialog for the system prompt and how answers are drawn."""

from dataclasses import fields
from typing import Any

from textual.app import ComposeResult
from textual.containers import VerticalScroll
from textual.widgets import TextArea

from minialign.config import field_help, field_type
from minialign.errors import UserError
from minialign.sampling import Sampling
from tui.widgets.form import Form, value_of
from tui.widgets.text import plain


class SamplingDialog(Form[tuple[str, dict[str, Any]] | None]):
    """Gives (system prompt, the sampling settings that differ from the defaults), or None."""

    PREFIX = "s-"

    def __init__(self, system: str, values: dict[str, Any]):
        super().__init__("System prompt and sampling", "save", "large")
        self.system, self.values, self.meanings = system, values, field_help(Sampling)

    def fields(self) -> ComposeResult:
        with VerticalScroll(classes="body", can_focus=False):
            yield plain("System prompt", "heading")
            yield TextArea(self.system, id="system", soft_wrap=True, compact=True,
                           placeholder="none: the model as it is")  # fmt: skip
            for one in fields(Sampling):
                value = self.values.get(one.name, one.default)
                meaning = self.meanings[one.name] or "most tokens of an answer"
                yield self.row(one.name, value, meaning)
        yield plain(id="meaning")

    async def read(self) -> tuple[str, dict[str, Any]]:
        """Take the values, or say which one is wrong."""
        values: dict[str, Any] = {}
        for one in fields(Sampling):
            kind, _, many = field_type(Sampling, one.name)
            value = value_of(one.name, self.entry(one.name).value, kind, many)
            values[one.name] = one.default if value is None else value
        Sampling(**values)
        changed = {
            one.name: list(value) if isinstance(value, tuple) else value
            for one in fields(Sampling)
            if (value := values[one.name]) != one.default
        }
        return self.query_one("#system", TextArea).text.strip(), changed

    def explain(self, error: UserError) -> str:
        return f"{error.problem}: {error.hint}"
