"""What a judge said of one pair: both answers, both orders, its words; and overruling it."""

from collections.abc import Callable

from textual.app import ComposeResult
from textual.binding import Binding
from textual.containers import Horizontal, VerticalScroll
from textual.content import Content
from textual.widgets import Label, Static

from minialign.judge.verdict_files import SIDES
from minialign.records import Verdict
from tui.judge.table import SAID as SHORT
from tui.judge.table import VerdictTable
from tui.widgets.app_screen import SCROLL_KEYS, bind, scroll_keys
from tui.widgets.dialogs import Dialog
from tui.widgets.text import WORDS, AnswerPane, plain, printable, prompt_text

SAID = WORDS | {"unparsed": "nothing that reads"}
KEYS = "a b t overrule   u undo   ←→ other verdicts   ↑↓ scroll   Esc"


class VerdictView(Dialog[None]):
    """The highlighted verdict of the table, and how the user's votes on it are given."""

    BINDINGS = bind(
        Binding("escape,enter,q", "dismiss", "Close"),
        *scroll_keys({"n,right": 1, "p,left": -1}, "move"),
        Binding("a", "overrule('a')", "A"),
        Binding("b", "overrule('b')", "B"),
        Binding("t", "overrule('tie')", "Tie"),
        Binding("u", "undo", "Undo"),
        *SCROLL_KEYS,
    )

    def __init__(
        self, table: VerdictTable, overrule: Callable[[str], None], undo: Callable[[], None]
    ):
        super().__init__("", KEYS, "verdict")
        self.table, self.overrule, self.undo = table, overrule, undo

    def body(self) -> ComposeResult:
        with VerticalScroll(id="verdict-prompt", can_focus=False):
            yield plain(id="verdict-asked")
        with Horizontal(id="verdict-answers"):
            yield AnswerPane("verdict-a")
            yield AnswerPane("verdict-b")
        yield plain(id="verdict-why")

    async def _draw(self) -> None:
        verdict = self.table.current
        if verdict is None:
            self.dismiss()
            return
        vote = self.table.judged.opinions.get(verdict.comparison.key)
        parts = [f"The judge says: {SAID.get(verdict.choice, '?')}"]
        if vote is not None:
            parts.append("you: " + ("your own text" if vote.edited else SAID[vote.choice]))
        self.query_one(".title", Label).update(Content("   ".join(parts)))
        self.query_one("#verdict-asked", Static).update(prompt_text(verdict.prompt))
        answers = {"a": (verdict.a, verdict.a_from), "b": (verdict.b, verdict.b_from)}
        for side, (answer, origin) in answers.items():
            won = " ✓" if verdict.choice == side else ""
            was = f" ({origin['was']})" if origin.get("was") else ""
            pane = self.query_one(f"#verdict-{side}", AnswerPane)
            await pane.show(f"{side.upper()}{was}{won}", answer)
        self.query_one("#verdict-why", Static).update(_explain(verdict))

    on_mount = _draw

    async def action_move(self, by: int) -> None:
        self.table.move_cursor(row=self.table.cursor_row + by)
        await self._draw()

    async def action_overrule(self, choice: str) -> None:
        self.overrule(choice)
        await self._draw()

    async def action_undo(self) -> None:
        self.undo()
        await self._draw()

    def action_scroll(self, by: int) -> None:
        for pane in self.query("AnswerPane VerticalScroll"):
            pane.scroll_relative(y=by, animate=False)


def _explain(verdict: Verdict) -> str:
    lines = []
    for order, first in zip(verdict.orders, "AB", strict=False):
        said_of = [side for side in SIDES if isinstance(order.get(side), int | float)]
        shares = [f"{SHORT[side]} {order[side]:.2f}" for side in said_of]
        said = "  ".join(shares) or f"“{printable(str(order.get('unparsed', '')))[:80]}”"
        lines.append(f"{first} first: {said}")
    if verdict.explanation:
        lines.append(printable(verdict.explanation))
    return "\n".join(lines)
