"""The form of a judging: who judges, which pairs, and how."""

import asyncio

from textual import on, work
from textual.app import ComposeResult
from textual.containers import VerticalScroll
from textual.content import Content
from textual.widgets import Label, Select

from minialign.errors import UserError
from minialign.judge.plans import LABELS, Plan, read_planned
from tui.known_models import list_models, list_reward_heads
from tui.widgets.form import Form, Tick

URL, FILE, USUAL = "an endpoint …", "a file …", "the usual one"
ASKED = "what the judge is asked"


def list_judges() -> list[tuple[str, str]]:
    """(what is shown, the judge's name) of all that can judge here. Runs in a thread."""
    here = [choice for choice, _, here in list_models() if here]
    models = [(choice.label, choice.adapter or choice.model or "") for choice in here]
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
            yield self.row("judge", "", "who says which is better", [("looking …", "")])
            url = "http://localhost:8080/v1"
            yield self.row("url", before.url, server, title="address", hint=url)
            model = before.judge if before.url else ""
            yield self.row("model", model, "as the server calls it", title="its model")
            chosen = FILE if file else LABELS
            yield self.row("pairs", chosen, "which answers are compared", pairs)
            yield self.row("file", file, "pairs of answers", hint="pairs.jsonl")
            yield self.row("template", "", ASKED, [(USUAL, "")])
            yield self.row("criteria", before.criteria, "for templates that take one")
            yield self.row("explain", before.explain, "a reason first: slower")
            yield self.row("debias", before.debias, "the mean of both orders decides")

    def on_mount(self) -> None:
        self._choose_fields()
        self.entry("judge", Select).focus()
        self._look()

    @work
    async def _look(self) -> None:
        self.abouts = await asyncio.to_thread(list_templates)
        judges = await asyncio.to_thread(list_judges)
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
        how = {name: self.entry(name, Tick).value for name in ("explain", "debias")}
        template = str(self.entry("template", Select).value or "") or None
        criteria = self.entry("criteria").value.strip() or None
        return Plan(judge, pairs, url, template=template, criteria=criteria, **how)

    async def read(self) -> Plan:
        """A plan whose pairs can be read."""
        plan = self.plan()
        await asyncio.to_thread(read_planned, plan)
        return plan
