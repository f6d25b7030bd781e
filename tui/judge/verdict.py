"""What a judge said of one pair: both answers, both orders, its words; and overruling it."""

from typing import TYPE_CHECKING, ClassVar

from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Horizontal, Vertical, VerticalScroll
from textual.content import Content
from textual.screen import ModalScreen
from textual.widgets import Label, Markdown, Static

from minialign.judge import plans
from minialign.judge.verdict_files import SIDES
from tui.chat.bubble import markdown_parser, printable

if TYPE_CHECKING:
    from tui.judge.screen import JudgeScreen

WORDS = {"a": "A is better", "b": "B is better", "tie": "a tie", "unparsed": "nothing that reads",
         "both_bad": "both bad"}  # fmt: skip


class VerdictView(ModalScreen[None]):
    """The highlighted verdict of the judge screen."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape,enter,q", "dismiss", "Close"),
        Binding("n,right", "move(1)", "Next"),
        Binding("p,left", "move(-1)", "Previous"),
        Binding("a", "overrule('a')", "A"),
        Binding("b", "overrule('b')", "B"),
        Binding("t", "overrule('tie')", "Tie"),
        Binding("u", "undo", "Undo"),
        Binding("down", "scroll(2)", show=False),
        Binding("up", "scroll(-2)", show=False),
        Binding("pagedown,space", "scroll(10)", show=False),
        Binding("pageup", "scroll(-10)", show=False),
    ]

    def __init__(self, judge: "JudgeScreen"):
        super().__init__()
        self.judge = judge

    def compose(self) -> ComposeResult:
        with Vertical(classes="dialog verdict"):
            yield Label("", id="verdict-said", markup=False)
            with VerticalScroll(id="verdict-prompt", can_focus=False):
                yield Static("", id="verdict-asked", markup=False)
            with Horizontal(id="verdict-answers"):
                for side in ("a", "b"):
                    with VerticalScroll(classes="answer", id=f"verdict-{side}", can_focus=False):
                        yield Markdown("", id=f"verdict-text-{side}", open_links=False,
                                       parser_factory=markdown_parser)  # fmt: skip
            yield Static("", id="verdict-why", markup=False)
            yield Static("a b t overrule   u undo   ←→ other verdicts   ↑↓ scroll   Esc",
                         classes="keys", markup=False)  # fmt: skip

    async def on_mount(self) -> None:
        await self._draw()

    async def _draw(self) -> None:
        verdict = self.judge.current
        if verdict is None:
            self.dismiss()
            return
        vote = self.judge.opinions.get(verdict.comparison.key)
        parts = [f"The judge says: {WORDS.get(verdict.choice, '?')}"]
        if vote is not None:
            parts.append("you: " + ("your own text" if vote.edited else WORDS[vote.choice]))
        self.query_one("#verdict-said", Label).update(Content("   ".join(parts)))
        asked = verdict.prompt
        text = (
            asked[0]["content"] if len(asked) == 1
            else "\n".join(f"{turn['role']}: {turn['content']}" for turn in asked)
        )  # fmt: skip
        self.query_one("#verdict-asked", Static).update(printable(text))
        for side, answer, origin in (("a", verdict.a, verdict.a_from),
                                     ("b", verdict.b, verdict.b_from)):  # fmt: skip
            pane = self.query_one(f"#verdict-{side}")
            won = " ✓" if verdict.choice == side else ""
            was = f" ({origin['was']})" if origin.get("was") else ""
            pane.border_title = f"{side.upper()}{was}{won}"
            pane.border_subtitle = f"{len(answer.split())} words"
            pane.scroll_home(animate=False)
            await self.query_one(f"#verdict-text-{side}", Markdown).update(printable(answer))
        self.query_one("#verdict-why", Static).update(self._why(verdict))

    def _why(self, verdict: plans.Verdict) -> str:
        lines = []
        for order, first in zip(verdict.orders, "AB", strict=False):
            shares = [
                f"{'tie' if side == 'tie' else side.upper()} {order[side]:.2f}"
                for side in SIDES if isinstance(order.get(side), int | float)
            ]  # fmt: skip
            said = "  ".join(shares) or f"“{printable(str(order.get('unparsed', '')))[:80]}”"
            lines.append(f"{first} first: {said}")
        if verdict.explanation:
            lines.append(printable(verdict.explanation))
        return "\n".join(lines)

    async def action_move(self, by: int) -> None:
        self.judge.move(by)
        await self._draw()

    async def action_overrule(self, choice: str) -> None:
        self.judge.action_overrule(choice)
        await self._draw()

    async def action_undo(self) -> None:
        self.judge.action_undo()
        await self._draw()

    def action_scroll(self, by: int) -> None:
        for side in "ab":
            self.query_one(f"#verdict-{side}").scroll_relative(y=by, animate=False)
