"""The form of a judging: who judges, which pairs, and how."""

import asyncio
from typing import Any, ClassVar

from textual import on
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Horizontal, Vertical, VerticalScroll
from textual.content import Content
from textual.screen import ModalScreen
from textual.widgets import Input, Label, Select, Static

from minialign.errors import UserError
from minialign.judge.plans import LABELS, Plan, read_planned
from tui.runs.form import Tick

URL, FILE, USUAL = "an endpoint …", "a file …", "the usual one"


def judges() -> list[tuple[str, str]]:
    """(what is shown, the judge's name) of all that can judge here. Runs in a thread."""
    from minialign.run_folder import list_runs
    from tui.work import choices

    found = [(which.label, which.adapter or which.model or "") for which, _, here in choices()
             if here]  # fmt: skip
    for run in reversed(list_runs()):
        if (run.path / "reward_head.safetensors").exists():
            found.append((f"reward:{run.name}", f"reward:{run.name}"))
    return [*found, (URL, URL)]


def templates() -> dict[str, str]:
    """The judge's templates: name: what it asks. Runs in a thread."""
    from minialign.judge.templates import known_templates, read_template

    found = {}
    for name in known_templates():
        try:
            found[name] = read_template(name).about
        except UserError as error:  # one of the user's own
            found[name] = f"✗ {error.problem}"
    return found


class JudgeForm(ModalScreen[Plan | None]):
    """Gives a plan whose pairs can be read, or None; ``before`` fills the form in."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("ctrl+s", "start", "Start", priority=True),
        Binding("escape", "dismiss(None)", "Cancel"),
    ]

    def __init__(self, before: Plan | None):
        super().__init__()
        self.before = before or Plan("")
        self.abouts: dict[str, str] = {}

    def compose(self) -> ComposeResult:
        before = self.before
        on_labels = before.pairs == LABELS
        with Vertical(classes="dialog large form"):
            yield Label("Judge pairs of answers", classes="title", markup=False)
            with VerticalScroll(classes="body", can_focus=False):
                yield _field("judge", Select([("looking …", "")], value="", allow_blank=False,
                             id="j-judge", compact=True), "who says which is better")  # fmt: skip
                yield _field("address", Input(before.url or "", id="j-url", compact=True,
                             placeholder="http://localhost:8080/v1"),
                             "of an OpenAI-compatible server")  # fmt: skip
                yield _field("its model", Input(before.judge if before.url else "", id="j-model",
                             compact=True), "as the server calls it")  # fmt: skip
                yield _field("pairs", Select(
                    [("your labels", LABELS), (FILE, FILE)],
                    value=LABELS if on_labels else FILE,
                    allow_blank=False, id="j-pairs", compact=True),
                    "which answers are compared")  # fmt: skip
                yield _field("file", Input("" if on_labels else before.pairs, id="j-file",
                             compact=True, placeholder="pairs.jsonl"),
                             "pairs of answers")  # fmt: skip
                yield _field("template", Select([(USUAL, "")], value="", allow_blank=False,
                             id="j-template", compact=True), "what the judge is asked")  # fmt: skip
                yield _field("criteria", Input(before.criteria or "", id="j-criteria",
                             compact=True),
                             "for templates that take one")  # fmt: skip
                yield _field("explain", Tick(value=before.explain, id="j-explain",
                             compact=True), "a reason first: slower")  # fmt: skip
                yield _field("debias", Tick(value=before.debias, id="j-debias", compact=True),
                             "the mean of both orders decides")  # fmt: skip
            yield Static("", id="wrong", markup=False)
            yield Static("Ctrl-S start   Tab next   Esc cancel", classes="keys", markup=False)

    async def on_mount(self) -> None:
        self._which_fields()
        self.query_one("#j-judge").focus()
        self.run_worker(self._look())

    async def _look(self) -> None:
        found, self.abouts = await asyncio.gather(
            asyncio.to_thread(judges), asyncio.to_thread(templates)
        )
        if not self.is_attached:
            return
        known = [value for _, value in found]
        wanted = URL if self.before.url else self.before.judge
        judge = self.query_one("#j-judge", Select)
        judge.set_options(found)
        judge.value = wanted if wanted in known else known[0]
        template = self.query_one("#j-template", Select)
        template.set_options([(USUAL, ""), *((name, name) for name in self.abouts)])
        template.value = self.before.template if self.before.template in self.abouts else ""
        self._which_fields()

    @on(Select.Changed)
    def _which_fields(self) -> None:
        """Only what has a meaning."""
        judge = self.query_one("#j-judge", Select).value
        for name in ("url", "model"):
            _row_of(self.query_one(f"#j-{name}")).display = judge == URL
        pairs = self.query_one("#j-pairs", Select).value
        _row_of(self.query_one("#j-file")).display = pairs == FILE
        reward = str(judge).startswith("reward:")
        for name in ("template", "criteria", "explain", "debias"):
            _row_of(self.query_one(f"#j-{name}")).display = not reward
        template = self.query_one("#j-template", Select)
        about = self.abouts.get(str(template.value), "what the judge is asked")
        _row_of(template).query_one(".note", Label).update(Content(about))

    def _plan(self) -> Plan:
        def typed(name: str) -> str:
            return self.query_one(f"#j-{name}", Input).value.strip()

        judge = str(self.query_one("#j-judge", Select).value)
        url = typed("url") if judge == URL else None
        if judge == URL:
            judge = typed("model")
            if not url or not judge:
                raise UserError("an endpoint needs its address and its model's name")
        if not judge:
            raise UserError("there is no judge yet", "F6 gets a model")
        pairs = str(self.query_one("#j-pairs", Select).value)
        if pairs == FILE and not typed("file"):
            raise UserError("which file?", "JSONL of pairs")
        asks = not judge.startswith("reward:")
        return Plan(
            judge, typed("file") if pairs == FILE else LABELS, url,
            str(self.query_one("#j-template", Select).value or "") or None if asks else None,
            asks and self.query_one("#j-explain", Tick).value,
            asks and self.query_one("#j-debias", Tick).value,
            (typed("criteria") or None) if asks else None,
        )  # fmt: skip

    def action_start(self) -> None:
        """Check what was typed, and give it to whoever asked."""
        self.run_worker(self._start(), exclusive=True)

    async def _start(self) -> None:
        try:
            plan = self._plan()
            await asyncio.to_thread(read_planned, plan)
        except UserError as error:
            hint = f" — {error.hint}" if error.hint else ""
            self.query_one("#wrong", Static).update(f"✗ {error.problem}{hint}")
            return
        self.dismiss(plan)


def _field(name: str, entry: Any, note: str) -> Horizontal:
    return Horizontal(
        Label(name, classes="name", markup=False), entry,
        Label(note, classes="note", markup=False), classes="field",
    )  # fmt: skip


def _row_of(entry: Any) -> Any:
    return entry.parent
