"""F4: a judge compares pairs; its verdicts, its biases, and where it differs from the user.

Judging runs on the lane, two pairs at a time, behind everything that somebody waits for: a chat's
answer comes in between. A judge at an endpoint computes nothing here and has a thread of its own.
Every verdict is in its file before it is shown, so closing the app loses none; ``r`` goes on.
"""

import asyncio
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

from rich.text import Text
from textual import on, work
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.screen import Screen
from textual.widgets import DataTable, Static

from minialign.engine.mlx_thread import Engines, Lane, Ticket, Which, Work
from minialign.errors import UserError
from minialign.judge import plans
from minialign.judge.plans import Plan
from minialign.judge.verdict_files import read_verdicts
from minialign.labels.votes import Votes
from minialign.records import Comparison, Verdict, Vote
from tui.chat.bubble import printable
from tui.job import Job
from tui.judge.verdict import VerdictView
from tui.widgets.bar import Keys, TopBar
from tui.widgets.dialogs import Choice, Pick
from tui.work import Progress

AT_ONCE = 2  # pairs; between two batches the lane turns to others
EVERY = 0.4  # seconds between two drawings while verdicts come
SAID = {"a": "A", "b": "B", "tie": "tie", "unparsed": "?", "both_bad": "both bad"}
APART = {0: "=", 1: "~", 2: "≠"}
ORDER = {"≠": 0, "~": 1, "=": 2, " ": 3}
COLUMNS = ("", "judge", "A first", "B first", "you", "prompt")
NOTHING = """\
Nothing was judged yet.

n   choose a judge and pairs: a file, or those you labelled
F3  label pairs first: then you see how far to trust the judge"""


def judging(plan: Plan, pairs: Sequence[Comparison], stop: threading.Event) -> Work:
    """Work whose items are ``Progress`` and ``Verdict``."""

    def work(engines: Engines, ticket: Ticket) -> Iterator[Any]:
        from minialign.judge.ask import judge_comparisons
        from minialign.judge.open import open_judge

        def tell(what: str, done: int, total: int) -> None:
            ticket.check()
            ticket.on_item(Progress(what, done, total))

        tell(f"opening {plan.judge}", 0, 0)
        engine = _engine(plan, engines, tell)
        judge = open_judge(plan.judge, plan.options, engine=engine, progress=tell)
        located = [replace(pair, source=str(pair.a_from.get("file", ""))) for pair in pairs]
        yield from judge_comparisons(judge, located, file=plan.file, batch_size=AT_ONCE, stop=stop)

    return work


def _engine(plan: Plan, engines: Engines, tell: Any) -> Any:
    """The judge's model as the chat holds it, so that it is in memory once; None when the judge is
    of another kind."""
    if plan.url or plan.judge.startswith("reward:"):
        return None
    from minialign.engine.open import base_of
    from minialign.models.names import DEFAULT, catalog
    from minialign.models.sources.fetch import find

    is_model = plan.judge in catalog() or find(plan.judge) is not None
    wanted = Which(plan.judge) if is_model else Which(base_of(plan.judge), plan.judge)
    for held in engines.held():
        if held.adapter == wanted.adapter and (held.model or DEFAULT) == wanted.model:
            wanted = held
    return engines.get(wanted, tell)


