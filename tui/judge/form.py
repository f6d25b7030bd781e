"""The form of a judging: who judges, which pairs, and how."""

import asyncio
from typing import Any

from textual import on
from textual.app import ComposeResult
from textual.containers import VerticalScroll
from textual.content import Content
from textual.widgets import Input, Label, Select

from minialign.errors import UserError
from minialign.judge.plans import LABELS, Plan, read_planned
from tui.known_models import list_models, list_reward_heads
from tui.widgets.form import Form, Tick, field

URL, FILE, USUAL = "an endpoint …", "a file …", "the usual one"
ASKED = "what the judge is asked"


def list_judges() -> list[tuple[str, str]]:
    """(what is shown, the judge's name) of all that can judge here. Runs in a thread."""
    models = [
        (choice.label, choice.adapter or choice.model or "")
        for choice, _, here in list_models()
        if here
    ]
    return [*models, *((f"reward:{name}",) * 2 for name in list_reward_heads()), (URL, URL)]


def list_templates() -> dict[str, str]:
    """The judge's templates: name: what it asks. Runs in a thread."""
    from minialign.judge.templates import known_templates, read_template

    abouts = {}
    for name in known_templates():
        try:
            abouts[name] = read_template(name).about
        except UserError as error:  # one of the user's own
            abouts[name] = f"✗ {error.problem}"
    return abouts


class JudgeForm(Form[Plan | None]):
    """Gives a plan whose pairs can be read, or None; ``before`` fills the form in."""

    PREFIX = "j-"

    def __init__(self, before: Plan | None):
        super().__init__("Judge pairs of answers", "start")
        self.before = before or Plan("")
        self.abouts: dict[str, str] = {}

    def fields(self) -> ComposeResult:
        before = self.before
        file = "" if before.pairs == LABELS else before.pairs
        pairs = [("your labels", LABELS), (FILE, FILE)]
        server = "of an OpenAI-compatible server"
        with VerticalScroll(classes="body", can_focus=False):
            yield _select("judge", [("looking …", "")], "", "who says which is better")
            yield _input("url", before.url, server, "address", "http://localhost:8080/v1")
            model = before.judge if before.url else ""
            yield _input("model", model, "as the server calls it", "its model")
            yield _select("pairs", pairs, FILE if file else LABELS, "which answers are compared")
            yield _input("file", file, "pairs of answers", placeholder="pairs.jsonl")
            yield _select("template", [(USUAL, "")], "", ASKED)
            yield _input("criteria", before.criteria, "for templates that take one")
            yield _tick("explain", before.explain, "a reason first: slower")
            yield _tick("debias", before.debias, "the mean of both orders decides")

    async def on_mount(self) -> None:
        self._choose_fields()
        self.query_one("#j-judge").focus()
        self.run_worker(self._look())

    async def _look(self) -> None:
        judges, self.abouts = await asyncio.gather(
            asyncio.to_thread(list_judges), asyncio.to_thread(list_templates)
        )
        if not self.is_attached:
            return
        known = [value for _, value in judges]
        wanted = URL if self.before.url else self.before.judge
        judge, template = self.entry("judge", Select), self.entry("template", Select)
        judge.set_options(judges)
        judge.value = wanted if wanted in known else known[0]
        template.set_options([(USUAL, ""), *((name, name) for name in self.abouts)])
        template.value = self.before.template if self.before.template in self.abouts else ""
        self._choose_fields()

    @on(Select.Changed)
    def _choose_fields(self) -> None:
        """Show only what has a meaning."""
        judge = str(self.entry("judge", Select).value)
        shown = dict.fromkeys(("url", "model"), judge == URL)
        shown["file"] = self.entry("pairs", Select).value == FILE
        asks = not judge.startswith("reward:")
        shown |= dict.fromkeys(("template", "criteria", "explain", "debias"), asks)
        for name, there in shown.items():
            self.query_one(f"#j-{name}").parent.display = there  # type: ignore[union-attr]
        template = self.entry("template", Select)
        about = self.abouts.get(str(template.value), ASKED)
        template.parent.query_one(".note", Label).update(Content(about))

    def plan(self) -> Plan:
        """What was typed.

        Raises:
            UserError: something is missing.
        """
        typed = {name: self.entry(name).value.strip() for name in ("url", "model", "file")}
        judge = str(self.entry("judge", Select).value)
        url = typed["url"] if judge == URL else None
        if judge == URL:
            judge = typed["model"]
            if not url or not judge:
                raise UserError("an endpoint needs its address and its model's name")
        if not judge:
            raise UserError("there is no judge yet", "F6 gets a model")
        pairs = str(self.entry("pairs", Select).value)
        if pairs == FILE and not typed["file"]:
            raise UserError("which file?", "JSONL of pairs")
        pairs = typed["file"] if pairs == FILE else LABELS
        if judge.startswith("reward:"):  # it is asked nothing
            return Plan(judge, pairs, url)
        return Plan(
            judge,
            pairs,
            url,
            template=str(self.entry("template", Select).value or "") or None,
            explain=self.entry("explain", Tick).value,
            debias=self.entry("debias", Tick).value,
            criteria=self.entry("criteria").value.strip() or None,
        )

    async def read(self) -> Plan:
        """A plan whose pairs can be read."""
        plan = self.plan()
        await asyncio.to_thread(read_planned, plan)
        return plan


def _input(name: str, value: str | None, note: str, title: str = "", placeholder: str = "") -> Any:
    entry = Input(value or "", id=f"j-{name}", compact=True, placeholder=placeholder)
    return field(title or name, entry, note)


def _select(name: str, options: list[tuple[str, str]], value: str, note: str) -> Any:
    entry = Select(options, value=value, allow_blank=False, id=f"j-{name}", compact=True)
    return field(name, entry, note)


def _tick(name: str, value: bool, note: str) -> Any:
    return field(name, Tick(value=value, id=f"j-{name}", compact=True), note)
