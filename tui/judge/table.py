"""The verdicts in a table, those first where the judge says something else than the user."""

from rich.text import Text
from textual.widgets import DataTable

from minialign.judge import plans
from minialign.records import Verdict, Vote
from tui.judge.state import Judged
from tui.widgets.text import one_line

SAID = {"a": "A", "b": "B", "tie": "tie", "unparsed": "?", "both_bad": "both bad"}
APART = {0: "=", 1: "~", 2: "≠", None: " "}
ORDER = {"≠": 0, "~": 1, "=": 2, " ": 3}
WIDTHS = {"apart": 1, "judge": 5, "A first": 7, "B first": 7, "you": 8, "prompt": None}


class VerdictTable(DataTable[Text]):
    """``judged`` drawn."""

    def __init__(self) -> None:
        super().__init__(id="verdicts", cursor_type="row", zebra_stripes=True)
        self.judged = Judged()
        self._drawn: dict[str, tuple[Verdict, Vote | None]] = {}

    def on_mount(self) -> None:
        for name, width in WIDTHS.items():
            self.add_column("" if name == "apart" else name, width=width, key=name)

    @property
    def current(self) -> Verdict | None:
        """The verdict that is highlighted."""
        if not self.row_count:
            return None
        key = self.coordinate_to_cell_key(self.cursor_coordinate).row_key.value
        return self.judged.verdicts.get(str(key))

    def show(self, judged: Judged) -> None:
        """Another judging."""
        self.judged = judged
        self._drawn = {}
        self.clear()

    def draw(self) -> None:
        """Draw what is new or other than before."""
        current, changed = self.current, False
        for key, verdict in self.judged.verdicts.items():
            vote = self.judged.opinions.get(key)
            if self._drawn.get(key) == (verdict, vote):
                continue
            cells, changed = _cells(verdict, vote), True
            if key in self._drawn:
                for name, cell in zip(WIDTHS, cells, strict=True):
                    self.update_cell(key, name, cell)
            else:
                self.add_row(*cells, key=key)
            self._drawn[key] = verdict, vote
        if not changed:
            return
        self.sort("apart", key=lambda cell: ORDER[cell.plain])
        if current is None:  # the first: its keys can be used now
            self.screen.refresh_bindings()
        else:
            self.move_cursor(row=self.get_row_index(current.comparison.key), animate=False)


def _cells(verdict: Verdict, vote: Vote | None) -> list[Text]:
    apart = plans.measure_distance(verdict, vote)
    orders = [plans.read_order(order) for order in verdict.orders[:2]]
    shares = [f"{SAID[one[0]]} {one[1]:.2f}" if one else "?" for one in [*orders, None, None][:2]]
    said = SAID[vote.choice] if vote is not None and not vote.edited else "own" if vote else ""
    prompt = one_line(verdict.prompt[-1]["content"])[:200]
    style = "bold" if apart == 2 else ""
    cells = [APART[apart], SAID.get(verdict.choice, "?"), *shares, said]
    return [*(Text(cell, no_wrap=True, style=style) for cell in cells), Text(prompt, no_wrap=True)]
