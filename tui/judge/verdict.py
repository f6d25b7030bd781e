"""What a judge said of one pair: both answers, both orders, its words; and overruling it."""

from typing import ClassVar

from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Horizontal, Vertical, VerticalScroll
from textual.content import Content
from textual.screen import ModalScreen
from textual.widgets import Label, Static

from minialign.judge.verdict_files import SIDES
from minialign.records import Verdict
from tui.judge.table import VerdictTable
from tui.widgets.app_screen import SCROLL_KEYS
from tui.widgets.text import AnswerPane, label, plain, printable, prompt_text

WORDS = {"a": "A is better", "b": "B is better", "tie": "a tie", "both_bad": "both bad"}
WORDS["unparsed"] = "nothing that reads"
KEYS = "a b t overrule   u undo   ←→ other verdicts   ↑↓ scroll   Esc"


class VerdictView(ModalScreen[None]):
    """The highlighted verdict of the table."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape,enter,q", "dismiss", "Close"),
        Binding("n,right", "move(1)", "Next"),
        Binding("p,left", "move(-1)", "Previous"),
        Binding("a", "overrule('a')", "A"),
        Binding("b", "overrule('b')", "B"),
        Binding("t", "overrule('tie')", "Tie"),
        Binding("u", "undo", "Undo"),
        *SCROLL_KEYS,
    ]

    def __init__(self, table: VerdictTable):
        super().__init__()
        self.table = table

    def compose(self) -> ComposeResult:
        with Vertical(classes="dialog verdict"):
            yield label(id="verdict-said")
            with VerticalScroll(id="verdict-prompt", can_focus=False):
                yield plain(id="verdict-asked")
            with Horizontal(id="verdict-answers"):
                yield AnswerPane("verdict-a")
                yield AnswerPane("verdict-b")
            yield plain(id="verdict-why")
            yield plain(KEYS, "keys")

    async def on_mount(self) -> None:
        await self._draw()

    async def _draw(self) -> None:
        verdict = self.table.current
        if verdict is None:
            self.dismiss()
            return
        vote = self.table.judged.opinions.get(verdict.comparison.key)
        parts = [f"The judge says: {WORDS.get(verdict.choice, '?')}"]
        if vote is not None:
            parts.append("you: " + ("your own text" if vote.edited else WORDS[vote.choice]))
        self.query_one("#verdict-said", Label).update(Content("   ".join(parts)))
        self.query_one("#verdict-asked", Static).update(prompt_text(verdict.prompt))
        answers = {"a": (verdict.a, verdict.a_from), "b": (verdict.b, verdict.b_from)}
        for side, (answer, origin) in answers.items():
            won = " ✓" if verdict.choice == side else ""
            was = f" ({origin['was']})" if origin.get("was") else ""
            pane = self.query_one(f"#verdict-{side}", AnswerPane)
            await pane.show(f"{side.upper()}{was}{won}", answer)
        self.query_one("#verdict-why", Static).update(_explain(verdict))

    async def action_move(self, by: int) -> None:
        self.table.move(by)
        await self._draw()

    async def action_overrule(self, choice: str) -> None:
        self.table.overrule(choice)
        await self._draw()

    async def action_undo(self) -> None:
        self.table.undo()
        await self._draw()

    def action_scroll(self, by: int) -> None:
        for pane in self.query("AnswerPane VerticalScroll"):
            pane.scroll_relative(y=by, animate=False)


def _explain(verdict: Verdict) -> str:
    lines = []
    for order, first in zip(verdict.orders, "AB", strict=False):
        names = {side: "tie" if side == "tie" else side.upper() for side in SIDES}
        shares = [
            f"{names[side]} {order[side]:.2f}"
            for side in SIDES
            if isinstance(order.get(side), int | float)
        ]
        said = "  ".join(shares) or f"“{printable(str(order.get('unparsed', '')))[:80]}”"
        lines.append(f"{first} first: {said}")
    if verdict.explanation:
        lines.append(printable(verdict.explanation))
    return "\n".join(lines)