class JudgeScreen(Screen[None]):
    """One judging: how it stands, and its verdicts in a table."""

    HELP_TITLE = "Judge"
    HELP_TEXT = (
        "A model, a reward head or an endpoint says which of two answers is better, in both "
        "orders; it decides only when both orders agree. Above the table: the win rate of A with "
        "its 95 % interval, how often the answer shown first or the longer one wins, how often "
        "the orders disagree, and how often the judge agrees with your votes. In the table ≠ is "
        "where it says the opposite of you, ~ where one of you says tie; those come first. Of a "
        "file of pairs, A is the chosen answer."
    )
    HELP_KEYS = (
        ("Judging", (
            ("n", "New: choose judge and pairs"), ("s", "Stop; what is judged is kept"),
            ("r", "Resume: judge the rest"), ("o", "Open an earlier judging"),
        )),
        ("A verdict", (
            ("enter,d", "Both answers, and what the judge said"),
            ("a,b,t", "Overrule it: your vote is A, B, a tie"),
            ("u", "Take that vote back"), ("up,down", "Another verdict"),
        )),
        ("What becomes of it", (
            ("f", "Train on the verdicts; your own votes count in their place"),
        )),
    )  # fmt: skip
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("n", "new", "New", id="judge-new", tooltip="Choose a judge and pairs"),
        Binding("s", "stop", "Stop", id="judge-stop", tooltip="Stop judging; it is kept"),
        Binding("r", "resume", "Resume", id="judge-resume", tooltip="Judge the rest"),
        Binding("o", "open", "Open", id="judge-open", tooltip="An earlier judging"),
        Binding("d,enter", "details", "Details", id="judge-details", tooltip="Both answers"),
        Binding("a", "overrule('a')", "A", id="judge-a", tooltip="Overrule: A is better"),
        Binding("b", "overrule('b')", "B", id="judge-b", tooltip="Overrule: B is better"),
        Binding("t", "overrule('tie')", "Tie", id="judge-tie", tooltip="Overrule: a tie"),
        Binding("u", "undo", "Undo", id="judge-undo", tooltip="Take your last vote here back"),
        Binding("f", "train", "Train", id="judge-train", tooltip="Train on the verdicts"),
    ]

    def __init__(self) -> None:
        super().__init__()
        self.plan: Plan | None = None
        self.verdicts: dict[str, Verdict] = {}
        self.opinions: dict[str, Vote] = {}
        self.votes: Votes | None = None
        self.total = 0
        self.job: Job | None = None
        self.stop = threading.Event()
        self.progress = ""
        self.began = (0.0, 0)  # when, and how many verdicts there were then
        self.overruled: list[tuple[str, Vote, list[Vote]]] = []
        self._drawn: dict[str, tuple[Verdict, Vote | None]] = {}
        self._changed = False
        self._net: Lane | None = None

    def compose(self) -> ComposeResult:
        yield TopBar("judge")
        yield Static("", id="standing", markup=False)
        yield DataTable(id="verdicts", cursor_type="row", zebra_stripes=True)
        yield Static(NOTHING, id="no-verdicts", markup=False)
        yield Keys()

    def on_mount(self) -> None:
        self.model_changed()
        table = self.query_one(DataTable)
        for name, width in zip(COLUMNS, (1, 5, 7, 7, 8, None), strict=True):
            table.add_column(name, width=width, key=name or "apart")
        table.display = False
        self.set_interval(EVERY, self._tick)
        self._begin()

    def model_changed(self) -> None:
        """Another model answers in the chat; the judge stays who it is."""
        self.query_one(TopBar).tell(self.app.which.label)  # type: ignore[attr-defined]

    def on_screen_resume(self) -> None:
        self.model_changed()
        if self.plan is not None:
            self._reread()

    def on_unmount(self) -> None:
        self.stop.set()
        if self._net is not None:
            self._net.close(0.0)

    # ------------------------------------------------------------------ what is judged

    @work(group="open", exclusive=True)
    async def _begin(self) -> None:
        known = await asyncio.to_thread(plans.read_plans)
        if known and self.plan is None:
            await self._show(known[0])

    async def _show(self, plan: Plan) -> list[Comparison]:
        """Show what there is of a judging; returns its pairs."""

        def read() -> tuple[list[Comparison], UserError | None]:
            try:
                return plans.read_planned(plan), None
            except UserError as error:  # the pairs have vanished, the verdicts have not
                return [], error

        pairs, error = await asyncio.to_thread(read)
        self.verdicts, bad = await asyncio.to_thread(read_verdicts, plan.file)
        self.votes, self.opinions = await asyncio.to_thread(_votes)
        self.plan = plan
        self.total = len(pairs) or len(self.verdicts)
        self.overruled = []
        self._drawn = {}
        self.query_one(DataTable).clear()
        if error is not None:
            self.app.show_error(error)  # type: ignore[attr-defined]
        if bad:
            self.notify(f"{bad} lines of {plan.file.name} are no verdicts; they stay as they are",
                        severity="warning")  # fmt: skip
        self._draw()
        self.query_one(DataTable).focus()
        return pairs

    @work(group="reread", exclusive=True)
    async def _reread(self) -> None:
        """Votes that were given on another screen meanwhile."""
        self.votes, self.opinions = await asyncio.to_thread(_votes)
        self._changed = True

    @work(group="judging", exclusive=True)
    async def begin(self, plan: Plan) -> None:
        """Judge what is not judged yet."""
        pairs = await self._show(plan)
        if not pairs:
            return
        plan.save()
        left = sum(pair.key not in self.verdicts for pair in pairs)
        if not left:
            self.notify("All of these pairs are judged")
            return
        lane = self.app.lane  # type: ignore[attr-defined]
        if plan.url:
            lane = self._net = self._net or Lane()
        self.stop = threading.Event()
        self.progress, self.began = "", (0.0, len(self.verdicts))
        self.job = job = Job(lane, judging(plan, pairs, self.stop), ahead=True)
        self._draw()
        self.refresh_bindings()
        try:
            async for item in job:
                if isinstance(item, Progress):
                    self.progress = item.what
                elif isinstance(item, Verdict):
                    if not self.began[0]:
                        self.began = time.monotonic(), len(self.verdicts)
                    self.progress = ""
                    self.verdicts[item.comparison.key] = item
                self._changed = True
        except Exception as error:  # told; what is judged is kept
            self.app.show_error(error)  # type: ignore[attr-defined]
        if self.job is job:
            self.job = None
            self._draw()
            self.refresh_bindings()

    # ------------------------------------------------------------------ drawing

    @property
    def current(self) -> Verdict | None:
        """The verdict that is highlighted."""
        table = self.query_one(DataTable)
        if not table.row_count:
            return None
        key = table.coordinate_to_cell_key(table.cursor_coordinate).row_key.value
        return self.verdicts.get(str(key))

    def _tick(self) -> None:
        if self._changed and self.is_current:
            self._draw()

    def _draw(self) -> None:
        self._changed = False
        table = self.query_one(DataTable)
        there = self.plan is not None
        table.display = there
        self.query_one("#no-verdicts").display = not there
        self.query_one("#standing").display = there
        if self.plan is None:
            return
        current = self.current
        added = False
        for key, verdict in self.verdicts.items():
            vote, before = self.opinions.get(key), self._drawn.get(key)
            if before is not None and before[0] is verdict and before[1] == vote:
                continue
            cells = _cells(verdict, vote)
            if before is None:
                table.add_row(*cells, key=key)
            else:
                for name, cell in zip(COLUMNS, cells, strict=True):
                    table.update_cell(key, name or "apart", cell)
            added = True
            self._drawn[key] = verdict, vote
        if added:
            if current is None:  # the first: its keys can be used now
                self.refresh_bindings()
            table.sort("apart", key=lambda cell: ORDER[cell.plain])
            if current is not None:
                row = table.get_row_index(current.comparison.key)
                table.move_cursor(row=row, animate=False)
        self.query_one("#standing", Static).update(self._standing())

    def _standing(self) -> Text:
        plan = self.plan
        assert plan is not None
        found = plans.count_verdicts(self.verdicts, self.opinions)
        pairs = "your labels" if plan.pairs == plans.LABELS else Path(plan.pairs).name
        state = (
            f"● {self.progress or 'judging'}" if self.job is not None
            else "✓ all judged" if found.judged >= self.total else "■ stopped: r goes on"
        )  # fmt: skip
        parts = [f"{found.judged} of {self.total}", state]
        began, before = self.began
        if self.job is not None and began and found.judged > before:
            each = (time.monotonic() - began) / (found.judged - before)
            parts += [f"{each:.1f} s a pair", f"≈ {duration(each * (self.total - found.judged))}"]
        how = [word for word in ("explain", "debias") if getattr(plan, word)]
        text = Text(overflow="ellipsis", no_wrap=True)
        text.append(printable(plan.judge), style="bold")
        on_pairs = f" on {pairs}" + (f" ({', '.join([plan.template or '', *how]).strip(', ')})"
                                     if plan.template or how else "")  # fmt: skip
        text.append(printable(f"{on_pairs}   ") + " · ".join(parts) + "\n")
        a = "A" if plan.pairs == plans.LABELS else "A (chosen)"
        if found.rate is not None:
            mean, low, high = (100 * share for share in found.rate)
            text.append(f"{a} wins {mean:.0f} % ({low:.0f} to {high:.0f})", style="bold")
            text.append(f" · {found.a}:{found.b}, ties {found.tie}")
        else:
            text.append("no verdict yet")
        if found.agree:
            share, count = found.agree
            text.append(f" · agrees with you {round(share * count)}/{count}")
        text.append("\n")
        biases = [
            f"{what} {100 * share[0]:.0f} %"
            for what, share in (("shown first wins", found.first),
                                ("orders disagree", found.conflicts),
                                ("longer wins", found.longer))
            if share is not None
        ]  # fmt: skip
        if found.unparsed:
            biases.append(f"unreadable {found.unparsed}")
        text.append(" · ".join(biases))
        return text

    # ------------------------------------------------------------------ keys

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        """Only what can be done now."""
        if action == "stop":
            return self.job is not None
        if action == "resume":
            return self.plan is not None and self.job is None and len(self.verdicts) < self.total
        if action in ("details", "overrule", "train"):
            return bool(self.verdicts)
        if action == "undo":
            return bool(self.overruled)
        return True

    @work(group="dialog", exclusive=True)
    async def action_new(self) -> None:
        """Choose a judge and pairs."""
        from tui.judge.form import JudgeForm

        if self.job is not None:
            self.notify("s stops this judging first", severity="warning")
            return
        plan = await self.app.push_screen_wait(JudgeForm(self.plan))
        if plan is not None:
            self.begin(plan)

    def action_stop(self) -> None:
        if self.job is not None:
            self.stop.set()
            self.job.cancel()

    def action_resume(self) -> None:
        if self.plan is not None and self.job is None:
            self.begin(self.plan)

    @work(group="dialog", exclusive=True)
    async def action_open(self) -> None:
        """An earlier judging."""
        known = await asyncio.to_thread(plans.read_plans)
        if self.job is not None:
            self.notify("s stops this judging first", severity="warning")
            return
        if not known:
            self.notify("Nothing was judged yet: n begins")
            return
        choices = [
            Choice(plan, f"{plan.judge} on {plan.pairs}", plan.template or "",
                   "▸" if plan == self.plan else " ")
            for plan in known
        ]  # fmt: skip
        plan = await self.app.push_screen_wait(
            Pick("Which judging?",
                 lambda words: [c for c in choices if words.lower() in c.text.lower()])
        )  # fmt: skip
        if plan is not None:
            await self._show(plan)
            self.refresh_bindings()

    @on(DataTable.RowSelected)
    def action_details(self) -> None:
        """Both answers of the highlighted verdict."""
        if self.current is not None and self.app.screen is self:
            self.app.push_screen(VerdictView(self))

    def move(self, by: int) -> None:
        """Highlight another verdict."""
        table = self.query_one(DataTable)
        table.move_cursor(row=max(0, min(table.cursor_row + by, table.row_count - 1)))

    def action_overrule(self, choice: str) -> None:
        """The user's own vote on the highlighted pair."""
        verdict = self.current
        if verdict is None or self.votes is None:
            return
        key = verdict.comparison.key
        before = [vote for vote in self.votes.all if vote.comparison.key == key]
        vote = plans.overrule(self.votes, verdict, choice)
        self.overruled.append((key, vote, before))
        self.opinions[key] = vote
        self.notify(f"Your vote: {SAID[choice]}; u takes it back", timeout=3)
        self._draw()
        self.refresh_bindings()

    @work(group="train", exclusive=True)
    async def action_train(self) -> None:
        """The form of a run, with the pairs that the verdicts give in it."""
        plan, verdicts, opinions = self.plan, dict(self.verdicts), dict(self.opinions)
        if plan is not None:
            path = await asyncio.to_thread(plans.write_pairs, plan, verdicts, opinions)
            self.app.train("dpo", str(path))  # type: ignore[attr-defined]

    def action_undo(self) -> None:
        """Take the last vote given here back; what it replaced is there again."""
        if not self.overruled or self.votes is None:
            return
        key, vote, before = self.overruled.pop()
        plans.take_back(self.votes, vote, before)
        self.opinions = {**self.opinions, **plans.last_votes(before)}
        if not before:
            self.opinions.pop(key, None)
        self.notify("Taken back", timeout=2)
        self._draw()
        self.refresh_bindings()


def duration(seconds: float) -> str:
    """ "40 s", "3 min", "1 h 20 min"."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60} min"


def _votes() -> tuple[Votes, dict[str, Vote]]:
    votes = Votes()
    return votes, plans.last_votes(votes.all)


def _cells(verdict: Verdict, vote: Vote | None) -> list[Text]:
    apart = plans.measure_distance(verdict, vote)
    orders = [plans.read_order(order) for order in verdict.orders[:2]]
    shares = [f"{SAID[one[0]]} {one[1]:.2f}" if one else "?" for one in [*orders, None, None][:2]]
    said = SAID[vote.choice] if vote is not None and not vote.edited else "own" if vote else ""
    prompt = " ".join(printable(verdict.prompt[-1]["content"]).split())
    mark = " " if apart is None else APART[apart]
    cells = (mark, SAID.get(verdict.choice, "?"), *shares, said, prompt[:200])
    return [Text(cell, no_wrap=True, style="bold" if mark == "≠" and n < 5 else "")
            for n, cell in enumerate(cells)]  # fmt: skip
